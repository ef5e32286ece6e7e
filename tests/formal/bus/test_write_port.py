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
    """The port between a datapath and a slave that keep to their sides of the protocols.

    `stop` may come at any time, and ends when nothing is outstanding, or with `stop_ends_early` at any time, too.
    Beats that are offered stay, also under `stop`; the slave responds to bursts of which it has taken all.
    Bursts are of 1 to 3 beats.
    """

    def __init__(self, unit=None, *, stop_ends_early=False):
        super().__init__()
        m = self.module
        m.submodules.unit = self.unit = unit = unit or WritePort(CONFIG)
        self.free(unit)
        axi, beat = unit.axi, unit.beat
        self.taken, self.address, self.data = Signal(), Signal(), Signal()
        self.asked, self.unanswered, self.complete = Signal(8), Signal(8), Signal(8)
        self.waited, self.stopped, last_beat = Signal(), Signal(), Signal.like(beat.payload.as_value())
        m.d.comb += [
            self.taken.eq(unit.request.valid & unit.request.ready),
            self.address.eq(axi.awvalid & axi.awready),
            self.data.eq(axi.wvalid & axi.wready),
            Assume(unit.request.payload.len < MOST_BEATS),
            Assume(~axi.bvalid | ((self.unanswered != 0) & (self.complete != 0))),
            Assume(~self.waited | (beat.valid & (beat.payload.as_value() == last_beat))),
        ]
        if not stop_ends_early:
            m.d.comb += Assume(~self.stopped | unit.stop | unit.idle)
        m.d.sync += [
            self.asked.eq(self.asked + self.taken - axi.bvalid),
            self.unanswered.eq(self.unanswered + self.address - axi.bvalid),
            self.complete.eq(self.complete + (self.data & axi.wlast) - axi.bvalid),
            self.waited.eq(beat.valid & ~beat.ready),
            last_beat.eq(beat.payload),
            self.stopped.eq(unit.stop),
        ]


def stable(spec):
    """Assert that what is offered on AW and W stays until it is taken."""
    m, axi = spec.module, spec.unit.axi
    attributes = Cat(axi.awlock, axi.awcache, axi.awprot, axi.awqos)
    m.d.comb += Assert((axi.awsize == 2) & (axi.awburst == 1) & (axi.awid == 0) & (attributes == 0b0000_000_0011_0))
    for channel, offered in (
        ("aw", Cat(axi.awaddr, axi.awlen, axi.awsize, axi.awburst, axi.awid, attributes)),
        # Bytes without strobe mean nothing.
        ("w", Cat(axi.wstrb, axi.wlast, *(Mux(axi.wstrb[i], axi.wdata.word_select(i, 8), 0) for i in range(4)))),
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
    m.d.comb += [
        ends.eq(spec.data & (beats == lengths[:8])),
        Assert(~axi.wvalid | (waiting != 0)),
        Assert(~axi.wvalid | (axi.wlast == (beats == lengths[:8]))),
        Assert(spec.asked <= CONFIG.write_outstanding),
        Assert(unit.idle == (spec.asked == 0)),
        Assert(unit.error == (axi.bvalid & ((axi.bresp != 0) | (axi.bid != 0)))),
        Assert(~unit.error | (unit.cause == Mux(axi.bid != 0, ErrorCause.AXI_ID, ErrorCause.AXI_WRITE))),
        Assert(~(unit.stop & unit.request.ready)),
        # Each beat of the datapath goes to the bus once; what the port itself adds changes nothing.
        Assert(~(unit.beat.valid & unit.beat.ready) | spec.data),
        Assert(
            ~(spec.data & ~(unit.beat.valid & unit.beat.ready)) | (unit.stop & (axi.wstrb == 0)),
        ),
        Assert(
            ~(unit.beat.valid & unit.beat.ready)
            | ((axi.wdata == unit.beat.payload.data) & (axi.wstrb == unit.beat.payload.strb))
        ),
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


@pytest.mark.xfail(
    strict=True,
    raises=ProofFailedError,
    reason="a stop that ends while a blank beat waits takes WVALID back; after a second time-out it does end then",
)
def test_what_is_offered_stays_even_if_a_stop_ends_early():
    spec = WriteSpec(stop_ends_early=True)
    stable(spec)
    prove(spec, "write-port-stable-after-timeout", depth=9, memory=False)


def test_bursts_have_the_beats_that_they_announced():
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
