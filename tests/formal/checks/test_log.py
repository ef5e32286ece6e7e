"""The log keeps the first records of a block, emits them in their order and counts those without room."""

import pytest
from amaranth.hdl import Assert, Assume, Mux, Signal

from brownout.hw.checks import log
from brownout.hw.checks.log import SyndromeLog
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from ..prover import ProofFailedError, Spec, prove

CONFIG = AcceleratorConfig(rows=1, cols=4, checksum=ChecksumConfig(segment_cols=4, column_checks=False))


def log_spec():
    """The log and what the drain promises: it emits what is held, and nothing else happens meanwhile."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = SyndromeLog(CONFIG)
    spec.free(unit)
    m.d.comb += [
        Assume(~unit.busy | ~(unit.push | unit.emit | unit.clear)),
        Assume(~unit.emit | (~unit.push & (unit.count <= unit.held) & (unit.count != 0))),
        Assume(~unit.clear | ~(unit.push | unit.emit)),
    ]
    count, was_busy = Signal.like(unit.count), Signal()
    m.d.sync += [was_busy.eq(unit.busy | unit.emit), count.eq(unit.count)]
    m.d.comb += Assume(~was_busy | (unit.count == count))
    return spec, unit


def test_no_more_than_64_records_are_held_and_every_other_one_overflows():
    spec, unit = log_spec()
    m = spec.module
    held, expected, started = Signal(8), Signal(8), Signal()
    m.d.sync += [held.eq(unit.held), started.eq(1)]
    kept = unit.push & (unit.held < 64)
    m.d.sync += expected.eq(unit.held + kept)
    cleared, ended = Signal(), Signal()
    done = unit.chunk.valid & unit.chunk.ready & unit.chunk.payload.row_end
    m.d.sync += [cleared.eq(unit.clear), ended.eq(done)]
    m.d.comb += [
        Assert(unit.held <= 64),
        Assert(unit.overflow == (unit.push & (unit.held == 64))),
        Assert(~started | cleared | ended | (unit.held == expected)),
        Assert(~started | ~(cleared | ended) | (unit.held == 0)),
    ]
    prove(spec, "log-count", depth=2, unbounded=True)


def content_spec(depth):
    """Watch any one record of the first block that is emitted."""
    spec, unit = log_spec()
    m = spec.module
    index = spec.constant(range(depth), name="index")
    pushed, sent = Signal(8), Signal(8)
    watched, emitted = Signal(128), Signal()
    taken = unit.chunk.valid & unit.chunk.ready
    with m.If(unit.push):
        m.d.sync += pushed.eq(pushed + 1)
        with m.If(pushed == index):
            m.d.sync += watched.eq(unit.record)
    with m.If(unit.clear):
        m.d.sync += pushed.eq(0)
    with m.If(taken):
        m.d.sync += sent.eq(sent + 1)
    with m.If(unit.emit):
        m.d.sync += emitted.eq(1)
    m.d.comb += [
        # One block.
        Assume(~emitted | ~(unit.push | unit.emit | unit.clear)),
        Assert(unit.held <= depth),
        Assert(emitted | (unit.held == Mux(pushed < depth, pushed, depth))),
        Assert(~unit.chunk.valid | (sent < unit.count)),
        Assert(~unit.chunk.valid | (unit.chunk.payload.row_end == (sent == unit.count - 1))),
        Assert(~(unit.chunk.valid & (sent == index)) | (unit.chunk.payload.elements == watched)),
    ]
    return spec


def test_records_leave_as_they_came(monkeypatch):
    monkeypatch.setattr(log, "LOG_RECORDS_PER_BLOCK", 4)
    prove(content_spec(4), "log-content", depth=14, memory=False)


def test_a_log_that_keeps_too_many_is_found(monkeypatch):
    monkeypatch.setattr(log, "LOG_RECORDS_PER_BLOCK", 4)
    spec = content_spec(3)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(spec, "log-mutant", depth=8, memory=False)
