"""Rows are cut into bursts that follow one another, stay inside 4 KiB pages and add up to the rows."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Mux, Signal

from brownout.hw.bus import bursts
from brownout.hw.bus.bursts import RowBursts
from brownout.hw.config import AcceleratorConfig

from ..prover import ProofFailedError, Spec, prove

BUS_BYTES = 4
CONFIG = AcceleratorConfig(rows=1, cols=1, bus_bytes=BUS_BYTES, address_bits=32)


def bursts_spec():
    """One job of up to three rows of up to 600 beats, more than two bursts of 256, at any address."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = RowBursts(CONFIG, most_rows=3, most_row_bytes=2396)
    spec.free(unit)
    request = unit.request
    started = Signal()
    row, following, offset = Signal(32), Signal(32), Signal(16)
    rows, beats, stride = Signal(8), Signal(16), Signal(32)
    length = Signal(9)
    expected = Signal(32)  # of the next burst
    whole = Signal(16)
    handed = Signal()
    with m.If(unit.start):
        m.d.sync += [row.eq(unit.addr), rows.eq(unit.rows), beats.eq(unit.beats), stride.eq(unit.stride), offset.eq(0)]
        m.d.sync += [started.eq(1), expected.eq(Cat(Const(0, 2), unit.addr[2:]))]
    with m.Elif(handed):
        m.d.sync += [offset.eq(whole), expected.eq(expected + length * BUS_BYTES)]
        with m.If(whole == beats):
            m.d.sync += [offset.eq(0), row.eq(following), rows.eq(rows - 1)]
            m.d.sync += expected.eq(Cat(Const(0, 2), following[2:]))
    m.d.comb += [
        Assume(~unit.start | ((unit.rows != 0) & (unit.beats != 0) & (unit.stride[:2] == 0))),
        Assume(~unit.start | ~started),
        handed.eq(request.valid & request.ready),
        length.eq(request.payload.len + 1),
        whole.eq(offset + length),
        following.eq(row + stride),
        Assert(unit.busy == (rows != 0)),
        Assert(request.valid == unit.busy),
        Assert(~request.valid | (request.payload.addr == expected)),
        Assert(~request.valid | (whole <= beats)),
        Assert(~request.valid | (request.payload.addr[:12] + length * BUS_BYTES <= 4096)),
        # As few bursts as the rules allow: one ends with its row, at a page or with 256 beats.
        Assert(
            ~request.valid
            | (whole == beats)
            | (length == 256)
            | ((request.payload.addr[:12] + length * BUS_BYTES) == 4096)
        ),
        Assert(unit.busy | ~started | (unit.next_row == row)),
    ]
    waited, addr, burst = Signal(), Signal(32), Signal(8)
    m.d.sync += waited.eq(request.valid & ~request.ready)
    m.d.sync += [addr.eq(request.payload.addr), burst.eq(request.payload.len)]
    m.d.comb += Assert(~waited | Mux(unit.busy, (request.payload.addr == addr) & (request.payload.len == burst), 0))
    return spec


def test_rows_become_legal_bursts():
    prove(bursts_spec(), "bursts", depth=9)


def test_a_page_of_the_wrong_size_is_found(monkeypatch):
    monkeypatch.setattr(bursts, "BURST_BOUNDARY_BYTES", 8192)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(bursts_spec(), "bursts-mutant", depth=5)
