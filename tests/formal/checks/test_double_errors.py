"""Double errors: each is found; what is reported as the only explanation is one, and the only one."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Mux, Signal, Value

from brownout.hw.checks import double_errors
from brownout.hw.checks.double_errors import DoubleErrorLocator
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from ..prover import ProofFailedError, Spec, prove
from .errors import MODULUS, SingleBitError, is_power_of_two, sum_of_residues, weights


class PairSpec(Spec):
    """A locator that looks in every cycle, at whatever plain syndrome and residue; its answer is in the next one."""

    def __init__(self, cols):
        super().__init__()
        checksum = ChecksumConfig(segment_cols=cols, locators=1, column_checks=False, pairs=True)
        config = AcceleratorConfig(rows=1, cols=cols, drain_lanes=1, checksum=checksum)
        m = self.module
        m.submodules.unit = self.unit = unit = DoubleErrorLocator(config, 0)
        self.inputs += [unit.plain, unit.residues, unit.wanted, unit.inside]
        self.answered = Signal()
        self.residue = Signal(13)
        self.wanted = Signal()
        m.d.comb += [
            unit.look.eq(1),
            # Columns beyond N are the last ones.
            Assume((unit.inside & (unit.inside + 1)) == 0),
            Assume(unit.residues < MODULUS),
        ]
        m.d.sync += [
            self.answered.eq(1),
            unit.kept_plain.eq(unit.plain),
            self.residue.eq(unit.residues),
            self.wanted.eq(unit.wanted),
        ]


def found_spec(cols):
    """Two errors, at different places of which at least one is a column inside, are all the evidence there is."""
    spec = PairSpec(cols)
    m, unit = spec.module, spec.unit
    first, second = (SingleBitError(spec, cols, name) for name in ("first", "second"))
    plain = Signal(34)
    places, kept = [], []
    m.d.comb += [
        plain.eq(first.value + second.value),
        Assume(unit.plain == plain.as_signed()),
        Assume(unit.residues == sum_of_residues(m, first.residue, second.residue, "both")),
        Assume(first.place != second.place),
        # The larger one first.
        Assume(first.bit > second.bit),
        # A sum that looks like a single error is not looked at.
        Assume(~is_power_of_two(m, unit.plain, "alone")),
    ]
    for error in (first, second):
        place, value = Signal.like(error.place), Signal(32)
        m.d.sync += [place.eq(error.place), value.eq(error.value)]
        places.append(place)
        kept.append(value)
    # Both are columns inside, or one is and the other is the plain check.
    allowed = Cat(unit.inside, Const(1, 1))
    is_inside = allowed.bit_select(places[0], 1) & allowed.bit_select(places[1], 1)
    exact = (
        (unit.first == 1 << places[0])
        & (unit.second == 1 << places[1])
        & (unit.first_error == kept[0])
        & (unit.second_error == kept[1])
    )
    m.d.comb += [
        Assert(~(spec.answered & spec.wanted & is_inside) | unit.found),
        Assert(~(spec.answered & spec.wanted & is_inside & unit.unique) | exact),
        Assert(~unit.unique | unit.found),
        Assert(~spec.answered | spec.wanted | ~unit.found),
    ]
    return spec


def explained_spec(cols):
    """Any syndromes; what is reported as unique is put back into the equations."""
    spec = PairSpec(cols)
    m, unit = spec.module, spec.unit
    errors = [unit.first_error.as_signed(), unit.second_error.as_signed()]
    # 2^31 of either sign has the same 32 bits: the sign is what the sum leaves.
    plain = unit.kept_plain
    parts = []
    for name, places, error in zip(("one", "two"), (unit.first, unit.second), errors, strict=True):
        part = Signal(13, name=f"part_{name}")
        terms = [
            Mux(places[place] & (error == (sign << bit)), sign * (1 << bit) * weight % MODULUS, 0)
            for place, weight in enumerate(weights(cols))
            for bit in range(31)
            for sign in (1, -1)
        ]
        minus = (plain < 0) if name == "one" else Const(0)
        for place, weight in enumerate(weights(cols)):
            largest = Mux(minus, -(weight << 31) % MODULUS, (weight << 31) % MODULUS)
            terms.append(Mux(places[place] & (error == -(1 << 31)), largest, 0))
        # In steps of signals: one expression of so many terms is too deep for the compiler.
        value: Value = Const(0, 13)
        for index, term in enumerate(terms):
            step = Signal(13, name=f"part_{name}_{index}")
            m.d.comb += step.eq(value | term)
            value = step
        m.d.comb += part.eq(value)
        parts.append(part)
    total = sum_of_residues(m, parts[0], parts[1], "reported")
    inside = Cat(unit.inside, Const(0, 1))
    larger = Mux((errors[0] == -(1 << 31)) & (plain > 0), 1 << 31, errors[0])
    claims = spec.answered & unit.unique
    one_place = [places.any() & ((places & (places - 1)) == 0) for places in (unit.first, unit.second)]
    m.d.comb += [
        Assert(~claims | (one_place[0] & one_place[1] & ~(unit.first & unit.second).any())),
        Assert(~claims | ((unit.first | unit.second) & inside).any()),
        Assert(~(claims & ((unit.first | unit.second) & ~inside)[:cols].any())),
        Assert(~claims | (larger + errors[1] == plain)),
        Assert(~claims | is_power_of_two(m, errors[0], "first_is_power")),
        Assert(~claims | is_power_of_two(m, errors[1], "second_is_power")),
        Assert(~claims | (total == spec.residue)),
    ]
    return spec


@pytest.mark.parametrize("cols", [4])
def test_every_pair_is_found_and_a_unique_one_is_exactly_that_pair(cols):
    """With this, of two different explanations neither is reported as unique: it would have to be both of them."""
    prove(found_spec(cols), f"pairs-found-{cols}", depth=2, unbounded=True)


@pytest.mark.parametrize("cols", [4])
def test_what_is_reported_satisfies_the_equations(cols):
    prove(explained_spec(cols), f"pairs-explained-{cols}", depth=2, unbounded=True)


def test_a_wrong_modulus_is_found(monkeypatch):
    """Comparisons with weights that are not reduced right: one off for differences."""
    monkeypatch.setattr(double_errors, "RESIDUE_MODULUS", MODULUS - 1)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(found_spec(4), "pairs-mutant", depth=2)
