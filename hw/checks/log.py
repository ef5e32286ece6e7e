"""The syndrome log of a block: records wait here until the block's output has been written."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..config import ACC_BITS, AcceleratorConfig
from ..drain.requantise import chunk_layout
from ..log_record import LOG_RECORDS_PER_BLOCK


def words_per_chunk(config: AcceleratorConfig) -> int:
    """Words of a record that leave at once."""
    return 4 if config.lanes >= 4 else 2 if config.lanes >= 2 else 1


class SyndromeLog(wiring.Component):
    """Keeps the first records of a block and emits them as one row of words.

    Members
    -------
    push, record : a record
    held : records kept
    overflow : pulse, a record found no room
    emit : pulse, emit the first `count` records, then forget all of them
    count : 0 .. `held`, constant while `busy`
    clear : pulse, forget all records
    chunk : stream of chunks for the packer
    busy : records are being emitted
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "push": In(1),
                "record": In(8 * config.log_record_bytes),
                "held": Out(range(LOG_RECORDS_PER_BLOCK + 1)),
                "overflow": Out(1),
                "emit": In(1),
                "clear": In(1),
                "count": In(range(LOG_RECORDS_PER_BLOCK + 1)),
                "chunk": Out(stream.Signature(chunk_layout(config))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = words_per_chunk(self.config)
        record_bits = 8 * self.config.log_record_bytes
        parts = record_bits // (ACC_BITS * words)
        m.submodules.records = memory = Memory(shape=record_bits, depth=LOG_RECORDS_PER_BLOCK, init=[])
        write, read = memory.write_port(), memory.read_port()
        full = Signal()
        m.d.comb += [
            full.eq(self.held == LOG_RECORDS_PER_BLOCK),
            self.overflow.eq(self.push & full),
            write.addr.eq(self.held),
            write.data.eq(self.record),
            write.en.eq(self.push & ~full),
        ]
        with m.If(write.en):
            m.d.sync += self.held.eq(self.held + 1)
        with m.If(self.clear):
            m.d.sync += self.held.eq(0)

        index = Signal(range(LOG_RECORDS_PER_BLOCK + 1))
        part = Signal(range(parts))
        ready = Signal()  # the record is at the memory's output
        taken = Signal()
        record_done = Signal()
        last = Signal()
        m.d.comb += [
            taken.eq(self.chunk.valid & self.chunk.ready),
            record_done.eq(taken & (part == parts - 1)),
            last.eq(index == self.count - 1),
            self.chunk.valid.eq(self.busy & ready),
            self.chunk.payload.elements.eq(read.data.word_select(part, ACC_BITS * words)),
            self.chunk.payload.count.eq(words),
            self.chunk.payload.row_end.eq(last & (part == parts - 1)),
            read.addr.eq(Mux(record_done, index + 1, index)),
            read.en.eq(1),
        ]
        m.d.sync += ready.eq(self.busy & ~record_done)
        with m.If(taken):
            m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))
        with m.If(record_done):
            m.d.sync += index.eq(index + 1)
            with m.If(last):
                m.d.sync += [self.busy.eq(0), self.held.eq(0)]
        with m.If(self.emit):
            m.d.sync += [self.busy.eq(1), index.eq(0), part.eq(0), ready.eq(0)]
        return m
