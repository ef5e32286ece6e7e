"""Bias and requantisation of the outputs."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import ACC_BITS, AcceleratorConfig
from ..load.receiver import channel_entry_layout


def chunk_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Up to `lanes` neighbouring int32 elements of an output row; with checksum units, which of them are marked."""
    marked = {} if config.checksum is None else {"marked": config.lanes}
    return data.StructLayout(
        {"elements": ACC_BITS * config.lanes, "count": range(config.lanes + 1), "row_end": 1, **marked}
    )


class Requantiser(wiring.Component):
    """Three pipeline stages: bias, multiplication, rounding shift with saturation; one chunk per cycle.

    With `channel`, s = wrap32(acc + bias), else s = acc. With `requant` a lane yields
    clamp((s * mult + 2^(shift-1)) >> shift, -128, 127) in 64-bit arithmetic, with `int16` too
    clamp(..., -2^15, 2^15-1), packed without gaps from the lowest bit on; without, s itself. The channel entries must
    be at `entries` one cycle after their chunk was taken and stay there while `stalled`.

    Members
    -------
    channel, requant, int16 : constant while chunks are in flight
    zero : marked elements leave as zero; likewise
    chunk : stream of accumulator chunks
    entries : channel entries of the chunk taken last
    stalled : no chunk moves
    out : stream of chunks; int8 in the low `8 * lanes` bits when `requant`, int16 in `16 * lanes` with `int16` too
    empty : no chunk is inside
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "channel": In(1),
                "requant": In(1),
                "int16": In(1),
                "zero": In(1),
                "chunk": In(stream.Signature(chunk_layout(config))),
                "entries": In(data.ArrayLayout(channel_entry_layout(), config.lanes)),
                "stalled": Out(1),
                "out": Out(stream.Signature(chunk_layout(config))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.config.lanes
        layout = chunk_layout(self.config)
        valid = [Signal(name=f"valid_{stage}") for stage in range(3)]
        tags = [Signal(layout, name=f"tag_{stage}", reset_less=True) for stage in range(3)]
        move = Signal()
        m.d.comb += [
            move.eq(~valid[2] | self.out.ready),
            self.stalled.eq(~move),
            self.chunk.ready.eq(move),
            self.out.valid.eq(valid[2]),
            self.out.payload.count.eq(tags[2].count),
            self.out.payload.row_end.eq(tags[2].row_end),
            self.empty.eq(~Cat(valid).any()),
        ]
        with m.If(move):
            m.d.sync += [
                valid[0].eq(self.chunk.valid),
                valid[1].eq(valid[0]),
                valid[2].eq(valid[1]),
                tags[0].eq(self.chunk.payload),
                tags[1].eq(tags[0]),
                tags[2].eq(tags[1]),
            ]
        wide = []
        narrow = []
        largest = Signal(signed(64))
        m.d.comb += largest.eq(Mux(self.int16, (1 << 15) - 1, (1 << 7) - 1))
        for lane in range(lanes):
            entry = self.entries[lane]
            biased = Signal(signed(ACC_BITS), name=f"biased_{lane}", reset_less=True)
            mult = Signal(31, name=f"mult_{lane}", reset_less=True)
            shift_1 = Signal(6, name=f"shift_1_{lane}", reset_less=True)
            product = Signal(signed(64), name=f"product_{lane}", reset_less=True)
            shift_2 = Signal(6, name=f"shift_2_{lane}", reset_less=True)
            raw = Signal(ACC_BITS, name=f"raw_{lane}", reset_less=True)
            accumulated = tags[0].elements[ACC_BITS * lane : ACC_BITS * (lane + 1)]
            with m.If(move):
                m.d.sync += [
                    # The slice wraps on purpose.
                    biased.eq((accumulated + Mux(self.channel, entry.bias, 0))[:ACC_BITS]),
                    mult.eq(entry.mult),
                    shift_1.eq(entry.shift),
                    # |biased| <= 2^31 and mult < 2^31, so the product and the rounding term fit 64 bits.
                    product.eq(biased * mult),
                    shift_2.eq(shift_1),
                    raw.eq(biased),
                ]
            half = Signal(signed(64), name=f"half_{lane}")
            rounded = Signal(signed(64), name=f"rounded_{lane}")
            quantised = Signal(16, name=f"quantised_{lane}")
            m.d.comb += [
                half.eq((1 << shift_2) >> 1),
                rounded.eq((product + half) >> shift_2),
                quantised.eq(rounded),
            ]
            with m.If(rounded > largest):
                m.d.comb += quantised.eq(largest)
            with m.Elif(rounded < ~largest):
                m.d.comb += quantised.eq(~largest)
            wide.append(raw)
            narrow.append(quantised)
        if self.config.checksum is not None:
            m.d.comb += self.out.payload.marked.eq(tags[2].marked)
            hidden = [tags[2].marked[lane] & self.zero for lane in range(lanes)]
            narrow = [Mux(hide, 0, value)[:16] for hide, value in zip(hidden, narrow, strict=True)]
            wide = [Mux(hide, 0, value)[:ACC_BITS] for hide, value in zip(hidden, wide, strict=True)]
        scaled = Mux(self.int16, Cat(narrow), Cat(value[:8] for value in narrow))
        m.d.comb += self.out.payload.elements.eq(Mux(self.requant, scaled, Cat(wide)))
        return m
