"""Writes finished blocks to memory."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from ..block_walker import BlockWalker
from ..bus.bursts import RowBursts, beats_covering
from ..bus.read_port import burst_layout
from ..bus.write_port import write_beat_layout
from ..config import ACC_BITS, AcceleratorConfig
from ..load.receiver import channel_depth, channel_entry_layout, chunks_per_vector
from ..params import params_layout
from .packer import Packer
from .requantise import Requantiser


class Drain(wiring.Component):
    """Reads a finished accumulator bank row by row, requantises, packs and writes.

    A row of the block is read tile by tile; each vector of C sums leaves in chunks of `lanes` elements, one per
    cycle. Addresses are issued alongside, at their own pace.

    Members
    -------
    start : pulse, begin the product in `params`
    block_done, channels_loaded : pulses, a block is ready, its channel table is in
    bank_freed, channel_freed : pulses, the block's bank and table may be reused
    acc_enable, acc_bank, acc_address, acc_row : accumulator read port
    channel_addr, channel_enable, channel_row : channel scratchpad read port
    request, beat : to the write port
    done : all blocks of the product have been handed to the write port
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.acc_depth = config.block_rows * config.block_col_tiles
        super().__init__(
            {
                "params": In(params_layout(config)),
                "start": In(1),
                "block_done": In(1),
                "channels_loaded": In(1),
                "bank_freed": Out(1),
                "channel_freed": Out(1),
                "acc_enable": Out(1),
                "acc_bank": Out(1),
                "acc_address": Out(range(self.acc_depth)),
                "acc_row": In(ACC_BITS * config.cols),
                "channel_addr": Out(range(channel_depth(config))),
                "channel_enable": Out(1),
                "channel_row": In(data.ArrayLayout(channel_entry_layout(), config.lanes)),
                "request": Out(stream.Signature(burst_layout(config))),
                "beat": Out(stream.Signature(write_beat_layout(config))),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, params = self.config, self.params
        m.submodules.walker = walker = BlockWalker(config)
        m.submodules.requantiser = requantiser = Requantiser(config)
        m.submodules.packer = packer = Packer(config)
        m.submodules.bursts = bursts = RowBursts(
            config,
            most_rows=config.block_rows,
            most_row_bytes=config.block_col_tiles * config.cols * (ACC_BITS // 8),
        )
        connect(m, bursts.request, flipped(self.request))
        connect(m, requantiser.out, packer.chunk)
        connect(m, packer.beat, flipped(self.beat))

        blocks_ready = Signal(range(3))
        tables_ready = Signal(range(3))
        begin = Signal()
        finish = Signal()
        m.d.comb += [
            walker.start.eq(self.start),
            walker.advance.eq(finish),
            walker.m.eq(params.m),
            walker.n.eq(params.n),
            walker.batch.eq(params.batch),
        ]
        m.d.sync += [
            blocks_ready.eq(blocks_ready + self.block_done - begin),
            tables_ready.eq(tables_ready + self.channels_loaded - (begin & params.channel)),
        ]

        y_product = Signal(config.address_bits)
        y_rows = Signal(config.address_bits)  # first row of the block, column 0
        y_block = Signal(config.address_bits)  # first row of the block, first column of the block
        row_bytes = Signal(range(config.block_col_tiles * config.cols * 4 + 1))
        offset = Signal(exact_log2(config.bus_bytes))
        m.d.comb += [
            row_bytes.eq(Mux(params.requant, walker.cols, walker.cols << 2)),
            offset.eq(y_block[: len(offset)]),
            bursts.addr.eq(y_block),
            bursts.stride.eq(params.ldy),
            bursts.rows.eq(walker.rows),
            bursts.beats.eq(beats_covering(offset, row_bytes, config.bus_bytes)),
            bursts.start.eq(begin),
            packer.offset.eq(offset),
            packer.narrow.eq(params.requant),
            requantiser.channel.eq(params.channel),
            requantiser.requant.eq(params.requant),
            requantiser.entries.eq(self.channel_row),
        ]

        bank = Signal()
        reading = Signal()
        read_end = self._read_vectors(m, walker, requantiser, begin, reading, bank)
        m.d.comb += [self.acc_bank.eq(bank), self.bank_freed.eq(read_end)]
        with m.If(read_end):
            m.d.sync += bank.eq(~bank)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    y_product.eq(params.y_addr),
                    y_rows.eq(params.y_addr),
                    y_block.eq(params.y_addr),
                ]
                m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += begin.eq((blocks_ready != 0) & (~params.channel | (tables_ready != 0)))
                with m.If(begin):
                    m.next = "WRITE"
            with m.State("WRITE"):
                # The block's geometry must hold until its last beat has left the packer.
                with m.If(~reading & ~bursts.busy & requantiser.empty & packer.empty):
                    m.next = "NEXT"
            with m.State("NEXT"):
                rows_next = Signal(config.address_bits)
                product_next = Signal(config.address_bits)
                m.d.comb += [
                    finish.eq(1),
                    self.channel_freed.eq(params.channel),
                    rows_next.eq(y_rows + walker.rows * params.ldy),
                    product_next.eq(y_product + params.y_batch_stride),
                ]
                m.d.sync += y_block.eq(y_block + row_bytes)
                with m.If(walker.last_in_row):
                    m.d.sync += [y_rows.eq(rows_next), y_block.eq(rows_next)]
                with m.If(walker.last_in_product):
                    m.d.sync += [y_product.eq(product_next), y_rows.eq(product_next), y_block.eq(product_next)]
                m.next = "WAIT"
                with m.If(walker.last):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m

    def _read_vectors(
        self,
        m: Module,
        walker: BlockWalker,
        requantiser: Requantiser,
        begin: Signal,
        reading: Signal,
        bank: Signal,
    ) -> Signal:
        """Walk the rows and column tiles of a block and hand their chunks to the requantiser.

        The accumulator's read port holds its data until the next read, so the vector in it is cut into chunks in
        place and the next one is read in the cycle in which its last chunk leaves.
        """
        config = self.config
        lanes, chunks = config.lanes, chunks_per_vector(config)
        rows_left = Signal(range(config.block_rows + 1))
        row = Signal(range(config.block_rows + 1))
        n_left = Signal.like(walker.cols)
        chunk_left = Signal(range(config.cols + 1))  # columns of the current vector not yet handed over
        chunk = Signal(range(chunks))
        tile_chunks = Signal(range(channel_depth(config) + 1))
        buffer = Signal()
        address = Signal(range(self.acc_depth + config.block_rows))
        next_address = Signal.like(address)
        vector_valid = Signal()

        vector_cols = Signal(range(config.cols + 1))
        chunk_last = Signal()
        vector_last = Signal()
        row_last = Signal()
        handed = Signal()
        read_end = Signal()
        payload = requantiser.chunk.payload
        m.d.comb += [
            chunk_last.eq(chunk_left <= lanes),
            vector_last.eq(n_left <= config.cols),
            row_last.eq(rows_left == 1),
            requantiser.chunk.valid.eq(vector_valid),
            payload.elements.eq(self.acc_row.word_select(chunk, 32 * lanes)),
            payload.count.eq(Mux(chunk_last, chunk_left, lanes)),
            payload.row_end.eq(chunk_last & vector_last),
            handed.eq(vector_valid & requantiser.chunk.ready),
            self.channel_enable.eq(requantiser.chunk.ready),
            self.channel_addr.eq(tile_chunks + chunk),
            read_end.eq(handed & chunk_last & vector_last & row_last),
            next_address.eq(Mux(vector_last, row + 1, address + config.block_rows)),
            self.acc_address.eq(address),
        ]
        n_left_next = Signal.like(n_left)
        m.d.comb += [
            n_left_next.eq(Mux(vector_last, walker.cols, n_left - config.cols)),
            vector_cols.eq(Mux(n_left_next < config.cols, n_left_next, config.cols)),
        ]
        table_base = Mux(buffer, config.block_col_tiles * chunks, 0)
        with m.If(handed):
            m.d.sync += [chunk.eq(chunk + 1), chunk_left.eq(chunk_left - lanes)]
            with m.If(chunk_last):
                m.d.comb += [self.acc_enable.eq(~read_end), self.acc_address.eq(next_address)]
                m.d.sync += [
                    chunk.eq(0),
                    chunk_left.eq(vector_cols),
                    address.eq(next_address),
                    n_left.eq(n_left_next),
                    tile_chunks.eq(tile_chunks + chunks),
                ]
                with m.If(vector_last):
                    m.d.sync += [
                        row.eq(row + 1),
                        rows_left.eq(rows_left - 1),
                        tile_chunks.eq(table_base),
                    ]
        with m.If(read_end):
            m.d.sync += [vector_valid.eq(0), reading.eq(0)]
            with m.If(self.params.channel):
                m.d.sync += buffer.eq(~buffer)
        with m.If(begin):
            m.d.comb += [self.acc_enable.eq(1), self.acc_address.eq(0)]
            m.d.sync += [
                vector_valid.eq(1),
                reading.eq(1),
                rows_left.eq(walker.rows),
                row.eq(0),
                address.eq(0),
                n_left.eq(walker.cols),
                chunk.eq(0),
                chunk_left.eq(Mux(walker.cols < config.cols, walker.cols, config.cols)),
                tile_chunks.eq(table_base),
            ]
        return read_end
