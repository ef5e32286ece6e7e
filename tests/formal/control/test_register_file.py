"""The registers behind AXI4-Lite: one answer to each access, settings change by writes alone, no event is lost."""

from amaranth.hdl import Assert, Assume, Cat, Mux, Signal, Value

from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.register_file import RegisterFile
from brownout.hw.registers import OFFSETS

from ..prover import Spec, prove

CONFIG = AcceleratorConfig(rows=1, cols=1)
WRITABLE = ("CONTROL", "IRQ", "RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES", "RING_TAIL", "TIMEOUT", "SNAPSHOT")
NOT_WHILE_BUSY = ("RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES")


class RegisterSpec(Spec):
    """The registers under any accesses; the host keeps to AXI: what it offers stays until it is taken."""

    def __init__(self):
        super().__init__()
        m = self.module
        m.submodules.unit = self.unit = unit = RegisterFile(CONFIG)
        self.free(unit)
        axil = unit.axil
        self.started, self.write, self.known, self.legal = Signal(), Signal(), Signal(), Signal()
        m.d.sync += self.started.eq(1)
        for channel, members in (("aw", ("awaddr",)), ("w", ("wdata", "wstrb")), ("ar", ("araddr",))):
            valid, ready = getattr(axil, f"{channel}valid"), getattr(axil, f"{channel}ready")
            offered = Cat(getattr(axil, name) for name in members)
            waited, before = Signal(name=f"{channel}_waited"), Signal(len(offered), name=f"{channel}_before")
            m.d.sync += [waited.eq(valid & ~ready), before.eq(offered)]
            m.d.comb += Assume(~waited | (valid & (offered == before)))
        m.d.comb += [
            self.write.eq(axil.awvalid & axil.awready),
            self.known.eq((axil.wstrb == 0xF) & Cat(axil.awaddr == OFFSETS[name] for name in WRITABLE).any()),
            self.legal.eq(
                self.known & ~(unit.busy & Cat(axil.awaddr == OFFSETS[name] for name in NOT_WHILE_BUSY).any()),
            ),
        ]

    def writes(self, name):
        """Whether register `name` is written in this cycle."""
        return self.write & self.legal & (self.unit.axil.awaddr == OFFSETS[name])


def test_each_access_has_one_answer_that_stays_until_it_is_taken():
    spec = RegisterSpec()
    m, axil = spec.module, spec.unit.axil
    for channel, asked, answer in (
        ("b", spec.write, axil.bresp),
        ("r", axil.arvalid & axil.arready, Cat(axil.rdata, axil.rresp)),
    ):
        valid, ready = getattr(axil, f"{channel}valid"), getattr(axil, f"{channel}ready")
        waits, was_asked = Signal(name=f"{channel}_waits"), Signal(name=f"{channel}_was_asked")
        before = Signal(len(answer), name=f"{channel}_answer_before")
        m.d.sync += [waits.eq(valid & ~ready), was_asked.eq(asked), before.eq(answer)]
        m.d.comb += [
            Assert(~spec.started | (valid == (waits | was_asked))),
            Assert(~waits | (answer == before)),
            Assert(~(waits & was_asked)),
        ]
    m.d.comb += [Assert(axil.awready == axil.wready), Assert(~spec.write | axil.wvalid)]
    prove(spec, "registers-answers", depth=2, unbounded=True)


def test_only_writes_change_settings_and_illegal_ones_change_nothing():
    spec = RegisterSpec()
    m, unit = spec.module, spec.unit
    low, high = unit.ring_base[:32], unit.ring_base[32:]
    settings = {
        "RING_BASE_LO": low,
        "RING_BASE_HI": high,
        "RING_ENTRIES": unit.ring_entries,
        "RING_TAIL": unit.tail,
        "TIMEOUT": unit.timeout,
    }
    data = unit.axil.wdata
    reset = Signal()
    m.d.comb += [
        reset.eq(spec.writes("CONTROL") & data[0]),
        Assert(unit.soft_reset == reset),
        Assert(unit.capture == spec.writes("SNAPSHOT")),
        Assert(unit.acknowledge == (spec.writes("IRQ") & data[1])),
    ]
    for name, value in settings.items():
        expected = Signal(len(value), name=f"{name.lower()}_expected")
        after = Mux(spec.writes(name), data, value)
        m.d.sync += expected.eq(Mux(reset, 0, after) if name == "RING_TAIL" else after)
        m.d.comb += Assert(~spec.started | (value == expected))
    answer, refused, rung = Signal(2), Signal(), Signal()
    m.d.sync += [refused.eq(spec.write & ~spec.legal), rung.eq(spec.writes("RING_TAIL"))]
    m.d.sync += answer.eq(Mux(spec.known, 2, 3))
    m.d.comb += [
        Assert(~spec.started | (unit.doorbell == rung)),
        Assert(~refused | (unit.axil.bvalid & (unit.axil.bresp == answer))),
    ]
    prove(spec, "registers-settings", depth=2, unbounded=True)


def test_interrupts_stay_until_the_host_clears_them_and_no_completion_is_lost():
    spec = RegisterSpec()
    m, unit = spec.module, spec.unit
    done, error, index, retired = Signal(), Signal(), Signal(16), Signal(32)
    clear = Mux(spec.writes("IRQ"), unit.axil.wdata[:2], 0)
    reset = unit.reset_done
    m.d.sync += [
        done.eq(~reset & ((done & ~clear[0]) | unit.drained)),
        error.eq(~reset & ((error & ~clear[1]) | unit.failed)),
        index.eq(Mux(reset, 0, Mux(unit.failed, unit.head, index))),
        retired.eq(retired + unit.command_done),
    ]
    status = Cat(unit.busy, unit.stopped, unit.draining)
    reads = {
        "IRQ": Cat(done, error),
        "ERROR_INDEX": index,
        "STATUS": status,
        "RING_HEAD": unit.head,
        "RETIRED": retired,
    }
    m.d.comb += Assert(unit.irq == (done | error))
    for name, value in reads.items():
        asked, expected = Signal(name=f"{name.lower()}_asked"), Signal(32, name=f"{name.lower()}_expected")
        taken = unit.axil.arvalid & unit.axil.arready
        m.d.sync += [asked.eq(taken & (unit.axil.araddr == OFFSETS[name])), expected.eq(Value.cast(value))]
        m.d.comb += Assert(~asked | ((unit.axil.rdata == expected) & (unit.axil.rresp == 0)))
    prove(spec, "registers-interrupts", depth=8)
