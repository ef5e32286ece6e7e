"""Where the elements of a matrix lie in memory: the rule in Python, for the host and the tests.

A matrix lies in tiles one after the other, the rows of a tile one after the other. Row-major is one tile. Otherwise a
tile is what the fetcher reads at once or what the drain writes of one block, and tiles are in the order in which the
hardware walks them; each of their rows is whole beats long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .config import AcceleratorConfig
from .tiling import split_extent

Pieces = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tile:
    """A tile of a matrix: `rows` rows from `first_row`, `cols` columns from `first_col`.

    Its first byte is `offset` bytes after that of the matrix; its rows are `row_bytes` bytes apart.
    """

    first_row: int
    rows: int
    first_col: int
    cols: int
    offset: int
    row_bytes: int


@dataclass(frozen=True)
class MatrixLayout:
    """A matrix cut into tiles.

    Attributes
    ----------
    row_pieces, col_pieces : tuple of (int, int)
        First row and number of rows of each row of tiles; likewise of columns.
    col_bytes : tuple of int
        Bytes from row to row of the tiles of each piece of columns.
    item_bytes : int
        Bytes of an element.
    """

    row_pieces: Pieces
    col_pieces: Pieces
    col_bytes: tuple[int, ...]
    item_bytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in all its tiles: lda, ldw or ldy of the command."""
        return sum(self.col_bytes)

    @property
    def rows(self) -> int:
        """Rows of the matrix."""
        first, count = self.row_pieces[-1]
        return first + count

    @property
    def size_bytes(self) -> int:
        """Bytes of the matrix."""
        return self.rows * self.row_bytes

    def tiles(self) -> Iterator[Tile]:
        """In the order in which they lie in memory."""
        offset = 0
        for first_row, rows in self.row_pieces:
            for (first_col, cols), row_bytes in zip(self.col_pieces, self.col_bytes, strict=True):
                yield Tile(first_row, rows, first_col, cols, offset, row_bytes)
                offset += rows * row_bytes


def row_major(rows: int, cols: int, row_bytes: int, item_bytes: int = 1) -> MatrixLayout:
    """A matrix (rows, cols) whose rows are `row_bytes` bytes apart."""
    return MatrixLayout(((0, rows),), ((0, cols),), (row_bytes,), item_bytes)


def tiled_activations(config: AcceleratorConfig, m: int, k: int) -> MatrixLayout:
    """A (m, k): a tile is a slab of K of the rows of one block."""
    return _tiled(config, _blocks(config, m), k, config.rows, config.slab_k_tiles, 1)


def tiled_weights(config: AcceleratorConfig, k: int, n: int) -> MatrixLayout:
    """W (k, n): the slabs of one block of columns follow each other, so that together they are one tile."""
    return _tiled(config, ((0, k),), n, config.cols, config.block_col_tiles, 1)


def tiled_output(config: AcceleratorConfig, m: int, n: int, item_bytes: int) -> MatrixLayout:
    """Y (m, n), elements of `item_bytes` bytes: a tile is a block."""
    return _tiled(config, _blocks(config, m), n, config.cols, config.block_col_tiles, item_bytes)


def _blocks(config: AcceleratorConfig, m: int) -> Pieces:
    return tuple(split_extent(m, config.block_rows))


def _tiled(
    config: AcceleratorConfig, rows: Pieces, extent: int, unit: int, largest: int, item_bytes: int
) -> MatrixLayout:
    pieces = tuple(
        (start * unit, min(size * unit, extent - start * unit))
        for start, size in split_extent(-(-extent // unit), largest)
    )
    bus = config.bus_bytes
    return MatrixLayout(rows, pieces, tuple(-(-count * item_bytes // bus) * bus for _, count in pieces), item_bytes)
