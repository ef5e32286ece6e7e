"""The weight-stationary dataflow: weights stay in the elements, activations and partial sums move.

A product is computed block by block (batch outermost, then rows of M, then column tiles of N); inside a block slab
by slab along K, inside a slab k-tile by k-tile, inside a k-tile column tile by column tile. The innermost
unit is a *pass*: one weight tile (R x C) against the rows of one M block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..config import AcceleratorConfig
from ..dataflow import DATAFLOWS, Block, Dataflow
from ..tiling import split_extent

if TYPE_CHECKING:
    from amaranth.lib import wiring


@DATAFLOWS.register
class WeightStationary(Dataflow):
    """Weights in the elements; sums of k-tiles meet in the accumulators."""

    name = "weight-stationary"
    sums_in_accumulators = True

    def blocks(self, config: AcceleratorConfig, m: int, n: int, batch: int = 1) -> Iterator[Block]:
        col_tiles = -(-n // config.cols)
        for index in range(batch):
            for first_row, rows in split_extent(m, config.block_rows):
                for first_tile, tiles in split_extent(col_tiles, config.block_col_tiles):
                    yield Block(index, first_row, rows, first_tile, tiles)

    def slabs(self, config: AcceleratorConfig, k: int) -> Iterator[tuple[int, int]]:
        return split_extent(-(-k // config.rows), config.slab_k_tiles)

    def ideal_cycles(self, config: AcceleratorConfig, m: int, n: int, k: int, batch: int = 1) -> int:
        return batch * m * -(-k // config.rows) * -(-n // config.cols)

    def array(self, config: AcceleratorConfig, name: str) -> wiring.Component:
        # Amaranth is imported where hardware is made: the walk is asked for at every product.
        from .systolic import SystolicArray

        return SystolicArray(config, name)

    def accumulator(self, config: AcceleratorConfig) -> wiring.Component:
        from .accumulator import Accumulator

        return Accumulator(config)

    def sequencer(self, config: AcceleratorConfig) -> wiring.Component:
        from .sequencer import Sequencer

        return Sequencer(config)
