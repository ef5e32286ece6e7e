"""Where blocks, groups and segments of one product are, as arrays for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import split_extent


@dataclass(frozen=True)
class PassGeometry:
    """Pieces of an (M, N) product.

    Attributes
    ----------
    row_blocks : int64 array
        First row of each row of blocks, and M.
    col_blocks : int64 array
        First column tile of each column of blocks, and the number of tiles.
    group_first, group_rows : int32 arrays
        First row and rows of each group, over all rows of blocks; empty without column checks.
    segment_starts : int64 array
        First column of each segment that is not left out, and N; only N without checksum units.
    segment_of : int32 array (N,)
        Segment of each column; empty without checksum units.
    domains : int64 array (N,)
        Voltage domain of each column.
    """

    row_blocks: NDArray[np.int64]
    col_blocks: NDArray[np.int64]
    group_first: NDArray[np.int32]
    group_rows: NDArray[np.int32]
    segment_starts: NDArray[np.int64]
    segment_of: NDArray[np.int32]
    domains: NDArray[np.int64]

    @property
    def segments(self) -> int:
        """Segments of a row."""
        return len(self.segment_starts) - 1

    @property
    def blocks(self) -> int:
        """Blocks of the product."""
        return (len(self.row_blocks) - 1) * (len(self.col_blocks) - 1)


def _frozen(values: Any, dtype: Any) -> NDArray[Any]:
    array = np.array(values, dtype)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=256)
def geometry(config: AcceleratorConfig, m: int, n: int) -> PassGeometry:
    """Pieces of a product with M rows and N columns."""
    tiles = -(-n // config.cols)
    row_blocks = [*(start for start, _ in split_extent(m, config.block_rows)), m]
    col_blocks = [*(start for start, _ in split_extent(tiles, config.block_col_tiles)), tiles]
    groups: list[tuple[int, int]] = []
    if config.checksum is not None and config.checksum.column_checks:
        size = config.checksum.group_rows
        for start, end in pairwise(row_blocks):
            groups += [(first, min(size, end - first)) for first in range(start, end, size)]
    firsts = [tile * config.cols + segment.start for tile in range(tiles) for segment in config.segments]
    starts = [*(first for first in firsts if first < n), n]
    return PassGeometry(
        row_blocks=_frozen(row_blocks, np.int64),
        col_blocks=_frozen(col_blocks, np.int64),
        group_first=_frozen([first for first, _ in groups], np.int32),
        group_rows=_frozen([rows for _, rows in groups], np.int32),
        segment_starts=_frozen(starts, np.int64),
        segment_of=_frozen(np.repeat(np.arange(len(starts) - 1), np.diff(starts)), np.int32),
        domains=_frozen([config.domain_of_column(col % config.cols) for col in range(n)], np.int64),
    )
