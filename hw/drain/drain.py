"""Writes finished blocks to memory."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from ..array.tag import accumulator_depth
from ..attention.divider import QUOTIENT_BITS
from ..attention.score_unit import scale_depth
from ..block_walker import BlockWalker
from ..bus.bursts import RowBursts, beats_covering
from ..bus.read_port import burst_layout
from ..bus.write_port import write_beat_layout
from ..checks.check_row import widths
from ..checks.column_checker import group_layout
from ..checks.corrector import Corrector, most_corrected
from ..checks.log import SyndromeLog
from ..config import ACC_BITS, AcceleratorConfig
from ..depths import BUFFERS, VALUE_BANK
from ..load.receiver import channel_depth, channel_entry_layout
from ..log_record import LOG_RECORDS_PER_BLOCK
from ..params import params_layout
from .packer import Packer
from .requantise import Requantiser
from .vectors import VectorReader


def check_increments_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the counters of the checks gain in a cycle, by name."""
    records = range(LOG_RECORDS_PER_BLOCK + 1)
    return data.StructLayout(
        {
            "checks": 1,
            "detected": 1,
            "corrected": range(most_corrected(config) + 1),
            "suppressed": range(config.cols + 1),
            "log_records": records,
            "log_dropped": range(LOG_RECORDS_PER_BLOCK + 2),
        }
    )


