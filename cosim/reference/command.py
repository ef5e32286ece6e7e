"""One command: its operands, where its rows and columns are, and what errs in it."""

from __future__ import annotations

from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.tiling import Block

from .draws import WORD, draw, pick
from .numbers import Ints, wrap


class Command:
    """One command being carried out."""

    def __init__(
        self, config: AcceleratorConfig, a: Ints, w: Ints, options: CommandOptions, errors: ErrorState
    ) -> None:
        self.config, self.a, self.w, self.options, self.errors = config, a, w, options, errors
        self.batch, self.m, self.k = a.shape
        self.n = w.shape[2]
        self.checksum = config.checksum if options.check else None
        self.columns_checked = self.checksum is not None and self.checksum.column_checks
        self.injected = self.dropped = 0

    def global_row(self, b: int, m: int) -> int:
        return (self.options.first_row + b * self.m + m) % WORD

    def global_col(self, n: int) -> int:
        return (self.options.first_col + n) % WORD

    def groups(self, block: Block) -> list[range]:
        """Rows of each group of a block; all rows as one if columns are not checked."""
        stop = block.first_row + block.rows
        size = self.checksum.group_rows if self.checksum is not None else block.rows
        return [range(start, min(start + size, stop)) for start in range(block.first_row, stop, size)]

    def tiles(self, block: Block) -> range:
        return range(block.first_col_tile, block.first_col_tile + block.col_tiles)

    def tile_columns(self, tile: int) -> range:
        return range(tile * self.config.cols, min((tile + 1) * self.config.cols, self.n))

    def segment_columns(self, tile: int, segment: int) -> range:
        """Global columns of a segment, as n; empty if it is left out."""
        columns = self.config.segments[segment]
        first = tile * self.config.cols
        return range(min(first + columns.start, self.n), min(first + columns.stop, self.n))

    def error_of(self, domain: int, **place: int) -> int | None:
        """The draw, if it is an error."""
        drawn = draw(self.errors.seed, self.options.error_key, **place)
        if drawn >= self.errors.rate_of(domain):
            return None
        self.injected += 1
        return drawn

    def err(self, value: int, drawn: int) -> int:
        """A sum of an array column with its error: a bit inverted, or with ``razor`` dropped."""
        if self.config.razor:
            self.dropped += 1
            return 0
        picked = pick(drawn)
        bit = sum(threshold <= picked for threshold in self.errors.bits)
        return int(wrap(value ^ (1 << bit), 32))
