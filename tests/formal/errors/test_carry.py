"""Late carries and Razor elements, against carries that are followed bit by bit and count how far they have come."""

import pytest
from amaranth.hdl import Assert, Assume, Const, Mux, Signal

from brownout.hw.errors import late_carries as carry
from brownout.hw.errors.constants import LENGTH_BITS
from brownout.hw.errors.late_carries import registered_sum
from brownout.hw.errors.razor import sum_or_bypass

from ..prover import ProofFailedError, Spec, prove

WIDTHS = (14, 32)
NOMINAL = (1 << LENGTH_BITS) - 1


def late_bits(m, x, y, length, width):
    """Bits whose carry was generated more than `length` positions below."""
    late = Signal(width, name="expected_late")
    carry_in, propagated = Const(0, 1), Const(0, LENGTH_BITS)
    for bit in range(width):
        m.d.comb += late[bit].eq(carry_in & (propagated >= length) if bit else 0)
        generates, passes = x[bit] & y[bit], x[bit] ^ y[bit]
        following = Signal(name=f"expected_carry_{bit + 1}")
        distance = Signal(LENGTH_BITS, name=f"expected_distance_{bit + 1}")
        m.d.comb += [
            following.eq(generates | (passes & carry_in)),
            distance.eq(Mux(generates, 0, propagated + 1)),
        ]
        carry_in, propagated = following, distance
    return late


def element_spec(width, *, nominal=False):
    """An element with its register of settled sums; with `nominal` lengths there are no errors at all."""
    spec = Spec()
    m = spec.module
    x, y = spec.input(width, name="x"), spec.input(width, name="y")
    first, length = spec.input(name="first"), spec.input(LENGTH_BITS, name="length")
    captured, settled = registered_sum(m, x=x, y=y, width=width, length=length, first=first, name="element")
    total, before, started = Signal(width), Signal(width), Signal()
    m.d.comb += total.eq(x + y)
    m.d.sync += [before.eq(total), started.eq(1)]
    if nominal:
        m.d.comb += [Assume(length >= width - 1), Assert((captured == total) & (settled == total))]
    else:
        late = Signal(width)
        m.d.comb += [
            late.eq(Mux(first, 0, late_bits(m, x, y, length, width))),
            Assert(settled == total),
            Assert(~started | (captured == ((total & ~late) | (before & late)))),
        ]
    return spec


@pytest.mark.parametrize("width", WIDTHS)
def test_a_bit_is_late_if_its_carry_comes_from_too_far_below(width):
    prove(element_spec(width), f"carry-{width}", depth=2, unbounded=True)


@pytest.mark.parametrize("width", WIDTHS)
def test_elements_of_nominal_lengths_add(width):
    prove(element_spec(width, nominal=True), f"carry-nominal-{width}", depth=1, unbounded=True)


def test_a_run_that_is_too_short_is_found(monkeypatch):
    monkeypatch.setattr(carry, "LENGTH_BITS", LENGTH_BITS - 2)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(element_spec(32), "carry-mutant", depth=2)


def test_razor_elements_hand_on_right_sums_or_what_came_from_above():
    width = 32
    spec = Spec()
    m = spec.module
    x, y = spec.input(width, name="x"), spec.input(width, name="y")
    first, length = spec.input(name="first"), spec.input(LENGTH_BITS, name="length")
    borrowed = spec.input(name="borrowed")
    captured, settled = registered_sum(m, x=x, y=y, width=width, length=length, first=first, name="element")
    kept, borrows = sum_or_bypass(m, x=x, settled=settled, captured=captured, borrowed=borrowed, name="element")
    total, before, late = Signal(width), Signal(width), Signal(width)
    started = Signal()
    m.d.sync += [before.eq(total), started.eq(1)]
    m.d.comb += [
        total.eq(x + y),
        late.eq(Mux(first, 0, late_bits(m, x, y, length, width))),
        Assert(kept == Mux(borrowed, x, total)),
        Assert(~started | (borrows == (~borrowed & (late & (total ^ before)).any()))),
        Assert(~(first & borrows)),
        Assert((length < width - 1) | ~borrows),
    ]
    prove(spec, "razor", depth=2, unbounded=True)
