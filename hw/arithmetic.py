"""Arithmetic of draws and residues."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value, signed

from .errors.constants import MIX_FACTORS
from .residues import RESIDUE_BITS, RESIDUE_MODULUS


def mix(m: Module, value: Value, name: str) -> Signal:
    """The 32-bit hash of all draws ("lowbias32"): a bijection with two multiplications."""
    source = Signal(32, name=f"{name}_source")
    first = Signal(32, name=f"{name}_first")
    second = Signal(32, name=f"{name}_second")
    mixed = Signal(32, name=name)
    m.d.comb += [
        source.eq(value),
        # Truncated on purpose, here and below: modulo 2^32.
        first.eq((source ^ (source >> 16)) * MIX_FACTORS[0]),
        second.eq((first ^ (first >> 15)) * MIX_FACTORS[1]),
        mixed.eq(second ^ (second >> 16)),
    ]
    return mixed


def residue(m: Module, value: Value, name: str) -> Signal:
    """`value`, signed or not, modulo 8191, in 0 .. 8190: end-around carries until nothing is left to carry."""
    shape = value.shape()
    largest = (1 << shape.width) - 1
    if shape.signed:
        half = 1 << (shape.width - 1)
        offset = -(-half // RESIDUE_MODULUS) * RESIDUE_MODULUS
        value = (value + offset)[: (half - 1 + offset).bit_length()]
        largest = half - 1 + offset
    step = 0
    while largest > RESIDUE_MODULUS:
        carry = largest >> RESIDUE_BITS
        # With a carry of one at most, the low part is small whenever it occurs.
        largest = max(RESIDUE_MODULUS, largest - RESIDUE_MODULUS) if carry == 1 else RESIDUE_MODULUS + carry
        folded = Signal(range(largest + 1), name=f"{name}_fold_{step}")
        m.d.comb += folded.eq(value[:RESIDUE_BITS] + value[RESIDUE_BITS:])
        value = folded
        step += 1
    reduced = Signal(RESIDUE_BITS, name=name)
    m.d.comb += reduced.eq(Mux(value == RESIDUE_MODULUS, 0, value))
    return reduced


def weighted_sum(m: Module, values: Sequence[Value], weights: Sequence[int], name: str) -> Signal:
    """Sum of signed values times weights, as wide as it can become and no wider: operators add a bit for each term."""
    most = sum(abs(weight) << (len(value) - 1) for value, weight in zip(values, weights, strict=True))
    total = Signal(signed(most.bit_length() + 1), name=name)
    terms = [value.as_signed() * weight for value, weight in zip(values, weights, strict=True)]
    m.d.comb += total.eq(sum(terms[1:], start=terms[0]))
    return total


def large(value: Value, theta: Value) -> Value:
    """Whether the signed `value` is not zero and at least 2^theta in magnitude."""
    magnitude = abs(value.as_signed())
    return (magnitude >> theta).any()
