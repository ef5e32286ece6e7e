"""Rows of chunks become beats with the same bytes in the same order, and strobes for these bytes alone."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Mux, Signal, Value

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.drain import packer
from brownout.hw.drain.packer import Packer

from ..prover import ProofFailedError, Spec, prove

BUS_BYTES, LANES = 4, 2
CONFIG = AcceleratorConfig(
    rows=1, cols=2, drain_lanes=LANES, bus_bytes=BUS_BYTES, checksum=ChecksumConfig(segment_cols=2, column_checks=False)
)


def packer_spec():
    """Any byte of any row is watched, under any back-pressure, at any offset, in words, halves or bytes."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = Packer(CONFIG)
    spec.free(unit, driven=(unit.offset, unit.size, unit.suppress))
    settings = spec.constant(5, name="settings")
    row, position = spec.constant(2, name="row"), spec.constant(5, name="position")
    chunk, beat = unit.chunk, unit.beat
    taken, sent = Signal(), Signal()
    count = Signal(4)
    m.d.comb += [
        Cat(unit.offset, unit.size, unit.suppress).eq(settings),
        Assume(unit.size != 3),
        taken.eq(chunk.valid & chunk.ready),
        sent.eq(beat.valid & beat.ready),
        count.eq(chunk.payload.count << unit.size),
        Assume((chunk.payload.count != 0) & (chunk.payload.count <= LANES)),
    ]
    # What came: rows, bytes of the current row with the offset before them.
    rows_in, bytes_in, in_row = Signal(4), Signal(6), Signal()
    here = Signal(6)
    m.d.comb += here.eq(Mux(in_row, bytes_in, unit.offset))
    value, strobe, seen = Signal(8), Signal(), Signal()
    ends = Array(Signal(6, name=f"end_{index}") for index in range(4))
    with m.If(taken):
        m.d.sync += [bytes_in.eq(here + count), in_row.eq(~chunk.payload.row_end)]
        m.d.sync += rows_in.eq(rows_in + chunk.payload.row_end)
        m.d.sync += ends[rows_in[:2]].eq(Mux(chunk.payload.row_end, here + count, 0))
        with m.If((rows_in == row) & (position >= here) & (position < here + count)):
            byte = Signal(3)
            m.d.comb += byte.eq(position - here)
            lane = byte >> unit.size
            marked = Array(chunk.payload.marked)[lane[0]]
            m.d.sync += [
                seen.eq(1),
                value.eq(Value.cast(chunk.payload.elements).word_select(byte, 8)),
                strobe.eq(~(unit.suppress & marked)),
            ]
    # What leaves. A row's last beat is the one that reaches its end.
    rows_out, bytes_out = Signal(4), Signal(6)
    end = Signal(6)
    row_known, last = Signal(), Signal()
    m.d.comb += [
        end.eq(ends[rows_out[:2]]),
        row_known.eq(rows_out != rows_in),
        last.eq(row_known & (bytes_out + BUS_BYTES >= end)),
        Assert(~beat.valid | row_known | (bytes_out + BUS_BYTES <= bytes_in)),
        Assert(~beat.valid | row_known | in_row),
        Assert(unit.empty == ((rows_out == rows_in) & ~in_row)),
    ]
    with m.If(sent):
        m.d.sync += bytes_out.eq(Mux(last, 0, bytes_out + BUS_BYTES))
        m.d.sync += rows_out.eq(rows_out + last)
    watched = beat.valid & (rows_out == row)
    for lane in range(BUS_BYTES):
        here_now = watched & (position == bytes_out + lane)
        written = beat.payload.strb[lane]
        m.d.comb += [
            Assert(~here_now | (written == (seen & strobe))),
            Assert(~(here_now & written) | (beat.payload.data.word_select(lane, 8) == value)),
        ]
    waited, before = Signal(), Signal.like(Value.cast(beat.payload))
    m.d.sync += [waited.eq(beat.valid & ~beat.ready), before.eq(beat.payload)]
    m.d.comb += Assert(~waited | (beat.valid & (Value.cast(beat.payload) == before)))
    return spec


def test_bytes_leave_as_they_came():
    prove(packer_spec(), "packer", depth=9)


def test_a_lane_that_is_forgotten_is_found(monkeypatch):
    """Elements of three bytes."""
    monkeypatch.setattr(packer, "ACC_BITS", 24)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(packer_spec(), "packer-mutant", depth=6)
