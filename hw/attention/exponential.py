"""Exponentials of scores, in steps of 1/127: the arithmetic of docs/attention.md."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ..params import SCORE_BITS, SCORE_FRACTION_BITS
from .table import TABLE, TABLE_FRACTION_BITS

EXPONENT_BITS = 7
"""Of exponentials, 0 .. 127."""

OCTAVES = EXPONENT_BITS + 1
"""Exponentials so many octaves below the largest are less than half a step."""


def ranked(score: Value, counts: Value) -> Value:
    """A score as an unsigned number that keeps the order, 0 if it does not count."""
    return Mux(counts, score + (1 << (SCORE_BITS - 1)) + 1, 0)[: SCORE_BITS + 1]


class Exponential(wiring.Component):
    """2^(-distance / 256), in steps of 1/127, rounded; two cycles, one a cycle.

    Members
    -------
    distance : from the largest score of the row
    counts : the score is one of a key that counts; otherwise the exponential is 0
    value : the exponential, two cycles later
    """

    def __init__(self) -> None:
        super().__init__({"distance": In(SCORE_BITS + 1), "counts": In(1), "value": Out(EXPONENT_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.table = table = Memory(shape=max(TABLE).bit_length(), depth=len(TABLE), init=TABLE)
        read = table.read_port()
        octave = Signal(range(OCTAVES), reset_less=True)
        counts = Signal(reset_less=True)
        whole = self.distance >> SCORE_FRACTION_BITS
        m.d.comb += read.addr.eq(self.distance)
        m.d.sync += [octave.eq(whole), counts.eq(self.counts & (whole < OCTAVES))]
        half = (1 << (TABLE_FRACTION_BITS - 1)) << octave
        m.d.sync += self.value.eq(Mux(counts, (read.data + half) >> octave >> TABLE_FRACTION_BITS, 0))
        return m
