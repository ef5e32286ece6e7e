"""How the hardware cuts a product into blocks and passes: the rule in Python, for the host and the tests.

A product is computed block by block (batch outermost, then rows of M, then column tiles of N); inside a block slab
by slab along K, inside a slab k-tile by k-tile, inside a k-tile column tile by column tile. The innermost
unit is a *pass*: one weight tile (R x C) against the rows of one M block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .config import AcceleratorConfig

BALANCED_PIECES = 4
"""So many last pieces of an extent are made equal."""


def split_extent(total: int, largest: int) -> Iterator[tuple[int, int]]:
    """Cut `total` into pieces of at most `largest`, the last few of equal size.

    Equal pieces instead of full ones and a small rest: a pass with few rows cannot hide the load of its weights, and
    a block of few column tiles has little use of its activations. As long as more than `BALANCED_PIECES` full pieces
    are left, a full one is taken; then ceil(left / ceil(left / largest)).

    Yields
    ------
    (int, int)
        Start and length of each piece.
    """
    start = 0
    while (left := total - start) > 0:
        pieces = -(-left // largest)
        size = largest if pieces > BALANCED_PIECES else -(-left // pieces)
        yield start, size
        start += size


@dataclass(frozen=True)
class Block:
    """One block of the output: `rows` rows from `first_row`, `col_tiles` column tiles from `first_col_tile`."""

    batch: int
    first_row: int
    rows: int
    first_col_tile: int
    col_tiles: int


def blocks(config: AcceleratorConfig, m: int, n: int, batch: int = 1) -> Iterator[Block]:
    """All blocks of a product in the order in which the hardware computes them."""
    col_tiles = -(-n // config.cols)
    for index in range(batch):
        for first_row, rows in split_extent(m, config.block_rows):
            for first_tile, tiles in split_extent(col_tiles, config.block_col_tiles):
                yield Block(index, first_row, rows, first_tile, tiles)


def ideal_cycles(config: AcceleratorConfig, m: int, n: int, k: int, batch: int = 1) -> int:
    """Cycles of a product on an array that is never idle: M * ceil(K/R) * ceil(N/C)."""
    return batch * m * -(-k // config.rows) * -(-n // config.cols)


def slabs(config: AcceleratorConfig, k: int) -> Iterator[tuple[int, int]]:
    """First k-tile and number of k-tiles of each slab, the unit in which operands are fetched."""
    return split_extent(-(-k // config.rows), config.slab_k_tiles)
