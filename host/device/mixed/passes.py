"""Pieces of a product that can be replayed: where they are, what errs in them, and which are chosen.

A piece is one weight tile against rows of a block: rows whose errors depend on no others. With late carries that is the
whole pass, because each row errs by what the row before has left; otherwise it is a group, or R rows where columns
are not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from ..product.operands import GemmShape
from ..twin.findings import Findings
from ..twin.geometry import geometry
from .options import MixedOptions

Places = NDArray[np.int64]


@dataclass(frozen=True)
class OutputTile:
    """A part of an output: the rows of a piece by the columns of a column tile.

    Attributes
    ----------
    batch : int
        Which product of the batch.
    first_row, rows, first_col, cols : int
        Extents in that product.
    """

    batch: int
    first_row: int
    rows: int
    first_col: int
    cols: int

    def __str__(self) -> str:
        last_row, last_col = self.first_row + self.rows - 1, self.first_col + self.cols - 1
        return f"batch {self.batch}, rows {self.first_row}..{last_row}, columns {self.first_col}..{last_col}"


@dataclass(frozen=True)
class TileErrors:
    """What erred in one tile. Each array is int64 (3, count): places, and the change of the sum there.

    Attributes
    ----------
    outputs : array
        Rows and columns, counted from the tile's first.
    checks : array
        Rows, and segment * checks + check.
    digits : array
        Groups, counted from the tile's first, and columns; the change is modulo 2^32.
    """

    outputs: Places
    checks: Places
    digits: Places

    def __bool__(self) -> bool:
        return any(errors.size for errors in (self.outputs, self.checks, self.digits))


def _row_pieces(config: AcceleratorConfig, m: int) -> NDArray[np.int64]:
    """First row of each piece, and M."""
    row_blocks = geometry(config, m, 1).row_blocks
    if config.error_model.settles:
        return row_blocks
    checked = config.checksum is not None and config.checksum.column_checks
    size = config.checksum.group_rows if config.checksum is not None and checked else config.rows
    firsts = [first for start, end in pairwise(row_blocks.tolist()) for first in range(start, end, size)]
    return np.array([*firsts, m], np.int64)


@dataclass(frozen=True)
class LocatedErrors:
    """What erred in a product, and where.

    Attributes
    ----------
    findings : Findings
    tiles : three int64 arrays
        Number of the tile of each error of outputs, of checks and of digit rows.
    """

    findings: Findings
    tiles: tuple[Places, Places, Places]


class TileMap:
    """Tiles of an (M, N) product, by number: pieces of rows outside, column tiles inside.

    Parameters
    ----------
    config : AcceleratorConfig
    m, n : int
        Extents of the product.
    """

    def __init__(self, config: AcceleratorConfig, m: int, n: int) -> None:
        self.config, self.n = config, n
        pieces = geometry(config, m, n)
        self._group_first = pieces.group_first
        self._row_pieces = _row_pieces(config, m)
        self.col_tiles = int(pieces.col_blocks[-1])
        self.tiles = (len(self._row_pieces) - 1) * self.col_tiles
        self._piece_of_row = np.repeat(np.arange(len(self._row_pieces) - 1), np.diff(self._row_pieces))
        self._tile_of_col = np.arange(n) // config.cols
        self._checks_per_tile = len(config.check_columns)

    def tile(self, number: int, batch: int = 0) -> OutputTile:
        """Where a tile is."""
        piece, column = divmod(number, self.col_tiles)
        first_row, end_row = (int(row) for row in self._row_pieces[piece : piece + 2])
        first_col = column * self.config.cols
        return OutputTile(batch, first_row, end_row - first_row, first_col, min(self.config.cols, self.n - first_col))

    def locate(self, findings: Findings) -> LocatedErrors:
        """Which tile each error is in."""
        errors = findings.errors
        assert errors is not None
        outputs, checks, digits = (kind.arrays() for kind in (errors.outputs, errors.checks, errors.digits))
        return LocatedErrors(
            findings,
            (
                self._piece_of_row[outputs[0]] * self.col_tiles + self._tile_of_col[outputs[1]],
                self._piece_of_row[checks[0]] * self.col_tiles + checks[1] // max(1, self._checks_per_tile),
                self._piece_of_row[self._group_first[digits[0]]] * self.col_tiles + self._tile_of_col[digits[1]],
            ),
        )

    def faulty(self, located: LocatedErrors) -> Places:
        """Numbers of the tiles in which something errs, ascending."""
        return np.flatnonzero(np.bincount(np.concatenate(located.tiles), minlength=self.tiles))

    def errors_in(self, located: LocatedErrors, number: int) -> TileErrors:
        """What errs in one tile, with places counted from its first row and column."""
        tile, errors = self.tile(number), located.findings.errors
        assert errors is not None
        first_group = int(np.searchsorted(self._group_first, tile.first_row))
        origins = (
            (tile.first_row, tile.first_col),
            (tile.first_row, number % self.col_tiles * self._checks_per_tile),
            (first_group, tile.first_col),
        )
        found = []
        for kind, tiles, (row, col) in zip(
            (errors.outputs, errors.checks, errors.digits), located.tiles, origins, strict=True
        ):
            here = np.flatnonzero(tiles == number)
            rows, cols, deltas = kind.arrays()
            found.append(np.stack([rows[here] - row, cols[here] - col, deltas[here]]))
        return TileErrors(*found)


@lru_cache(maxsize=256)
def tile_map(config: AcceleratorConfig, m: int, n: int) -> TileMap:
    """Tiles of a product with M rows and N columns."""
    return TileMap(config, m, n)


def pass_count(config: AcceleratorConfig, shape: GemmShape) -> int:
    """Pieces of all passes of a call."""
    return shape.batch * tile_map(config, shape.m, shape.n).tiles * -(-shape.k // config.rows)


@dataclass(frozen=True)
class PassChoice:
    """A pass to be replayed.

    Attributes
    ----------
    batch, tile : int
        Product of the batch, and number of the tile in it.
    k_tile : int
        k-tile of the pass; with `search` the one at which the search for a faulty pass begins.
    search : bool
        Something errs in this tile, but in which k-tiles is not known.
    """

    batch: int
    tile: int
    k_tile: int
    search: bool


def choose(
    config: AcceleratorConfig, options: MixedOptions, shape: GemmShape, number: int, faulty: Sequence[Places]
) -> list[PassChoice]:
    """Choose the passes of a product that are replayed.

    Parameters
    ----------
    config : AcceleratorConfig
    options : MixedOptions
    shape : GemmShape
        Extents of the call.
    number : int
        How many calls came before: the same call has other passes replayed every time.
    faulty : sequence of int64 arrays
        Numbers of the faulty tiles of each product of the batch; empty if nothing can err.
    """
    rng = np.random.default_rng((options.seed, number))
    tiles = tile_map(config, shape.m, shape.n).tiles
    k_tiles = -(-shape.k // config.rows)
    wanted = options.passes_per_product
    chosen: dict[tuple[int, int], PassChoice] = {}
    if options.selection != "random" and len(faulty):
        known = np.concatenate([batch * tiles + numbers for batch, numbers in enumerate(faulty)])
        picked = rng.choice(known, min(wanted, len(known)), replace=False) if len(known) else known
        for place, k_tile in zip(picked, rng.integers(k_tiles, size=len(picked)), strict=True):
            batch, tile = divmod(int(place), tiles)
            # A flip is drawn for the final sum, whatever its k-tiles are.
            chosen[int(place), int(k_tile)] = PassChoice(batch, tile, int(k_tile), config.error_model.settles)
    if options.selection != "faulty":
        wanted = min(wanted, shape.batch * tiles * k_tiles)
        while len(chosen) < wanted:
            place, k_tile = int(rng.integers(shape.batch * tiles)), int(rng.integers(k_tiles))
            chosen.setdefault((place, k_tile), PassChoice(*divmod(place, tiles), k_tile, False))
    return list(chosen.values())
