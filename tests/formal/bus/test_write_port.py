"""The write side of the AXI master under a slave and a datapath that wait as they like."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Mux, Signal
from amaranth.lib.fifo import SyncFIFOBuffered

from brownout.hw.bus import write_port
from brownout.hw.bus.write_port import WritePort
from brownout.hw.commands import ErrorCause
from brownout.hw.config import AcceleratorConfig

from ..prover import ProofFailedError, Spec, prove

CONFIG = AcceleratorConfig(rows=1, cols=1, bus_bytes=4, address_bits=32, write_outstanding=2)
MOST_BEATS = 3


class WriteSpec(Spec):
    """The port between a datapath that keeps to its side of the protocol and a slave that may not.

    `stop` may come and end at any time. Beats that are offered stay, unless `stop` comes: then the datapath may be
    reset. The slave responds when it likes. Bursts are of 1 to 3 beats.
    """

    def __init__(self, unit=None):
        super().__init__()
        m = self.module
        m.submodules.unit = self.unit = unit = unit or WritePort(CONFIG)
        self.free(unit)
        axi, beat = unit.axi, unit.beat
        self.taken, self.address, self.data = Signal(), Signal(), Signal()
        self.asked, self.unanswered, self.complete = Signal(8), Signal(8), Signal(8)
        self.answered, waited, last_beat = Signal(), Signal(), Signal.like(beat.payload.as_value())
        m.d.comb += [
            self.taken.eq(unit.request.valid & unit.request.ready),
            self.address.eq(axi.awvalid & axi.awready),
            self.data.eq(axi.wvalid & axi.wready),
            Assume(unit.request.payload.len < MOST_BEATS),
            # Only to bursts of which the slave has taken address and all data.
            self.answered.eq(axi.bvalid & (self.unanswered != 0) & (self.complete != 0)),
            Assume(~waited | (beat.valid & (beat.payload.as_value() == last_beat))),
        ]
        m.d.sync += [
            self.asked.eq(self.asked + self.taken - self.answered),
            self.unanswered.eq(self.unanswered + self.address - self.answered),
            self.complete.eq(self.complete + (self.data & axi.wlast) - self.answered),
            waited.eq(beat.valid & ~beat.ready & ~unit.stop),
            last_beat.eq(beat.payload),
        ]


def stable(spec):
    """Assert that what is offered on AW and W stays until it is taken."""
    m, axi = spec.module, spec.unit.axi
    attributes = Cat(axi.awlock, axi.awcache, axi.awprot, axi.awqos)
    m.d.comb += Assert((axi.awsize == 2) & (axi.awburst == 1) & (axi.awid == 0) & (attributes == 0b0000_000_0011_0))
    for channel, offered in (
        ("aw", Cat(axi.awaddr, axi.awlen, axi.awsize, axi.awburst, axi.awid, attributes)),
        ("w", Cat(axi.wstrb, axi.wlast, axi.wdata)),
    ):
        valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
        waited, before = Signal(name=f"{channel}_waited"), Signal(len(offered), name=f"{channel}_before")
        m.d.sync += [waited.eq(valid & ~ready), before.eq(offered)]
        m.d.comb += Assert(~waited | (valid & (offered == before)))


def counted(spec):
    """Assert that each burst has as many beats as it said, the last on the last, and that limits hold."""
    m, unit, axi = spec.module, spec.unit, spec.unit.axi
    # Lengths of bursts whose data is not out yet, the oldest at the bottom.
    lengths, waiting = Signal(8 * 4), Signal(3)
    beats = Signal(8)
    ends = Signal()
    passed, waited, orphan = Signal(), Signal(), Signal()
    m.d.sync += [waited.eq(axi.wvalid & ~axi.wready), orphan.eq(axi.wvalid & ~axi.wready & (orphan | unit.stop))]
    m.d.comb += [
        ends.eq(spec.data & (beats == lengths[:8])),
        Assert(~axi.wvalid | (waiting != 0)),
        Assert(~axi.wvalid | (axi.wlast == (beats == lengths[:8]))),
        Assert(spec.asked <= CONFIG.write_outstanding),
        Assert(unit.idle == (spec.asked == 0)),
        Assert(unit.error == (spec.answered & ((axi.bresp != 0) | (axi.bid != 0)))),
        Assert(~unit.error | (unit.cause == Mux(axi.bid != 0, ErrorCause.AXI_ID, ErrorCause.AXI_WRITE))),
        Assert(unit.surplus == (axi.bvalid & ~spec.answered)),
        Assert(~(unit.stop & unit.request.ready)),
        # What is offered anew is a beat of the datapath, or under `stop` changes nothing.
        Assert(
            ~axi.wvalid
            | waited
            | Mux(unit.stop, axi.wstrb == 0, unit.beat.valid & (axi.wstrb == unit.beat.payload.strb))
        ),
        # Each beat of the datapath that is taken goes to the bus then; others go only since a `stop`.
        passed.eq(unit.beat.valid & unit.beat.ready),
        Assert(~passed | spec.data),
        Assert(~passed | ((axi.wdata == unit.beat.payload.data) & (axi.wstrb == unit.beat.payload.strb) & ~unit.stop)),
        Assert(~spec.data | passed | unit.stop | orphan),
    ]
    after_end = Mux(ends, lengths >> 8, lengths)
    left = Signal(3)
    m.d.comb += left.eq(waiting - ends)
    m.d.sync += [
        beats.eq(Mux(ends, 0, beats + spec.data)),
        lengths.eq(after_end | (Mux(spec.taken, unit.request.payload.len, 0) << (left << 3))),
        waiting.eq(left + spec.taken),
    ]


def test_what_is_offered_stays_until_it_is_taken():
    spec = WriteSpec()
    stable(spec)
    prove(spec, "write-port-stable", depth=9, memory=False)


def test_bursts_have_the_beats_that_they_announced_and_answers_beside_them_count_for_nothing():
    spec = WriteSpec()
    counted(spec)
    prove(spec, "write-port-beats", depth=11, memory=False)


def test_a_burst_queue_that_forgets_is_found(monkeypatch):
    """With lengths of one bit a burst of three beats ends after the first."""
    monkeypatch.setattr(write_port, "SyncFIFOBuffered", lambda width, depth: SyncFIFOBuffered(width=1, depth=depth))
    spec = WriteSpec()
    counted(spec)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(spec, "write-port-mutant", depth=9, memory=False)
