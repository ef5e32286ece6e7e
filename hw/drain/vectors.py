"""Reads the vectors of a finished block and cuts them into chunks."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..array.tag import accumulator_depth
from ..config import ACC_BITS, AcceleratorConfig
from ..load.receiver import channel_depth, chunks_per_vector


def vector_chunk_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Up to `lanes` neighbouring sums of a vector of C.

    `elements`, their `count`, `row_end` (of the block's row), and `channel_addr`, the entry of the channel table that
    belongs to them. For checksum units also: `index` of the chunk in the vector; of the vector: `cols` inside N, column
    `tile`, `row` of the block; `row` with an attention unit too.
    """
    members: dict[str, object] = {
        "elements": ACC_BITS * config.lanes,
        "count": range(config.lanes + 1),
        "row_end": 1,
        "channel_addr": range(channel_depth(config)),
    }
    if config.checksum is not None:
        members |= {
            "index": range(chunks_per_vector(config)),
            "cols": range(config.cols + 1),
            "tile": range(config.block_col_tiles + 1),
        }
    if config.checksum is not None or config.attention:
        members |= {"row": range(config.block_rows + 1)}
    return data.StructLayout(members)


class VectorReader(wiring.Component):
    """Walks the rows and column tiles of a block.

    The accumulator's read port holds its data until the next read, so the vector in it is cut into chunks in place and
    the next one is read in the cycle in which its last chunk leaves.

    Members
    -------
    begin : pulse, read the block of `rows` rows and `cols` columns
    channel : the channel table is in use, constant while a command runs
    acc_enable, acc_address, acc_row : accumulator read port
    next_tile, next_row : column tile and row that `acc_address` stands for
    chunk : stream of `vector_chunk_layout`
    reading : chunks are still to come
    end : pulse, the block's last chunk leaves
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "begin": In(1),
                "rows": In(range(config.block_rows + 1)),
                "cols": In(range(config.block_col_tiles * config.cols + 1)),
                "channel": In(1),
                "acc_enable": Out(1),
                "acc_address": Out(range(accumulator_depth(config))),
                "acc_row": In(ACC_BITS * config.cols),
                "next_tile": Out(range(config.block_col_tiles + 1)),
                "next_row": Out(range(config.block_rows + 1)),
                "chunk": Out(stream.Signature(vector_chunk_layout(config))),
                "reading": Out(1),
                "end": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        lanes, chunks = config.lanes, chunks_per_vector(config)
        rows_left = Signal(range(config.block_rows + 1))
        row = Signal(range(config.block_rows + 1))
        tile = Signal(range(config.block_col_tiles + 1))
        n_left = Signal.like(self.cols)
        cols_here = Signal(range(config.cols + 1))  # of the current vector
        chunk_left = Signal(range(config.cols + 1))  # of them those not yet handed over
        index = Signal(range(chunks))
        tile_chunks = Signal(range(channel_depth(config) + 1))
        buffer = Signal()
        address = Signal(range(config.block_col_tiles * config.block_rows + config.block_rows))
        next_address = Signal.like(address)

        cols_next = Signal(range(config.cols + 1))
        chunk_last = Signal()
        vector_last = Signal()
        handed = Signal()
        payload = self.chunk.payload
        m.d.comb += [
            chunk_last.eq(chunk_left <= lanes),
            vector_last.eq(n_left <= config.cols),
            payload.elements.eq(self.acc_row.word_select(index, ACC_BITS * lanes)),
            payload.count.eq(Mux(chunk_last, chunk_left, lanes)),
            payload.row_end.eq(chunk_last & vector_last),
            payload.channel_addr.eq(tile_chunks + index),
            handed.eq(self.chunk.valid & self.chunk.ready),
            self.end.eq(handed & chunk_last & vector_last & (rows_left == 1)),
            next_address.eq(Mux(vector_last, row + 1, address + config.block_rows)),
            self.acc_address.eq(address),
            self.next_tile.eq(Mux(vector_last, 0, tile + 1)),
            self.next_row.eq(Mux(vector_last, row + 1, row)),
        ]
        if config.checksum is not None:
            m.d.comb += [
                payload.index.eq(index),
                payload.cols.eq(cols_here),
                payload.tile.eq(tile),
            ]
        if "row" in payload.shape().members:
            m.d.comb += payload.row.eq(row)
        n_left_next = Signal.like(n_left)
        m.d.comb += [
            n_left_next.eq(Mux(vector_last, self.cols, n_left - config.cols)),
            cols_next.eq(Mux(n_left_next < config.cols, n_left_next, config.cols)),
        ]
        table_base = Mux(buffer, config.block_col_tiles * chunks, 0)
        with m.If(handed):
            m.d.sync += [index.eq(index + 1), chunk_left.eq(chunk_left - lanes)]
            with m.If(chunk_last):
                m.d.comb += [self.acc_enable.eq(~self.end), self.acc_address.eq(next_address)]
                m.d.sync += [
                    index.eq(0),
                    chunk_left.eq(cols_next),
                    cols_here.eq(cols_next),
                    address.eq(next_address),
                    n_left.eq(n_left_next),
                    tile.eq(self.next_tile),
                    row.eq(self.next_row),
                    tile_chunks.eq(tile_chunks + chunks),
                ]
                with m.If(vector_last):
                    m.d.sync += [rows_left.eq(rows_left - 1), tile_chunks.eq(table_base)]
        with m.If(self.end):
            m.d.sync += [self.chunk.valid.eq(0), self.reading.eq(0)]
            with m.If(self.channel):
                m.d.sync += buffer.eq(~buffer)
        with m.If(self.begin):
            first_cols = Mux(self.cols < config.cols, self.cols, config.cols)
            m.d.comb += [self.acc_enable.eq(1), self.acc_address.eq(0), self.next_tile.eq(0), self.next_row.eq(0)]
            m.d.sync += [
                self.chunk.valid.eq(1),
                self.reading.eq(1),
                rows_left.eq(self.rows),
                row.eq(0),
                tile.eq(0),
                address.eq(0),
                n_left.eq(self.cols),
                index.eq(0),
                chunk_left.eq(first_cols),
                cols_here.eq(first_cols),
                tile_chunks.eq(table_base),
            ]
        return m
