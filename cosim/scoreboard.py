"""Lays a matrix product out in memory, makes its command, and checks every byte afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig

from . import golden
from .golden import ChannelTable

GUARD = 0xAA
"""Fills what no operand occupies; must still be there afterwards."""

GUARD_BYTES = 256
"""Between operands, and before the first and after the last one."""


class MismatchError(AssertionError):
    """Memory after a command is not what the golden model says."""


@dataclass(frozen=True)
class _Operand:
    """Rows of one operand in memory."""

    address: int
    row_stride: int
    batch_stride: int
    shape: tuple[int, int, int]
    item_bytes: int

    def view(self, memory: NDArray[np.uint8], origin: int = 0) -> NDArray[np.uint8]:
        """Bytes of the elements, shape (batch, rows, row bytes), sharing `memory`, which begins at `origin`."""
        batch, rows, cols = self.shape
        return np.lib.stride_tricks.as_strided(
            memory[self.address - origin :],
            (batch, rows, cols * self.item_bytes),
            (self.batch_stride, self.row_stride, 1),
        )


class GemmCase:
    """One GEMM command with its operands, and what memory has to hold when it is done.

    Parameters
    ----------
    config : AcceleratorConfig
        Gives the alignment.
    a : int8 array (M, K) or (B, M, K)
    w : int8 array (K, N) or (B, K, N)
        Without a batch dimension where `a` has one: shared by all products (stride 0).
    channels : ChannelTable, optional
        Bias and scale of each output channel.
    requantise : bool
        int8 output instead of int32.
    base : int
        Where in memory the case begins.
    row_padding : int
        Bus words between the rows of each operand, beyond what alignment needs.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        *,
        channels: ChannelTable | None = None,
        requantise: bool = False,
        base: int = 0,
        row_padding: int = 0,
    ) -> None:
        self._bus_bytes = config.bus_bytes
        self._padding = row_padding * config.bus_bytes
        self._base = base
        self._next = base + GUARD_BYTES
        batch = len(a) if a.ndim == 3 else 1
        self._a, self._w = a, w
        self._channels, self._requantise = channels, requantise
        (m, k), n = a.shape[-2:], w.shape[-1]
        self._a_at = self._place((batch, m, k), 1)
        self._w_at = self._place((batch, k, n), 1, shared=w.ndim == 2)
        self._table_at = self._next
        if channels is not None:
            self._next = self._align(self._next + 16 * n) + GUARD_BYTES
        self._read_limit = self._next - GUARD_BYTES
        self._y_at = self._place((batch, m, n), 1 if requantise else 4)
        self._write_limit = self._next - GUARD_BYTES
        self.end = self._next
        """First byte after the case."""

    def _align(self, value: int) -> int:
        return -(-value // self._bus_bytes) * self._bus_bytes

    def _place(self, shape: tuple[int, int, int], item_bytes: int, *, shared: bool = False) -> _Operand:
        batch, rows, cols = shape
        address = self._next
        row_stride = self._align(cols * item_bytes) + self._padding
        batch_stride = 0 if shared else rows * row_stride + self._padding
        products = 1 if shared else batch
        self._next = address + products * (rows * row_stride + self._padding) + GUARD_BYTES
        return _Operand(address, row_stride, batch_stride if batch > 1 else 0, shape, item_bytes)

    def command(self, **changes: Any) -> GemmCommand:
        """The command; `changes` replace fields of it."""
        (batch, m, n), k = self._y_at.shape, self._a.shape[-1]
        flags = GemmFlag(0)
        if self._channels is not None:
            flags |= GemmFlag.CHANNEL
        if self._requantise:
            flags |= GemmFlag.REQUANT
        fields: dict[str, Any] = {
            **{"m": m, "n": n, "k": k, "batch": batch, "flags": int(flags)},
            **{"a_addr": self._a_at.address, "w_addr": self._w_at.address, "y_addr": self._y_at.address},
            **{"lda": self._a_at.row_stride, "ldw": self._w_at.row_stride, "ldy": self._y_at.row_stride},
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
            operand.view(image, self._base)[:] = np.ascontiguousarray(values).view(np.uint8)
        if self._channels is not None:
            records = self._channels.records()
            image[self._table_at - self._base :][: records.size] = records
        return image

    def write(self, memory: NDArray[np.uint8]) -> None:
        """Fill the case's part of `memory`."""
        memory[self._base : self.end] = self.image()

    def fill_output(self, memory: NDArray[np.uint8], values: NDArray[Any]) -> None:
        """Put `values` (B, M, N), int32 or int8 like the output, where the output will be."""
        self._y_at.view(memory)[:] = np.ascontiguousarray(values).view(np.uint8)

    def expected(self) -> NDArray[Any]:
        """What the golden model says: (B, M, N), int32 or int8."""
        result = golden.gemm(self._a, self._w, self._channels, self._requantise)
        return result.reshape(self._y_at.shape)

    def result(self, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """What lies in `memory`: (B, M, N), int32 or int8."""
        return np.ascontiguousarray(self._y_at.view(memory)).view(np.int8 if self._requantise else np.int32)

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
            raise MismatchError(
                f"{len(wrong)} of {expected.size} elements differ; first at (batch, row, column) {where}: "
                f"{result[where]} instead of {expected[where]}"
            )
        image = self.image()
        self._y_at.view(image, self._base)[:] = expected.view(np.uint8)
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
            raise MismatchError(f"{changed.size} {complaint}, first at 0x{int(changed[0]) + self._base:x}")
