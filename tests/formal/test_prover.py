"""The prover itself: what it must not take for a proof."""

import pytest
from amaranth.hdl import Assert, Assume, Signal

from .prover import ProofFailedError, ProofTimeoutError, Spec, prove


def counter_spec(limit):
    spec = Spec()
    count = Signal(4)
    spec.module.d.sync += count.eq(count + 1)
    spec.module.d.comb += Assert(count < limit)
    return spec


def test_a_violation_in_the_last_cycle_is_found_with_its_trace():
    with pytest.raises(ProofFailedError, match=r"test_prover\.py:\d+ .*has a counterexample; trace: ") as failure:
        prove(counter_spec(5), "prover-counter", depth=6)
    trace = str(failure.value).split("trace: ")[1]
    with open(trace) as file:
        assert "$enddefinitions" in file.read()


def test_what_holds_for_some_cycles_is_no_induction():
    prove(counter_spec(5), "prover-bounded", depth=5)
    with pytest.raises(ProofFailedError, match=r"does not follow from 5 cycles before; trace: .*induction\.vcd"):
        prove(counter_spec(5), "prover-induction", depth=5, unbounded=True)


def test_contradicting_assumptions_prove_nothing():
    spec = counter_spec(5)
    value = spec.input(4, name="value")
    spec.module.d.comb += [Assume(value > 9), Assume(value < 3)]
    with pytest.raises(ProofFailedError, match="PREUNSAT"):
        prove(spec, "prover-assumptions", depth=8)


def test_a_solver_that_does_not_end_is_stopped():
    spec = Spec()
    x, y = (spec.input(61, name=name) for name in "xy")
    # A prime, as no solver will find out.
    spec.module.d.comb += Assert(~((x > 1) & (y > 1) & (x * y == (1 << 61) - 1)))
    with pytest.raises(ProofTimeoutError, match="prover-deadline was not done after 3 s of processor time"):
        prove(spec, "prover-deadline", depth=1, deadline_s=3)
