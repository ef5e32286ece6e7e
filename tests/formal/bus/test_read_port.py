"""The read side of the AXI master under a slave and a datapath that wait as they like."""

from amaranth.hdl import Assert, Cat, Mux, Signal

from brownout.hw.bus.read_port import ReadPort
from brownout.hw.commands import ErrorCause
from brownout.hw.config import AcceleratorConfig

from ..prover import Spec, prove

CONFIG = AcceleratorConfig(rows=1, cols=1, bus_bytes=4, address_bits=32, read_outstanding=2)


def port_spec():
    """The port and a slave that answers as it likes; bursts end with RLAST, as far as there is one to end."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = ReadPort(CONFIG)
    spec.free(unit)
    asked, owed = Signal(8), Signal(8)
    taken, addressed, ended = Signal(), Signal(), Signal()
    m.d.comb += [
        taken.eq(unit.request.valid & unit.request.ready),
        addressed.eq(unit.axi.arvalid & unit.axi.arready),
        ended.eq(unit.axi.rvalid & unit.axi.rready & unit.axi.rlast & (owed != 0)),
    ]
    m.d.sync += [asked.eq(asked + taken - ended), owed.eq(owed + addressed - ended)]
    return spec, unit, asked, owed, taken


def test_addresses_wait_unchanged_and_are_those_of_the_requests():
    spec, unit, _, _, taken = port_spec()
    m, axi = spec.module, unit.axi
    attributes = Cat(axi.arlock, axi.arcache, axi.arprot, axi.arqos)
    offered = Cat(axi.araddr, axi.arlen, axi.arsize, axi.arburst, axi.arid, attributes)
    was_offered, waited, was_taken = Signal.like(offered), Signal(), Signal()
    request = Signal.like(unit.request.payload.as_value())
    m.d.sync += [
        was_offered.eq(offered),
        waited.eq(axi.arvalid & ~axi.arready),
        was_taken.eq(taken),
        request.eq(unit.request.payload),
    ]
    m.d.comb += [
        Assert(~waited | (axi.arvalid & (offered == was_offered))),
        Assert(~was_taken | (axi.arvalid & (Cat(axi.araddr, axi.arlen) == request))),
        # Each request once: no address appears but after a request, and none is overwritten before it was taken.
        Assert(~axi.arvalid | waited | was_taken | ~_started(m)),
        Assert(~(waited & was_taken)),
        Assert((axi.arsize == 2) & (axi.arburst == 1) & (axi.arid == 0) & (attributes == 0b0000_000_0011_0)),
        Assert(~(unit.stop & unit.request.ready)),
    ]
    prove(spec, "read-port-addresses", depth=3, unbounded=True)


def _started(m):
    started = Signal()
    m.d.sync += started.eq(1)
    return started


def test_beats_pass_unchanged_and_once():
    spec, unit, _, _, _ = port_spec()
    m, axi = spec.module, unit.axi
    arrives = axi.rvalid & axi.rready & ~unit.surplus
    wrong = Signal()
    m.d.comb += [
        Assert(~unit.surplus | (axi.rvalid & axi.rready)),
        Assert((unit.beat.valid & unit.beat.ready) == (arrives & ~unit.stop)),
        Assert(~unit.beat.valid | (unit.beat.payload == axi.rdata)),
        wrong.eq((axi.rresp != 0) | (axi.rid != 0)),
        Assert(~unit.error | arrives),
        Assert(~(arrives & wrong) | unit.error),
        Assert(~wrong | (unit.cause == Mux(axi.rid != 0, ErrorCause.AXI_ID, ErrorCause.AXI_READ))),
        Assert(~unit.stop | axi.rready),
        Assert(unit.progress == (arrives | (axi.arvalid & axi.arready))),
    ]
    prove(spec, "read-port-beats", depth=1, unbounded=True)


def test_bursts_of_another_length_and_beats_without_a_burst_are_named():
    spec, unit, _, owed, taken = port_spec()
    m, axi = spec.module, unit.axi
    # Lengths of the bursts that were taken, the oldest at the bottom.
    lengths, waiting, left, beats = Signal(8 * 2), Signal(2), Signal(2), Signal(8)
    arrives, ends, wrong_length, other = Signal(), Signal(), Signal(), Signal()
    m.d.comb += [
        arrives.eq(axi.rvalid & axi.rready & (owed != 0)),
        ends.eq(arrives & axi.rlast),
        left.eq(waiting - ends),
        Assert(unit.surplus == (axi.rvalid & (owed == 0))),
        wrong_length.eq(axi.rlast != (beats == lengths[:8])),
        other.eq((axi.rresp != 0) | (axi.rid != 0)),
        Assert(unit.error == (arrives & (wrong_length | other))),
        Assert(~unit.error | other | (unit.cause == ErrorCause.READ_LENGTH)),
    ]
    m.d.sync += [
        beats.eq(Mux(ends, 0, beats + arrives)),
        lengths.eq(Mux(ends, lengths >> 8, lengths) | (Mux(taken, unit.request.payload.len, 0) << (left << 3))),
        waiting.eq(left + taken),
    ]
    prove(spec, "read-port-lengths", depth=12, memory=False)


def test_no_more_bursts_are_outstanding_than_configured_and_idle_says_that_none_is():
    spec, unit, asked, owed, _ = port_spec()
    m = spec.module
    m.d.comb += [
        Assert(asked <= CONFIG.read_outstanding),
        Assert(unit.idle == (asked == 0)),
        Assert(asked == owed + unit.axi.arvalid),
        Assert(unit.request.ready == (~unit.stop & (asked < 2) & (~unit.axi.arvalid | unit.axi.arready))),
    ]
    prove(spec, "read-port-outstanding", depth=12)
