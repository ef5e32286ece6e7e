"""The `flip` model changes nothing at a rate of 0, and at most one bit of a final sum, or all of it with Razor."""

import pytest
from amaranth.hdl import Assert, Assume, Signal, Value

from brownout.hw.config import ACC_BITS, AcceleratorConfig
from brownout.hw.errors.flip_injector import FlipInjector

from ..prover import Spec, prove


def injector_spec(*, razor, clean):
    spec = Spec()
    m = spec.module
    config = AcceleratorConfig(rows=1, cols=2, timing_model="flip", razor=razor)
    m.submodules.unit = unit = FlipInjector(config)
    spec.inputs += [Value.cast(unit.errors), unit.valid, Value.cast(unit.tag), unit.total_row]
    final, cols = Signal(), Signal.like(unit.tag.cols)
    m.d.sync += [final.eq(unit.valid & unit.tag.final), cols.eq(unit.tag.cols)]
    changed = unit.total_row ^ unit.stored_row
    if clean:
        m.d.comb += [Assume(unit.errors.rates[0] == 0), Assert(~changed.any())]
    for column in range(config.cols):
        error = changed.word_select(column, ACC_BITS)
        stored = unit.stored_row.word_select(column, ACC_BITS)
        m.d.comb += [
            Assert(~error.any() | (final & (cols > column))),
            Assert(~stored.any() | ~error.any() if razor else (error & (error - 1)[:ACC_BITS]) == 0),
            Assert(razor | ~error[-1]),
        ]
    return spec


@pytest.mark.parametrize("razor", [False, True])
def test_no_bit_changes_at_a_rate_of_zero(razor):
    prove(injector_spec(razor=razor, clean=True), f"flip-clean-razor-{razor}", depth=2, unbounded=True)


@pytest.mark.parametrize("razor", [False, True])
def test_errors_are_single_bits_of_final_sums_or_whole_sums_with_razor(razor):
    prove(injector_spec(razor=razor, clean=False), f"flip-razor-{razor}", depth=2, unbounded=True)
