"""Lays a matrix product out in memory, makes its command, and checks every byte afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.matrix_layout import MatrixLayout, row_major, tiled_activations, tiled_output, tiled_weights
from brownout.hw.tiling import with_block_rows

from .reference import golden
from .reference.golden import ChannelTable

GUARD = 0xAA
"""Fills what no operand occupies; must still be there afterwards."""

GUARD_BYTES = 256
"""Between operands, and before the first and after the last one."""


class ScoreboardError(AssertionError):
    """Memory after a command is not what the golden model says."""


@dataclass(frozen=True)
class _Operand:
    """One operand in memory."""

    address: int
    batch_stride: int
    shape: tuple[int, int, int]
    layout: MatrixLayout

    def write(self, memory: NDArray[np.uint8], values: NDArray[Any], origin: int = 0) -> None:
        """Put `values` (batch, rows, columns) into `memory`, which begins at `origin`."""
        source = np.ascontiguousarray(values).view(np.uint8)
        source = np.broadcast_to(source, (self.shape[0], *source.shape[-2:]))
        for part, view in self._tiles(memory, origin):
            view[:] = source[part]

    def read(self, memory: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bytes of the elements: (batch, rows, row bytes)."""
        batch, rows, cols = self.shape
        values = np.empty((batch, rows, cols * self.layout.item_bytes), np.uint8)
        for part, view in self._tiles(memory, 0):
            values[part] = view
        return values

    def _tiles(
        self, memory: NDArray[np.uint8], origin: int
    ) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.uint8]]]:
        """Tiles as parts (batch, rows, row bytes) of the operand, and views of their memory."""
        item_bytes = self.layout.item_bytes
        for tile in self.layout.tiles():
            columns = slice(tile.first_col * item_bytes, (tile.first_col + tile.cols) * item_bytes)
            view = np.lib.stride_tricks.as_strided(
                memory[self.address + tile.offset - origin :],
                (self.shape[0], tile.rows, tile.cols * item_bytes),
                (self.batch_stride, tile.row_bytes, 1),
            )
            yield (slice(None), slice(tile.first_row, tile.first_row + tile.rows), columns), view


