"""Lays the operands of attention out in memory, makes its command, and checks every byte afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import AttentionCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import attention_rows

from .reference.attention import AttentionScales
from .scoreboard import GUARD, GUARD_BYTES, ScoreboardError


def largest_block(config: AcceleratorConfig, queries: int, keys: int) -> int:
    """As `brownout.hw.tiling.attention_rows`.

    Raises
    ------
    ValueError
        The scores of one query do not fit.
    """
    rows = attention_rows(config, queries, keys)
    if not rows:
        most = config.block_rows * config.block_col_tiles * config.cols
        raise ValueError(f"keys must be at most {most}, the scores of an accumulator bank, not {keys}")
    return rows


class AttentionCase:
    """One ATTENTION command with its operands.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration that gives the alignment of rows in memory.
    q, k, v : int8 arrays (B, L, E), (B, S, E), (B, S, V)
        Operands; keys as rows, which are written as columns.
    scales : AttentionScales
        The command's factors.
    block_rows : int, optional
        Queries of a block; by default `largest_block`.
    base : int
        Where in memory the case begins.
    row_padding : int
        Bus words beyond what alignment needs between rows.
    log_records : int
        Room in the log.
    fields : dict of str to int
        Further fields of the command.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        q: NDArray[np.int8],
        k: NDArray[np.int8],
        v: NDArray[np.int8],
        scales: AttentionScales,
        *,
        block_rows: int | None = None,
        base: int = 0,
        row_padding: int = 0,
        log_records: int = 0,
        **fields: int,
    ) -> None:
        self.config, self.scales = config, scales
        self.q, self.k, self.v = q, k, v
        heads, queries, width = q.shape
        keys, columns = v.shape[1:]
        self.block_rows = block_rows or largest_block(config, queries, keys)
        self.fields = fields
        self._next, self._bus = base + GUARD_BYTES, config.bus_bytes
        self._base, self._padding = base, row_padding
        self._places = {
            name: self._place(heads, *shape)
            for name, shape in (("a", (queries, width)), ("w", (width, keys)), ("v", (keys, columns)))
        }
        self._written = self._next
        self._places["y"] = self._place(heads, queries, columns)
        self.log_bytes = log_records * config.log_record_bytes
        self.log_addr = self._next if log_records else 0
        self._next += -(-self.log_bytes // self._bus) * self._bus + GUARD_BYTES
        self._shape = (heads, queries, columns)

    def _place(self, heads: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Address, bytes from row to row and from head to head."""
        stride = (-(-columns // self._bus) + self._padding) * self._bus
        address, batch = self._next, rows * stride
        self._next += -(-heads * batch // GUARD_BYTES) * GUARD_BYTES + GUARD_BYTES
        return address, stride, batch

    @property
    def end(self) -> int:
        """First byte after the case."""
        return self._next

    def command(self, **changes: Any) -> AttentionCommand:
        """The command, with some fields changed."""
        heads, queries, width = self.q.shape
        values: dict[str, Any] = {
            "batch": heads,
            "m": queries,
            "k": width,
            "keys": self.v.shape[1],
            "n": self.v.shape[2],
            "block_rows": self.block_rows,
            "read_base": self._base,
            "read_limit": self._written,
            "write_base": self._written,
            "write_limit": self._next,
            "log_addr": self.log_addr,
            "log_bytes": self.log_bytes,
            **vars(self.scales),
            **self.fields,
        }
        for name, (address, stride, batch) in self._places.items():
            values |= {f"{name}_addr": address, f"ld{name}": stride, f"{name}_batch_stride": batch}
        return AttentionCommand(**(values | changes))

    def write(self, memory: NDArray[np.uint8], previous: NDArray[np.int8] | None = None) -> None:
        """Put operands, what the output holds before, and guards into memory."""
        memory[self._base : self._next] = GUARD
        for name, values in (("a", self.q), ("w", self.k.transpose(0, 2, 1)), ("v", self.v)):
            self._view(memory, name, values.shape)[:] = values
        if previous is not None:
            self._view(memory, "y", self._shape)[:] = previous

    def read(self, memory: NDArray[np.uint8]) -> NDArray[np.int8]:
        """The output, (B, L, V)."""
        return self._view(memory, "y", self._shape).copy()

    def check(self, memory: NDArray[np.uint8], output: NDArray[np.int8], log: bytes = b"") -> None:
        """Compare all that may have been written.

        Raises
        ------
        ScoreboardError
            A byte differs.
        """
        if (found := self.read(memory)).tobytes() != output.tobytes():
            places = np.argwhere(found != output)
            head, row, column = places[0]
            raise ScoreboardError(
                f"{len(places)} of {output.size} elements differ; first: head {head}, query {row}, column {column} is "
                f"{found[head, row, column]}, not {output[head, row, column]}"
            )
        region = memory[self._written : self._next].copy()
        self._view(region, "y", self._shape, self._written)[:] = np.int8(np.uint8(GUARD).astype(np.int8))
        if self.log_addr:
            start = self.log_addr - self._written
            if region[start : start + len(log)].tobytes() != log:
                raise ScoreboardError("the log differs")
            region[start : start + len(log)] = GUARD
        if (wrong := np.flatnonzero(region != GUARD)).size:
            raise ScoreboardError(f"address {self._written + int(wrong[0])} was written, and belongs to nothing")

    def _view(self, memory: NDArray[np.uint8], name: str, shape: tuple[int, ...], origin: int = 0) -> NDArray[np.int8]:
        address, stride, batch = self._places[name]
        return np.lib.stride_tricks.as_strided(memory[address - origin :].view(np.int8), shape, (batch, stride, 1))
