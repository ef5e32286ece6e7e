"""Beats become elements with the same bytes in the same order, whatever waits."""

from math import gcd

import pytest
from amaranth.hdl import Assert, Assume, Mux, Signal

from brownout.hw.config import AcceleratorConfig
from brownout.hw.load.unpacker import Unpacker

from ..prover import ProofFailedError, Spec, prove

BUS_BYTES = 4
CONFIG = AcceleratorConfig(
    rows=2, cols=2, bus_bytes=BUS_BYTES, address_bits=32, block_rows=2, block_col_tiles=1, slab_bytes=8
)


def unpacker_spec(element_bytes, *, late=0):
    """One job of one or two rows and up to two rows of zeros; any byte of any element is watched.

    `late` is by how many bytes the specification is wrong, to see that it can fail.
    """
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = Unpacker(CONFIG, element_bytes=element_bytes)
    spec.free(unit, driven=(unit.job,))
    job = {}
    for name, shape in unit.job.shape().members.items():
        if name != "kind":
            job[name] = spec.constant(shape, name=name)
            m.d.comb += unit.job[name].eq(job[name])
    row, index = spec.constant(2, name="row"), spec.constant(4, name="index")
    started = Signal()
    m.d.sync += started.eq(started | unit.start)
    bytes_total = job["row_bytes"]
    m.d.comb += [
        Assume(~unit.start | ~started),
        Assume((job["rows"] >= 1) & (job["rows"] <= 2) & (job["zero_rows"] <= 2)),
        Assume((job["elements"] != 0) & (job["elements"] <= 3)),
        Assume((bytes_total != 0) & (bytes_total <= job["elements"] * element_bytes)),
        Assume(job["beats"] == (job["offset"] + bytes_total + BUS_BYTES - 1) >> 2),
        Assume(index < job["elements"] * element_bytes),
        # Rows begin at an element of theirs.
        Assume(job["offset"] & (gcd(element_bytes, BUS_BYTES) - 1) == 0),
    ]
    # What came: beats of the current row; the watched byte.
    rows_in, beats_in, value = Signal(4), Signal(4), Signal(8)
    taken = unit.beat.valid & unit.beat.ready
    place = Signal(6)
    m.d.comb += place.eq(job["offset"] + index + late)
    byte = Signal(8)
    m.d.comb += byte.eq(unit.beat.payload.word_select(place[:2], 8))
    with m.If(taken):
        last = beats_in == job["beats"] - 1
        m.d.sync += [beats_in.eq(Mux(last, 0, beats_in + 1)), rows_in.eq(rows_in + last)]
        with m.If((rows_in == row) & (beats_in == place >> 2)):
            m.d.sync += value.eq(byte)
    # What leaves. A byte may leave in the cycle in which it comes.
    rows_out, elements_out = Signal(4), Signal(4)
    row_end = Signal()
    m.d.comb += row_end.eq(elements_out == job["elements"] - 1)
    with m.If(unit.valid):
        m.d.sync += [elements_out.eq(Mux(row_end, 0, elements_out + 1)), rows_out.eq(rows_out + row_end)]
    at = Signal(5)
    m.d.comb += at.eq(index - elements_out * element_bytes)
    arrives = taken & (rows_in == row) & (beats_in == place >> 2)
    has_come = arrives | (rows_in > row) | ((rows_in == row) & (beats_in > place >> 2))
    watched = unit.valid & (rows_out == row) & (index >= elements_out * element_bytes) & (at < element_bytes)
    real = (row < job["rows"]) & (index < bytes_total)
    got = unit.element.word_select(at[:3], 8)
    rows = job["rows"] + job["zero_rows"]
    m.d.comb += [
        Assert(~(watched & real) | (has_come & (got == Mux(arrives, byte, value)))),
        Assert(~(watched & ~real) | (got == 0)),
        Assert(~unit.valid | (rows_out < rows)),
        Assert(~unit.valid | (unit.row_end == row_end)),
        Assert(~unit.valid | (unit.job_end == (row_end & (rows_out == rows - 1)))),
        Assert(unit.busy == (started & (rows_out != rows))),
        # No more beats than the job has, and all of them.
        Assert(~unit.beat.ready | (rows_in < job["rows"])),
        Assert(~(started & ~unit.busy) | ((rows_in == job["rows"]) & (beats_in == 0))),
    ]
    return spec


@pytest.mark.parametrize("element_bytes", [2, 3, 8])
def test_bytes_leave_as_they_came(element_bytes):
    prove(unpacker_spec(element_bytes), f"unpacker-{element_bytes}", depth=10)


def test_a_byte_too_late_is_found():
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(unpacker_spec(3, late=1), "unpacker-mutant", depth=5)
