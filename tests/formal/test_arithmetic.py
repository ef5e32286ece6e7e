"""Residues are what is left of a division by 8191, for all values of every width that the units fold."""

import pytest
from amaranth.hdl import Assert, Assume, Shape, signed, unsigned

from brownout.hw import arithmetic
from brownout.hw.arithmetic import large, residue

from .prover import ProofFailedError, Spec, prove

MODULUS = 8191


def is_remainder(spec, number, got, *, most):
    """Assert that `got` is `number` modulo 8191; `number` is not negative and at most `most`."""
    quotient = spec.input(range(most // MODULUS + 1), name="quotient")
    remainder = spec.input(range(MODULUS), name="remainder")
    # 8191 q as 8192 q - q, which is easier on the solver than a product. Division is unique.
    spec.module.d.comb += [
        Assume((remainder < MODULUS) & ((quotient << 13) - quotient + remainder == number)),
        Assert(got == remainder),
    ]


def residue_spec(shape):
    spec = Spec()
    value = spec.input(shape, name="value")
    # A multiple of the modulus makes signed numbers positive.
    offset = MODULUS << (shape.width - 13) if shape.signed and shape.width > 13 else MODULUS if shape.signed else 0
    while shape.signed and offset < 1 << (shape.width - 1):
        offset += MODULUS
    got = residue(spec.module, value, "got")
    is_remainder(spec, value + offset, got, most=(1 << shape.width) + offset)
    return spec


SHAPES = {
    "check sums": unsigned(14),
    "differences of residues": signed(14),
    "products of an activation and a residue": signed(22),
    "products of two residues": unsigned(26),
    "plain syndromes": signed(33),
}


@pytest.mark.parametrize("what", SHAPES)
def test_residues_are_remainders(what):
    prove(residue_spec(Shape.cast(SHAPES[what])), f"residue-{what.replace(' ', '-')}", depth=1)


def test_a_fold_too_few_is_found(monkeypatch):
    monkeypatch.setattr(arithmetic, "RESIDUE_MODULUS", MODULUS + 1)
    with pytest.raises(ProofFailedError, match=r"trace: .*bounded\.vcd"):
        prove(residue_spec(Shape.cast(unsigned(14))), "residue-mutant", depth=1)


def test_large_numbers_are_those_of_a_threshold_and_more_in_magnitude():
    spec = Spec()
    value, theta = spec.input(signed(33), name="value"), spec.input(6, name="theta")
    magnitude = abs(value)
    reaches = [(theta == exponent) & (magnitude >= 1 << exponent) for exponent in range(64)]
    spec.module.d.comb += Assert(large(value, theta) == sum(reaches[1:], start=reaches[0]).any())
    prove(spec, "large", depth=1)
