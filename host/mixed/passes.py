"""Tiles and passes of a product: where they are, what errs in them, and which are replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from ..operands import GemmShape
from ..twin.geometry import geometry
from ..twin.protect import Findings
from .options import MixedOptions

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Tile:
    """A part of an output: the rows of a block by the columns of a column tile.

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


class TileMap:
    """Tiles of an (M, N) product, by number: row blocks outside, column tiles inside.

    Parameters
    ----------
    config : AcceleratorConfig
    m, n : int
        Extents of the product.
    """

    def __init__(self, config: AcceleratorConfig, m: int, n: int) -> None:
        self.config, self.n = config, n
        pieces = geometry(config, m, n)
        self._row_blocks, self._group_first = pieces.row_blocks, pieces.group_first
        self.col_tiles = int(pieces.col_blocks[-1])
        self.tiles = (len(pieces.row_blocks) - 1) * self.col_tiles
        self._block_of_row = np.repeat(np.arange(len(pieces.row_blocks) - 1), np.diff(pieces.row_blocks))
        self._tile_of_col = np.arange(n) // config.cols
        self._checks_per_tile = len(config.check_columns)

    def tile(self, number: int, batch: int = 0) -> Tile:
        """Where a tile is."""
        block, column = divmod(number, self.col_tiles)
        first_row, end_row = (int(row) for row in self._row_blocks[block : block + 2])
        first_col = column * self.config.cols
        return Tile(batch, first_row, end_row - first_row, first_col, min(self.config.cols, self.n - first_col))

    def _numbers(self, findings: Findings) -> tuple[Places, Places, Places]:
        """Number of the tile of each error of outputs, checks and digit rows."""
        errors = findings.errors
        assert errors is not None
        outputs, checks, digits = errors.outputs, errors.checks, errors.digits
        return (
            self._block_of_row[outputs.rows] * self.col_tiles + self._tile_of_col[outputs.cols],
            self._block_of_row[checks.rows] * self.col_tiles + checks.cols // max(1, self._checks_per_tile),
            self._block_of_row[self._group_first[digits.rows]] * self.col_tiles + self._tile_of_col[digits.cols],
        )

    def faulty(self, findings: Findings) -> Places:
        """Numbers of the tiles in which something errs, ascending."""
        counts = sum(np.bincount(numbers, minlength=self.tiles) for numbers in self._numbers(findings))
        return np.flatnonzero(counts)

    def errors_in(self, findings: Findings, number: int) -> TileErrors:
        """What errs in one tile, with places counted from its first row and column."""
        tile = self.tile(number)
        assert findings.errors is not None
        first_group = int(np.searchsorted(self._group_first, tile.first_row))
        kinds = (findings.errors.outputs, findings.errors.checks, findings.errors.digits)
        origins = (
            (tile.first_row, tile.first_col),
            (tile.first_row, number % self.col_tiles * self._checks_per_tile),
            (first_group, tile.first_col),
        )
        found = []
        for kind, numbers, (row, col) in zip(kinds, self._numbers(findings), origins, strict=True):
            here = np.flatnonzero(numbers == number)
            places = (kind.rows[here] - row, kind.cols[here] - col, kind.deltas[here])
            found.append(np.stack([values.astype(np.int64) for values in places]))
        return TileErrors(*found)


@lru_cache(maxsize=256)
def tile_map(config: AcceleratorConfig, m: int, n: int) -> TileMap:
    """Tiles of a product with M rows and N columns."""
    return TileMap(config, m, n)


def pass_count(config: AcceleratorConfig, shape: GemmShape) -> int:
    """Passes of a call."""
    return shape.batch * tile_map(config, shape.m, shape.n).tiles * -(-shape.k // config.rows)


@dataclass(frozen=True)
class Choice:
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
) -> list[Choice]:
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
    chosen: dict[tuple[int, int], Choice] = {}
    if options.selection != "random" and len(faulty):
        known = np.concatenate([batch * tiles + numbers for batch, numbers in enumerate(faulty)])
        picked = rng.choice(known, min(wanted, len(known)), replace=False) if len(known) else known
        for place, k_tile in zip(picked, rng.integers(k_tiles, size=len(picked)), strict=True):
            batch, tile = divmod(int(place), tiles)
            # A flip is drawn for the final sum, whatever its k-tiles are.
            chosen[int(place), int(k_tile)] = Choice(batch, tile, int(k_tile), config.timing_model == "carry")
    if options.selection != "faulty":
        wanted = min(wanted, shape.batch * tiles * k_tiles)
        while len(chosen) < wanted:
            place, k_tile = int(rng.integers(shape.batch * tiles)), int(rng.integers(k_tiles))
            chosen.setdefault((place, k_tile), Choice(*divmod(place, tiles), k_tile, False))
    return list(chosen.values())
