"""Packs output elements into bus beats with byte strobes."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus.write_port import write_beat_layout
from ..config import ACC_BITS, AcceleratorConfig
from ..shifters import shifted_up
from .requantise import chunk_layout


class Packer(wiring.Component):
    """Joins chunks of a row into beats; a row starts `offset` bytes into a beat and ends with a partial one.

    One chunk and one beat per cycle. Bytes of a beat outside the row have their strobe low.

    Members
    -------
    offset : byte offset of every row, constant while rows are in flight
    size : elements are of 2^size bytes: 0 to 2
    suppress : strobes of marked elements stay low; only with checksum units
    chunk : stream of chunks
    beat : stream of beats
    empty : nothing is held
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "offset": In(exact_log2(config.bus_bytes)),
                "size": In(2),
                "suppress": In(1),
                "chunk": In(stream.Signature(chunk_layout(config))),
                "beat": Out(stream.Signature(write_beat_layout(config))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.config.bus_bytes
        chunk_bytes = self.config.lanes * (ACC_BITS // 8)
        capacity = bus_bytes - 1 + chunk_bytes
        held = Signal(8 * capacity)
        strobes = Signal(capacity)
        level = Signal(range(capacity + 1))
        in_row = Signal()  # level counts from `offset`, not from zero, once a row has begun
        flush = Signal()

        sent = Signal()
        row_sent = Signal()
        base_held = Signal.like(held)
        base_strobes = Signal.like(strobes)
        base_level = Signal.like(level)
        m.d.comb += [
            self.beat.valid.eq((level >= bus_bytes) | flush),
            self.beat.payload.data.eq(held),
            self.beat.payload.strb.eq(strobes),
            sent.eq(self.beat.valid & self.beat.ready),
            row_sent.eq(sent & flush & (level <= bus_bytes)),
            self.empty.eq(~in_row),
        ]
        with m.If(row_sent | ~in_row):
            m.d.comb += base_level.eq(self.offset)
        with m.Elif(sent):
            m.d.comb += [
                base_held.eq(held[8 * bus_bytes :]),
                base_strobes.eq(strobes[bus_bytes:]),
                base_level.eq(level - bus_bytes),
            ]
        with m.Else():
            m.d.comb += [base_held.eq(held), base_strobes.eq(strobes), base_level.eq(level)]

        taken = Signal()
        count = Signal(range(chunk_bytes + 1))
        fresh = Signal(8 * chunk_bytes)
        fresh_bytes = Signal(chunk_bytes)
        fresh_strobes = Signal(chunk_bytes)
        m.d.comb += [
            self.chunk.ready.eq((row_sent | ~flush) & (base_level < bus_bytes)),
            taken.eq(self.chunk.valid & self.chunk.ready),
            count.eq(self.chunk.payload.count << self.size),
            fresh_bytes.eq(Cat(count > index for index in range(chunk_bytes))),
            fresh_strobes.eq(fresh_bytes & self._kept(chunk_bytes)),
            fresh.eq(self.chunk.payload.elements),
        ]
        byte_mask = Cat(byte.replicate(8) for byte in fresh_bytes)
        # Bytes beyond `count` are cleared, because the next chunk is ORed over them.
        placed = shifted_up(m, fresh & byte_mask, base_level, unit=8, width=len(held))
        placed_strobes = shifted_up(m, fresh_strobes, base_level, unit=1, width=len(strobes))
        m.d.sync += [held.eq(base_held), strobes.eq(base_strobes), level.eq(base_level)]
        with m.If(row_sent):
            m.d.sync += [in_row.eq(0), flush.eq(0)]
        with m.If(taken):
            m.d.sync += [
                held.eq(base_held | placed),
                strobes.eq(base_strobes | placed_strobes),
                level.eq(base_level + count),
                in_row.eq(1),
                flush.eq(self.chunk.payload.row_end),
            ]
        return m

    def _kept(self, chunk_bytes: int) -> Value:
        """Bytes of the chunk that may be written."""
        if self.config.checksum is None:
            return Const(-1, chunk_bytes)
        dropped = Mux(self.suppress, self.chunk.payload.marked, 0)
        lanes = range(self.config.lanes)
        halves, words = (Cat(dropped[lane].replicate(size) for lane in lanes) for size in (2, ACC_BITS // 8))
        return ~Mux(self.size == 0, dropped, Mux(self.size == 1, halves, words))