class GemmCase:
    """One GEMM command with its operands, and what memory has to hold when it is done.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration that gives the alignment of rows in memory.
    a : int8 array (M, K) or (B, M, K)
    w : int8 array (K, N) or (B, K, N)
        Weights; without a batch dimension where `a` has one, all products share them (stride 0).
    channels : ChannelTable, optional
        Bias and scale of each output channel.
    requantise : bool
        Scaled output instead of int32.
    bits : int
        Of scaled outputs: 8 or 16.
    base : int
        Where in memory the case begins.
    row_padding : int
        Bus words beyond what alignment needs between the rows of each operand that is not tiled, and between the
        products of a batch.
    tiled : int
        Which operands lie in tiles: `GemmFlag` bits A_TILED, W_TILED, Y_TILED.
    block_rows : int
        Most rows of a block; 0 for the configuration's.
    keep : bool
        Whether KEEP_ACTIVATIONS is set.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        *,
        channels: ChannelTable | None = None,
        requantise: bool = False,
        bits: int = 8,
        base: int = 0,
        row_padding: int = 0,
        tiled: int = 0,
        block_rows: int = 0,
        keep: bool = False,
    ) -> None:
        self._bus_bytes = config.bus_bytes
        self._padding = row_padding * config.bus_bytes
        self._base = base
        self._next = base + GUARD_BYTES
        batch = len(a) if a.ndim == 3 else 1
        self._a, self._w = a, w
        self._channels, self._requantise, self._bits = channels, requantise, bits
        self._flags = GemmFlag(tiled) | (GemmFlag.KEEP_ACTIVATIONS if keep else GemmFlag(0))
        self._block_rows = block_rows
        config = with_block_rows(config, block_rows)
        (m, k), n = a.shape[-2:], w.shape[-1]
        a_layout, w_layout = self._row_major(m, k, 1), self._row_major(k, n, 1)
        item_bytes = bits // 8 if requantise else 4
        y_layout = self._row_major(m, n, item_bytes)
        if tiled & GemmFlag.A_TILED:
            a_layout = tiled_activations(config, m, k)
        if tiled & GemmFlag.W_TILED:
            w_layout = tiled_weights(config, k, n)
        if tiled & GemmFlag.Y_TILED:
            y_layout = tiled_output(config, m, n, item_bytes)
        self._a_at = self._place((batch, m, k), a_layout)
        self._w_at = self._place((batch, k, n), w_layout, shared=w.ndim == 2)
        self._table_at = self._next
        if channels is not None:
            self._next = self._align(self._next + 16 * n) + GUARD_BYTES
        self._read_limit = self._next - GUARD_BYTES
        self._y_at = self._place((batch, m, n), y_layout)
        self._write_limit = self._next - GUARD_BYTES
        self.end = self._next
        """First byte after the case."""

    def _align(self, value: int) -> int:
        return -(-value // self._bus_bytes) * self._bus_bytes

    def _row_major(self, rows: int, cols: int, item_bytes: int) -> MatrixLayout:
        return row_major(rows, cols, self._align(cols * item_bytes) + self._padding, item_bytes)

    def _place(self, shape: tuple[int, int, int], layout: MatrixLayout, *, shared: bool = False) -> _Operand:
        batch, address = shape[0], self._next
        product_bytes = layout.size_bytes + self._padding
        self._next = address + (1 if shared else batch) * product_bytes + GUARD_BYTES
        return _Operand(address, 0 if shared or batch == 1 else product_bytes, shape, layout)

    def command(self, **changes: Any) -> GemmCommand:
        """The command; `changes` replace fields of it."""
        (batch, m, n), k = self._y_at.shape, self._a.shape[-1]
        operands = (self._a_at, self._w_at, self._y_at)
        flags = self._flags
        if self._channels is not None:
            flags |= GemmFlag.CHANNEL
        if self._requantise:
            flags |= GemmFlag.REQUANT | (GemmFlag.INT16 if self._bits == 16 else 0)
        fields: dict[str, Any] = {
            **{"m": m, "n": n, "k": k, "batch": batch, "flags": int(flags), "block_rows": self._block_rows},
            **{"a_addr": self._a_at.address, "w_addr": self._w_at.address, "y_addr": self._y_at.address},
            **{name: at.layout.row_bytes for name, at in zip(("lda", "ldw", "ldy"), operands, strict=True)},
            **{"a_batch_stride": self._a_at.batch_stride, "w_batch_stride": self._w_at.batch_stride},
            "y_batch_stride": self._y_at.batch_stride,
            "channel_addr": 0 if self._channels is None else self._table_at,
            # The windows hold the operands and not a byte more.
            **{"read_base": self._a_at.address, "read_limit": self._read_limit},
            **{"write_base": self._y_at.address, "write_limit": self._write_limit},
        }
        return GemmCommand(**{**fields, **changes})

    def image(self) -> NDArray[np.uint8]:
        """Memory from the case's base to its end before the command: operands, and guard bytes everywhere else."""
        image = np.full(self.end - self._base, GUARD, np.uint8)
        for operand, values in ((self._a_at, self._a), (self._w_at, self._w)):
            operand.write(image, values, self._base)
        if self._channels is not None:
            records = self._channels.records()
            image[self._table_at - self._base :][: records.size] = records
        return image

    def write(self, memory: NDArray[np.uint8]) -> None:
        """Fill the case's part of `memory`."""
        memory[self._base : self.end] = self.image()

    def fill_output(self, memory: NDArray[np.uint8], values: NDArray[Any]) -> None:
        """Put `values` (B, M, N), int32, int16 or int8 like the output, where the output will be."""
        self._y_at.write(memory, values)

    def expected(self) -> NDArray[Any]:
        """What the golden model says: (B, M, N), int32, int16 or int8."""
        result = golden.gemm(self._a, self._w, self._channels, self._requantise, self._bits)
        return result.reshape(self._y_at.shape)

    def result(self, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """What lies in `memory`: (B, M, N), int32, int16 or int8."""
        return self._y_at.read(memory).view(f"int{self._bits if self._requantise else 32}")

    def check(self, memory: NDArray[np.uint8]) -> None:
        """Compare the output with the golden model and everything around it with what was there before.

        Raises
        ------
        MismatchError
            Names the first element or byte that differs.
        """
        expected, result = self.expected(), self.result(memory)
        if not np.array_equal(expected, result):
            wrong = np.argwhere(expected != result)
            where = tuple(int(i) for i in wrong[0])
            raise ScoreboardError(
                f"{len(wrong)} of {expected.size} elements differ; first at (batch, row, column) {where}: "
                f"{result[where]} instead of {expected[where]}"
            )
        self.check_around(memory)

    def check_around(self, memory: NDArray[np.uint8]) -> None:
        """Compare everything around the output with what was there before, whatever the output is.

        Raises
        ------
        MismatchError
            Names the first byte that differs.
        """
        image = self.image()
        self._y_at.write(image, self.result(memory), self._base)
        self._compare(image, memory, "bytes outside the output changed")

    def check_untouched(self, memory: NDArray[np.uint8]) -> None:
        """Check that nothing was written at all, as after a command that was refused.

        Raises
        ------
        MismatchError
            Names the first byte that differs.
        """
        self._compare(self.image(), memory, "bytes changed although the command was refused")

    def _compare(self, image: NDArray[np.uint8], memory: NDArray[np.uint8], complaint: str) -> None:
        changed = np.flatnonzero(image != memory[self._base : self.end])
        if changed.size:
            raise ScoreboardError(f"{changed.size} {complaint}, first at 0x{int(changed[0]) + self._base:x}")