class _LogPlace:
    """Where the next records go: address and room for records; those about to be written, and whether they are."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.address = Signal(config.address_bits, name="log_address")
        self.room = Signal(32 - exact_log2(config.log_record_bytes), name="log_room")
        self.count = Signal(range(LOG_RECORDS_PER_BLOCK + 1), name="log_count")
        self.emitting = Signal(name="log_emitting")


class Drain(wiring.Component):
    """Reads a finished accumulator bank row by row, requantises, packs and writes.

    A row of the block is read tile by tile; each vector of C sums leaves in chunks of `lanes` elements, one per
    cycle. Addresses are issued alongside, at their own pace. With checksum units, chunks pass the corrector first, and
    a block's syndrome log is written after the block.

    Members
    -------
    start : pulse, begin the product in `params`
    block_done, channels_loaded : pulses, a block is ready, its channel table is in
    bank_freed, channel_freed : pulses, the block's bank and table may be reused
    acc_enable, acc_bank, acc_address, acc_row : accumulator read port
    channel_addr, channel_enable, channel_row : channel scratchpad read port
    request, beat : to the write port
    done : all blocks of the product have been handed to the write port
    moving : pulse, a part of a block moved on
    syndromes : row checker's read port, enabled and addressed like the accumulator's; with checksum units
    group_tile, group_index, group : column checker's, enabled likewise; with column checks
    increments : `check_increments_layout`; with checksum units
    scales_ready : pulse, the output scales of a block are there; with an attention unit
    scale_address, scale_enable, scale : the score unit's read port of them; likewise
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        protection: dict[str, object] = {}
        if config.checksum is not None:
            protection |= {"syndromes": In(sum(widths(config))), "increments": Out(check_increments_layout(config))}
        if config.group_count:
            protection |= {
                "group_tile": Out(range(config.block_col_tiles)),
                "group_index": Out(range(config.group_count)),
                "group": In(group_layout(config)),
            }
        attention: dict[str, object] = {}
        if config.attention:
            attention = {
                "scales_ready": In(1),
                "scale_address": Out(range(scale_depth(config))),
                "scale_enable": Out(1),
                "scale": In(QUOTIENT_BITS),
            }
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
                "acc_address": Out(range(accumulator_depth(config))),
                "acc_row": In(ACC_BITS * config.cols),
                "channel_addr": Out(range(channel_depth(config))),
                "channel_enable": Out(1),
                "channel_row": In(data.ArrayLayout(channel_entry_layout(), config.lanes)),
                "request": Out(stream.Signature(burst_layout(config))),
                "beat": Out(stream.Signature(write_beat_layout(config))),
                "done": Out(1),
                "moving": Out(1),
                **protection,
                **attention,
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, params = self.config, self.params
        m.submodules.walker = walker = BlockWalker(config)
        m.submodules.reader = reader = VectorReader(config)
        m.submodules.requantiser = requantiser = Requantiser(config)
        m.submodules.packer = packer = Packer(config)
        log_bytes = 0 if config.checksum is None else LOG_RECORDS_PER_BLOCK * config.log_record_bytes
        m.submodules.bursts = bursts = RowBursts(
            config,
            most_rows=config.block_rows,
            most_row_bytes=max(config.block_col_tiles * config.cols * (ACC_BITS // 8), log_bytes),
        )
        connect(m, bursts.request, flipped(self.request))
        connect(m, packer.beat, flipped(self.beat))

        blocks_ready = Signal(range(3))
        tables_ready = Signal(range(3))
        begin = Signal()
        finish = Signal()
        walker.walk(m, params)
        m.d.comb += [walker.start.eq(self.start), walker.advance.eq(finish)]
        m.d.sync += [
            blocks_ready.eq(blocks_ready + self.block_done - begin),
            tables_ready.eq(tables_ready + self.channels_loaded - (begin & params.channel)),
        ]

        y_product = Signal(config.address_bits)
        y_rows = Signal(config.address_bits)  # first row of the block, column 0
        y_block = Signal(config.address_bits)  # first row of the block, first column of the block
        row_bytes = Signal(range(config.block_col_tiles * config.cols * 4 + 1))
        offset = Signal(exact_log2(config.bus_bytes))
        size = Signal(2)  # bytes of an element, as a power of two
        m.d.comb += [
            size.eq(Mux(params.requant, params.int16, exact_log2(ACC_BITS // 8))),
            row_bytes.eq(walker.cols << size),
            offset.eq(y_block[: len(offset)]),
            bursts.addr.eq(y_block),
            bursts.rows.eq(walker.rows),
            bursts.beats.eq(beats_covering(offset, row_bytes, config.bus_bytes)),
            bursts.stride.eq(Mux(params.y_tiled, bursts.beats << exact_log2(config.bus_bytes), params.ldy)),
            bursts.start.eq(begin),
            packer.offset.eq(offset),
            packer.size.eq(size),
            requantiser.channel.eq(params.channel),
            requantiser.requant.eq(params.requant),
            requantiser.int16.eq(params.int16),
            requantiser.entries.eq(self.channel_row),
            self.channel_enable.eq(requantiser.chunk.ready),
            self.moving.eq(
                begin
                | finish
                | (reader.chunk.valid & reader.chunk.ready)
                | (packer.chunk.valid & packer.chunk.ready)
                | (packer.beat.valid & packer.beat.ready)
            ),
        ]

        bank = Signal()
        m.d.comb += [
            reader.begin.eq(begin),
            reader.rows.eq(walker.rows),
            reader.cols.eq(walker.cols),
            reader.channel.eq(params.channel),
            reader.acc_row.eq(self.acc_row),
            self.acc_enable.eq(reader.acc_enable),
            self.acc_address.eq(reader.acc_address),
            self.acc_bank.eq(bank),
            self.bank_freed.eq(reader.end),
        ]
        with m.If(reader.end):
            m.d.sync += bank.eq(~bank)
        if config.checksum is None:
            self._connect_reader(m, reader, requantiser)
            connect(m, requantiser.out, packer.chunk)
            empty: Value = requantiser.empty
            row = reader.chunk.payload.row if config.attention else None
            log = None
        else:
            m.submodules.corrector = corrector = Corrector(config)
            row = corrector.out.payload.row
            m.submodules.log = log = SyndromeLog(config)
            self._connect_corrector(m, walker, reader, corrector, requantiser, finish)
            log_place = self._connect_log(m, corrector, log, requantiser, packer)
            empty = requantiser.empty & corrector.empty
        scales_ready: Value = Const(1)
        if config.attention:
            scales_ready = self._connect_scales(m, begin, finish, bank, requantiser, row)

        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [
                    y_product.eq(params.y_addr),
                    y_rows.eq(params.y_addr),
                    y_block.eq(params.y_addr),
                ]
                m.next = "WAIT"
            with m.State("WAIT"):
                tables = ~params.channel | (tables_ready != 0)
                m.d.comb += begin.eq((blocks_ready != 0) & tables & scales_ready)
                with m.If(begin):
                    m.next = "WRITE"
            with m.State("WRITE"):
                # The block's geometry must hold until its last beat has left the packer.
                with m.If(~reader.reading & ~bursts.busy & empty & packer.empty):
                    # Tiles follow each other.
                    m.d.sync += y_block.eq(Mux(params.y_tiled, bursts.next_row, y_block + row_bytes))
                    m.next = "NEXT"
                    if log is not None:
                        with m.If(log.held != 0):
                            m.next = "LOG"
            if log is not None:
                self._write_log(m, log, packer, bursts, log_place)
            with m.State("NEXT"):
                rows_next = Signal(config.address_bits)
                product_next = Signal(config.address_bits)
                m.d.comb += [
                    finish.eq(1),
                    self.channel_freed.eq(params.channel),
                    rows_next.eq(y_rows + walker.rows * params.ldy),
                    product_next.eq(y_product + params.y_batch_stride),
                ]
                with m.If(walker.last_in_row):
                    m.d.sync += [y_rows.eq(rows_next), y_block.eq(rows_next)]
                with m.If(walker.last_in_product):
                    m.d.sync += [y_product.eq(product_next), y_rows.eq(product_next), y_block.eq(product_next)]
                m.next = "WAIT"
                with m.If(walker.last):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m

    def _connect_scales(
        self, m: Module, begin: Signal, finish: Signal, bank: Signal, requantiser: Requantiser, row: Value
    ) -> Value:
        """Sums of values are scaled row by row; returns whether those of the next block can be."""
        params = self.params
        waiting = Signal(range(BUFFERS + 1), name="scales_waiting")
        buffer = Signal(range(BUFFERS), name="scales_buffer")
        m.d.sync += waiting.eq(waiting + self.scales_ready - (begin & params.attention))
        m.d.comb += [
            self.scale_enable.eq(requantiser.chunk.ready),
            self.scale_address.eq(Mux(buffer, self.config.block_rows, 0) + row),
        ]
        with m.If(params.attention):
            m.d.comb += self.acc_bank.eq(VALUE_BANK)
            m.d.sync += bank.eq(bank)
            with m.If(finish):
                m.d.sync += buffer.eq(~buffer)
            for lane in range(self.config.lanes):
                entry = requantiser.entries[lane]
                m.d.comb += [entry.mult.eq(self.scale), entry.shift.eq(params.out_shift)]
        return ~params.attention | (waiting != 0)

    def _connect_reader(self, m: Module, reader: VectorReader, requantiser: Requantiser) -> None:
        chunk = reader.chunk.payload
        m.d.comb += [
            requantiser.chunk.valid.eq(reader.chunk.valid),
            reader.chunk.ready.eq(requantiser.chunk.ready),
            self.channel_addr.eq(chunk.channel_addr),
        ]
        for name in ("elements", "count", "row_end"):
            m.d.comb += requantiser.chunk.payload[name].eq(chunk[name])

    def _connect_corrector(
        self,
        m: Module,
        walker: BlockWalker,
        reader: VectorReader,
        corrector: Corrector,
        requantiser: Requantiser,
        finish: Signal,
    ) -> None:
        config, params = self.config, self.params
        block_row = Signal(32)
        block_col = Signal(32)
        with m.If(self.start):
            m.d.sync += [block_row.eq(params.first_row), block_col.eq(params.first_col)]
        with m.Elif(finish):
            m.d.sync += block_col.eq(block_col + walker.cols)
            with m.If(walker.last_in_row):
                m.d.sync += [block_col.eq(params.first_col), block_row.eq(block_row + walker.rows)]
        connect(m, reader.chunk, corrector.chunk)
        chunk = corrector.out.payload
        m.d.comb += [
            corrector.params.eq(params),
            *([corrector.params.theta.eq(self._theta())] if config.attention else []),
            corrector.block_row.eq(block_row),
            corrector.block_col.eq(block_col),
            corrector.syndromes.eq(self.syndromes),
            requantiser.chunk.valid.eq(corrector.out.valid),
            requantiser.chunk.payload.marked.eq(corrector.out_marked),
            corrector.out.ready.eq(requantiser.chunk.ready),
            self.channel_addr.eq(chunk.channel_addr),
        ]
        for name in ("elements", "count", "row_end"):
            m.d.comb += requantiser.chunk.payload[name].eq(chunk[name])
        for name in ("checks", "detected", "corrected", "suppressed"):
            m.d.comb += self.increments[name].eq(getattr(corrector, name))
        if config.group_count:
            checksum = config.checksum
            assert checksum is not None
            # The row in its group, kept beside the reader's row to save a division.
            group_index = Signal(range(config.group_count))
            group_row = Signal(range(checksum.group_rows))
            index_next = Signal.like(group_index)
            row_next = Signal.like(group_row)
            m.d.comb += [
                index_next.eq(group_index),
                row_next.eq(group_row),
                corrector.group.eq(self.group),
                corrector.group_row.eq(group_row),
                self.group_tile.eq(reader.next_tile),
                self.group_index.eq(index_next),
            ]
            with m.If(reader.begin):
                m.d.comb += [index_next.eq(0), row_next.eq(0)]
            with m.Elif(reader.acc_enable & (reader.next_tile == 0)):
                m.d.comb += row_next.eq(group_row + 1)
                with m.If(group_row == checksum.group_rows - 1):
                    m.d.comb += [row_next.eq(0), index_next.eq(group_index + 1)]
            m.d.sync += [group_index.eq(index_next), group_row.eq(row_next)]

    def _theta(self) -> Value:
        """That of what is drained: of ATTENTION, the sums of values."""
        return Mux(self.params.attention, self.params.value_theta, self.params.theta)

    def _connect_log(
        self, m: Module, corrector: Corrector, log: SyndromeLog, requantiser: Requantiser, packer: Packer
    ) -> _LogPlace:
        """Records go to the log and, when a block is finished, to the packer."""
        params = self.params
        place = _LogPlace(self.config)
        emitting = place.emitting
        with m.If(self.start):
            m.d.sync += [
                place.address.eq(params.log_addr),
                place.room.eq(params.log_bytes >> exact_log2(self.config.log_record_bytes)),
            ]
        m.d.comb += [
            log.count.eq(place.count),
            self.increments.log_dropped.eq(log.overflow),
            log.push.eq(corrector.record_valid),
            log.record.eq(corrector.record),
            requantiser.zero.eq(params.zero),
            packer.suppress.eq(params.suppress & ~emitting),
        ]
        with m.If(emitting):
            connect(m, log.chunk, packer.chunk)
        with m.Else():
            connect(m, requantiser.out, packer.chunk)
        return place

    def _write_log(self, m: Module, log: SyndromeLog, packer: Packer, bursts: RowBursts, place: _LogPlace) -> None:
        """The states that write the records of a block, as one row of words, behind those of the blocks before it."""
        address, room, count, emitting = place.address, place.room, place.count, place.emitting
        record_bits = exact_log2(self.config.log_record_bytes)
        offset = address[: len(packer.offset)]
        with m.State("LOG"):
            m.d.sync += count.eq(Mux(log.held < room, log.held, room))
            m.next = "LOG_START"
        with m.State("LOG_START"):
            m.d.comb += [
                self.increments.log_records.eq(count),
                self.increments.log_dropped.eq(log.held - count),
                bursts.addr.eq(address),
                bursts.stride.eq(0),
                bursts.rows.eq(1),
                bursts.beats.eq(beats_covering(offset, count << record_bits, self.config.bus_bytes)),
                log.emit.eq(count != 0),
                bursts.start.eq(count != 0),
                log.clear.eq(count == 0),
            ]
            m.d.sync += emitting.eq(count != 0)
            m.next = "LOG_WRITE"
            with m.If(count == 0):
                m.next = "NEXT"
        with m.State("LOG_WRITE"):
            m.d.comb += [packer.offset.eq(offset), packer.size.eq(exact_log2(ACC_BITS // 8))]
            with m.If(~log.busy & ~bursts.busy & packer.empty):
                m.d.sync += [emitting.eq(0), address.eq(address + (count << record_bits)), room.eq(room - count)]
                m.next = "NEXT"
