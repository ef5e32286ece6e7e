"""Requantised outputs are the documented formula, for all sums, biases, multipliers and shifts at full width."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Mux, Signal, Value, signed

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.drain.requantise import Requantiser

from ..prover import ProofFailedError, Spec, prove

CHECKSUM = ChecksumConfig(segment_cols=1, column_checks=False)
CONFIG = AcceleratorConfig(rows=1, cols=1, drain_lanes=1, checksum=CHECKSUM)


def formula_spec(*, rounding=1):
    """One lane without back-pressure; the formula is computed from the sum that came three cycles before."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = Requantiser(CONFIG)
    spec.free(unit, driven=(unit.out.ready, unit.entries, unit.channel, unit.requant, unit.zero))
    entry = spec.input(unit.entries.shape().elem_shape.size, name="entry")
    options = spec.constant(3, name="options")
    m.d.comb += [
        unit.out.ready.eq(1),
        unit.entries.eq(entry),
        unit.channel.eq(options[0]),
        unit.requant.eq(options[1]),
        unit.zero.eq(options[2]),
    ]
    shift = unit.entries[0].shift
    m.d.comb += Assume((shift >= 1) & (shift <= 62))
    element, entry_1 = Signal(signed(32)), unit.entries[0]
    biased, scaled = Signal(signed(32)), Signal(signed(64))
    kept, raw, shift_1, shift_2 = Signal(31), Signal(32), Signal(6), Signal(6)
    valid, marked = [Signal(name=f"valid_{i}") for i in range(3)], [Signal(name=f"marked_{i}") for i in range(3)]
    m.d.sync += [
        element.eq(unit.chunk.payload.elements),
        biased.eq(Mux(unit.channel, element + entry_1.bias.as_signed(), element)),
        kept.eq(entry_1.mult),
        shift_1.eq(entry_1.shift),
        shift_2.eq(shift_1),
        scaled.eq(biased * kept),
        raw.eq(biased),
        valid[0].eq(unit.chunk.valid),
        marked[0].eq(unit.chunk.payload.marked),
        *(valid[i].eq(valid[i - 1]) for i in (1, 2)),
        *(marked[i].eq(marked[i - 1]) for i in (1, 2)),
    ]
    total = Signal(signed(66))
    quotient = Signal(signed(66))
    y = Signal(8)
    m.d.comb += [
        total.eq(scaled + (Array(1 << max(bits - 1, 0) for bits in range(64))[shift_2] if rounding else 0)),
        # Division by a power of two, rounded down: the digits above.
        quotient.eq(Array(total[bits:].as_signed() for bits in range(64))[shift_2]),
        y.eq(Mux(quotient > 127, 127, Mux(quotient < -128, -128, quotient))),
    ]
    hidden = unit.zero & marked[2]
    m.d.comb += [
        Assert(unit.out.valid == valid[2]),
        Assert(~(unit.out.valid & unit.requant & ~hidden) | (unit.out.payload.elements == y)),
        Assert(~(unit.out.valid & ~unit.requant & ~hidden) | (unit.out.payload.elements == raw)),
        Assert(~(unit.out.valid & hidden) | (unit.out.payload.elements == 0)),
        Assert(~unit.out.valid | (unit.out.payload.marked == marked[2])),
    ]
    return spec


def test_outputs_are_the_formula():
    prove(formula_spec(), "requantise", depth=5, unbounded=True)


def test_other_rounding_is_found():
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(formula_spec(rounding=0), "requantise-mutant", depth=5)


def test_chunks_keep_their_order_under_back_pressure():
    """Any one chunk is watched; what else a chunk carries goes the same way as its end of a row."""
    spec = Spec()
    m = spec.module
    m.submodules.unit = unit = Requantiser(CONFIG)
    spec.free(unit, driven=(unit.channel, unit.requant, unit.zero))
    watched = spec.constant(4, name="watched")
    came, left = Signal(4), Signal(4)
    chunk = Signal.like(Value.cast(unit.chunk.payload))
    with m.If(unit.chunk.valid & unit.chunk.ready):
        m.d.sync += came.eq(came + 1)
        with m.If(came == watched):
            m.d.sync += chunk.eq(unit.chunk.payload)
    with m.If(unit.out.valid & unit.out.ready):
        m.d.sync += left.eq(left + 1)
    waited, before = Signal(), Signal.like(chunk)
    m.d.sync += [waited.eq(unit.out.valid & ~unit.out.ready), before.eq(unit.out.payload)]
    m.d.comb += [
        Assert(~unit.out.valid | (left != came)),
        Assert(unit.empty == (left == came)),
        Assert((came - left)[:4] <= 3),
        Assert(~(unit.out.valid & (left == watched)) | (Value.cast(unit.out.payload) == chunk)),
        Assert(~waited | (unit.out.valid & (Value.cast(unit.out.payload) == before))),
    ]
    prove(spec, "requantise-order", depth=10)
