"""Puts arriving operands into the scratchpads."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..commands import CHANNEL_RECORD_BYTES
from ..config import AcceleratorConfig
from ..depths import BUFFERS, JOB_QUEUE
from .jobs import JobKind, job_layout
from .unpacker import Unpacker


def channel_record_layout() -> data.StructLayout:
    """A record of the channel table as it lies in memory."""
    return data.StructLayout({"bias": 32, "mult": 32, "shift": 8, "reserved": 56})


def channel_entry_layout() -> data.StructLayout:
    """What the drain needs of a record."""
    return data.StructLayout({"bias": 32, "mult": 31, "shift": 6})


def activation_depth(config: AcceleratorConfig) -> int:
    """Entries of the activation scratchpad, each R bytes: [buffer][k-tile][row].

    Where activations can be kept it is a ring: of each slab [k-tile][row], as many rows as the block has, one slab
    after the other.
    """
    return config.activation_vectors or config.two_slabs


def ring_sum(address: Value, step: Value | int, depth: int) -> Value:
    """Address `step` entries, at most `depth`, after `address` in a ring of `depth` entries."""
    total = address + step
    return Mux(total >= depth, total - depth, total)


def weight_depth(config: AcceleratorConfig) -> int:
    """Entries of the weight scratchpad, each C bytes: [buffer][k-tile][column tile][row of the tile]."""
    return BUFFERS * config.slab_k_tiles * config.block_col_tiles * config.rows


def chunks_per_vector(config: AcceleratorConfig) -> int:
    """Cycles in which the drain takes a vector of C elements."""
    return -(-config.cols // config.lanes)


def channel_depth(config: AcceleratorConfig) -> int:
    """Entries of the channel scratchpad, each one record per lane: [buffer][column tile][chunk]."""
    return BUFFERS * config.block_col_tiles * chunks_per_vector(config)


class Receiver(wiring.Component):
    """Takes the beats of the fetcher's jobs in order and fills activation, weight and channel scratchpads.

    Members
    -------
    job : stream of jobs
    beat : stream of beats
    slab_loaded : pulse, the activations of a slab are in
    tile_loaded : pulse, the weights of a k-tile (all its column tiles) are in
    channels_loaded : pulse, a block's channel table is in
    bad_record : pulse, a channel record is malformed
    a_addr, a_enable, a_row : activation read port, data one cycle after the address
    w_addr, w_enable, w_row : weight read port, likewise
    channel_addr, channel_enable, channel_row : channel read port, likewise
    a_written, w_written : pulses, an entry of a scratchpad was written
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "beat": In(stream.Signature(8 * config.bus_bytes)),
                "slab_loaded": Out(1),
                "tile_loaded": Out(1),
                "channels_loaded": Out(1),
                "bad_record": Out(1),
                "a_addr": In(range(activation_depth(config))),
                "a_enable": In(1),
                "a_row": Out(8 * config.rows),
                "w_addr": In(range(weight_depth(config))),
                "w_enable": In(1),
                "w_row": Out(8 * config.cols),
                "channel_addr": In(range(channel_depth(config))),
                "channel_enable": In(1),
                "channel_row": Out(data.ArrayLayout(channel_entry_layout(), config.lanes)),
                "a_written": Out(1),
                "w_written": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        layout = job_layout(config)
        m.submodules.jobs = jobs = SyncFIFOBuffered(width=layout.size, depth=JOB_QUEUE)
        m.submodules.a_unpacker = a_unpacker = Unpacker(config, element_bytes=config.rows)
        m.submodules.w_unpacker = w_unpacker = Unpacker(config, element_bytes=config.cols)
        m.submodules.c_unpacker = c_unpacker = Unpacker(config, element_bytes=CHANNEL_RECORD_BYTES)
        unpackers = {
            JobKind.ACTIVATIONS: a_unpacker,
            JobKind.WEIGHTS: w_unpacker,
            JobKind.CHANNELS: c_unpacker,
        }
        head = Signal(layout)
        busy = Signal()
        ending = Signal()
        m.d.comb += [
            jobs.w_data.eq(self.job.payload),
            jobs.w_en.eq(self.job.valid),
            self.job.ready.eq(jobs.w_rdy),
            head.eq(jobs.r_data),
            busy.eq(Cat(unpacker.busy for unpacker in unpackers.values()).any()),
            ending.eq(Cat(unpacker.valid & unpacker.job_end for unpacker in unpackers.values()).any()),
            jobs.r_en.eq(~busy | ending),
        ]
        for kind, unpacker in unpackers.items():
            m.d.comb += [
                unpacker.job.eq(head),
                unpacker.start.eq(jobs.r_rdy & jobs.r_en & (head.kind == kind)),
                unpacker.beat.payload.eq(self.beat.payload),
                unpacker.beat.valid.eq(self.beat.valid & unpacker.busy),
            ]
        m.d.comb += self.beat.ready.eq(Cat(unpacker.beat.ready for unpacker in unpackers.values()).any())

        self._store_activations(m, a_unpacker)
        self._store_weights(m, w_unpacker)
        self._store_channels(m, c_unpacker)
        return m

    def _store_activations(self, m: Module, unpacker: Unpacker) -> None:
        config = self.config
        depth = activation_depth(config)
        m.submodules.activations = memory = Memory(shape=8 * config.rows, depth=depth, init=[])
        write = memory.write_port()
        read = memory.read_port()
        buffer = Signal(range(BUFFERS))
        row = Signal(range(config.block_rows))
        tile_base = Signal(range(depth + config.block_rows))
        address = self._ring_address(m, unpacker) if config.keeps_activations else tile_base + row
        m.d.comb += [
            write.addr.eq(address),
            write.data.eq(unpacker.element),
            write.en.eq(unpacker.valid),
            self.a_written.eq(write.en),
            read.addr.eq(self.a_addr),
            read.en.eq(self.a_enable),
            self.a_row.eq(read.data),
        ]
        m.d.sync += self.slab_loaded.eq(unpacker.valid & unpacker.job_end)
        if config.keeps_activations:
            return
        buffer_base = Array([index * config.slab_k_tiles * config.block_rows for index in range(BUFFERS)])
        with m.If(unpacker.valid):
            m.d.sync += tile_base.eq(tile_base + config.block_rows)
            with m.If(unpacker.row_end):
                m.d.sync += [tile_base.eq(buffer_base[buffer]), row.eq(row + 1)]
            with m.If(unpacker.job_end):
                m.d.sync += [tile_base.eq(buffer_base[~buffer]), row.eq(0), buffer.eq(~buffer)]

    def _ring_address(self, m: Module, unpacker: Unpacker) -> Signal:
        """Where the next vector of activations is written."""
        config = self.config
        depth = activation_depth(config)
        rows = Signal(range(config.block_rows + 1), name="slab_rows")  # vectors from a k-tile to the next
        here = Signal(range(depth), name="ring_address")
        row_start = Signal(range(depth), name="ring_row")
        with m.If(unpacker.start):
            m.d.sync += rows.eq(unpacker.job.rows)
        with m.If(unpacker.valid):
            m.d.sync += here.eq(ring_sum(here, rows, depth))
            with m.If(unpacker.row_end):
                m.d.sync += [here.eq(ring_sum(row_start, 1, depth)), row_start.eq(ring_sum(row_start, 1, depth))]
            with m.If(unpacker.job_end):
                m.d.sync += [here.eq(ring_sum(here, 1, depth)), row_start.eq(ring_sum(here, 1, depth))]
        return here

    def _store_weights(self, m: Module, unpacker: Unpacker) -> None:
        config = self.config
        depth = weight_depth(config)
        m.submodules.weights = memory = Memory(shape=8 * config.cols, depth=depth, init=[])
        write = memory.write_port()
        read = memory.read_port()
        tile_entries = config.block_col_tiles * config.rows
        buffer = Signal(range(BUFFERS))
        row = Signal(range(config.rows))
        k_base = Signal(range(depth))
        column_base = Signal(range(tile_entries + config.rows))
        tile_end = Signal()
        m.d.comb += [
            write.addr.eq(k_base + column_base + row),
            write.data.eq(unpacker.element),
            write.en.eq(unpacker.valid),
            self.w_written.eq(write.en),
            read.addr.eq(self.w_addr),
            read.en.eq(self.w_enable),
            self.w_row.eq(read.data),
            tile_end.eq(unpacker.valid & unpacker.row_end & (row == config.rows - 1)),
        ]
        m.d.sync += self.tile_loaded.eq(tile_end)
        buffer_base = Array([index * config.slab_k_tiles * tile_entries for index in range(BUFFERS)])
        with m.If(unpacker.valid):
            m.d.sync += column_base.eq(column_base + config.rows)
            with m.If(unpacker.row_end):
                m.d.sync += [column_base.eq(0), row.eq(row + 1)]
            with m.If(tile_end):
                m.d.sync += [row.eq(0), k_base.eq(k_base + tile_entries)]
            with m.If(unpacker.job_end):
                m.d.sync += [k_base.eq(buffer_base[~buffer]), buffer.eq(~buffer)]

    def _store_channels(self, m: Module, unpacker: Unpacker) -> None:
        config = self.config
        depth = channel_depth(config)
        chunks = chunks_per_vector(config)
        entry = channel_entry_layout()
        record = Signal(channel_record_layout())
        entry_bits = Signal(entry)
        lane = Signal(range(config.lanes))
        column = Signal(range(config.cols))
        chunk = Signal(range(depth))
        buffer = Signal(range(BUFFERS))
        m.d.comb += [
            record.eq(unpacker.element),
            entry_bits.bias.eq(record.bias),
            entry_bits.mult.eq(record.mult),
            entry_bits.shift.eq(record.shift),
            self.bad_record.eq(
                unpacker.valid & (record.mult[31] | (record.shift == 0) | (record.shift > 62) | (record.reserved != 0))
            ),
        ]
        m.d.sync += self.channels_loaded.eq(unpacker.valid & unpacker.job_end)
        # One memory per lane, because records arrive one by one and leave one per lane.
        for index in range(config.lanes):
            memory = Memory(shape=entry.size, depth=depth, init=[])
            m.submodules[f"channels_{index}"] = memory
            write = memory.write_port()
            read = memory.read_port()
            m.d.comb += [
                write.addr.eq(chunk),
                write.data.eq(entry_bits),
                write.en.eq(unpacker.valid & (lane == index)),
                read.addr.eq(self.channel_addr),
                read.en.eq(self.channel_enable),
                self.channel_row[index].eq(read.data),
            ]
        other_base = Mux(buffer, 0, config.block_col_tiles * chunks)
        with m.If(unpacker.valid):
            m.d.sync += [lane.eq(lane + 1), column.eq(column + 1)]
            with m.If((lane == config.lanes - 1) | (column == config.cols - 1)):
                m.d.sync += [lane.eq(0), chunk.eq(chunk + 1)]
            with m.If(column == config.cols - 1):
                m.d.sync += column.eq(0)
            with m.If(unpacker.job_end):
                m.d.sync += [lane.eq(0), column.eq(0), chunk.eq(other_base), buffer.eq(~buffer)]
