"""Walks the blocks of a product; loader, sequencer and drain each have one and go at their own pace."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import BATCH_BITS, DIMENSION_BITS, AcceleratorConfig
from .split import split_size


class BlockWalker(wiring.Component):
    """Presents the blocks in the order of `brownout.hw.tiling.blocks`.

    `start` loads the first block; while `valid`, the outputs describe the current block, and `advance` moves on.
    The outputs follow one cycle after `start` or `advance`.

    Members
    -------
    m, n, batch : dimensions, constant while walking
    limited, most_rows : blocks of `most_rows` rows, the last one shorter; likewise, with an attention unit
    largest_rows : most rows of a block otherwise; likewise, where activations can be kept
    rows : rows of the block
    col_tiles : column tiles of the block
    cols : columns of the block
    first_in_row : the first block of a row of blocks; where activations can be kept
    last_in_row : the last block of a row of blocks, after which N starts over
    last_in_product : the last block of one product of the batch
    last : the last block of all
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        block_cols = config.block_col_tiles * config.cols
        members: dict[str, object] = {}
        if config.attention:
            members |= {"limited": In(1), "most_rows": In(range(config.block_rows + 1))}
        if config.keeps_activations:
            members |= {"largest_rows": In(range(config.block_rows + 1)), "first_in_row": Out(1)}
        super().__init__(
            {
                "start": In(1),
                "advance": In(1),
                "m": In(DIMENSION_BITS),
                "n": In(DIMENSION_BITS),
                "batch": In(BATCH_BITS),
                **members,
                "valid": Out(1),
                "rows": Out(range(config.block_rows + 1)),
                "col_tiles": Out(range(config.block_col_tiles + 1)),
                "cols": Out(range(block_cols + 1)),
                "last_in_row": Out(1),
                "last_in_product": Out(1),
                "last": Out(1),
            }
        )

    def walk(self, m: Module, params: data.View) -> None:
        """Walk the product of a command."""
        m.d.comb += [self.m.eq(params.m), self.n.eq(params.n), self.batch.eq(params.batch)]
        if self.config.attention:
            m.d.comb += [self.limited.eq(params.attention), self.most_rows.eq(params.block_rows)]
        if self.config.keeps_activations:
            m.d.comb += self.largest_rows.eq(Mux(params.block_rows == 0, self.config.block_rows, params.block_rows))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m_left = Signal(DIMENSION_BITS)
        n_left = Signal(DIMENSION_BITS)
        batch_left = Signal(BATCH_BITS)

        largest_rows = self.largest_rows if config.keeps_activations else None
        m.d.comb += [
            self.rows.eq(split_size(m, m_left, largest=config.block_rows, unit=1, name="m", chosen=largest_rows)),
            self.col_tiles.eq(split_size(m, n_left, largest=config.block_col_tiles, unit=config.cols, name="n")),
        ]
        if config.attention:
            with m.If(self.limited):
                m.d.comb += self.rows.eq(Mux(m_left < self.most_rows, m_left, self.most_rows))
        full_cols = Signal.like(self.cols)
        m.d.comb += [
            full_cols.eq(self.col_tiles * config.cols),
            self.last_in_row.eq(n_left <= full_cols),
            self.cols.eq(Mux(self.last_in_row, n_left, full_cols)),
            self.last_in_product.eq(self.last_in_row & (m_left == self.rows)),
            self.last.eq(self.last_in_product & (batch_left == 1)),
        ]
        with m.If(self.start):
            m.d.sync += [self.valid.eq(1), m_left.eq(self.m), n_left.eq(self.n), batch_left.eq(self.batch)]
        with m.Elif(self.advance):
            m.d.sync += n_left.eq(n_left - self.cols)
            with m.If(self.last_in_row):
                m.d.sync += [n_left.eq(self.n), m_left.eq(m_left - self.rows)]
            with m.If(self.last_in_product):
                m.d.sync += [m_left.eq(self.m), batch_left.eq(batch_left - 1)]
            with m.If(self.last):
                m.d.sync += self.valid.eq(0)
        if config.keeps_activations:
            with m.If(self.start | self.advance):
                m.d.sync += self.first_in_row.eq(self.start | self.last_in_row)
        return m
