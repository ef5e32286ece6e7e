"""Locates two errors that are powers of two in one segment of a row, by their residues."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..config import ACC_BITS, SYNDROME_BITS, AcceleratorConfig
from ..residues import RESIDUE_BITS, RESIDUE_MODULUS

_LOW_BITS = RESIDUE_BITS // 2


class DoubleErrorLocator(wiring.Component):
    """Two pipeline stages: what two errors a plain syndrome can be the sum of; the places that explain the residues.

    A syndrome that is a sum of two different powers of two, with signs, is one in a single way: of two equal signs
    (two bits of its magnitude are set) or of two different ones (its magnitude is a run of ones); 3 * 2^b is both. The
    larger error e_1 has the syndrome's sign. Modulo 8191 the power 2^a rotates a residue by a bits, and a minus inverts
    it, so everything is divided by e_1:

        r_j / e_1 - (e_2 / e_1) w_j[c_2] = w_j[c_1]

    The left side is computed for each c_2 and compared with constants. The second way of 3 * 2^b has one ratio only, so
    there r_j / e_1 itself is compared with constants. The last place, behind the columns, is the plain check, whose
    weights are 0.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration whose checksum units locate double errors (``checksum.pairs``).
    segment : int
        Segment of the row.

    Members
    -------
    plain, residues : r_0, and r_1, .. one above the other
    look : pulse, take them over
    wanted : with `look`: the segment is flagged and may be corrected; else no double error is found, and nothing
    switches
    kept_plain : `plain` of the last `look`
    inside : columns with n < N, with `kept_plain`
    found : some double error explains the syndromes
    unique : there is exactly one
    first, second : one bit per place
        c_1 and c_2 if `unique`.
    first_error, second_error : e_1 and e_2 modulo 2^32
    """

    def __init__(self, config: AcceleratorConfig, segment: int) -> None:
        checksum = config.checksum
        assert checksum is not None
        size = len(config.segments[segment])
        self._weights = [checksum.weights(check)[:size] for check in range(1, checksum.checks)]
        super().__init__(
            {
                "plain": In(signed(SYNDROME_BITS)),
                "residues": In(RESIDUE_BITS * checksum.locators),
                "look": In(1),
                "wanted": In(1),
                "kept_plain": In(signed(SYNDROME_BITS)),
                "inside": In(size),
                "found": Out(1),
                "unique": Out(1),
                "first": Out(size + 1),
                "second": Out(size + 1),
                "first_error": Out(ACC_BITS),
                "second_error": Out(ACC_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid = Signal()
        both_ways = Signal(reset_less=True)
        differ = Signal(reset_less=True)
        ratio = Signal(RESIDUE_BITS, reset_less=True)
        quotients = [Signal(RESIDUE_BITS, name=f"quotient_{j}", reset_less=True) for j in range(len(self._weights))]
        self._split(m, valid, both_ways, differ, ratio, quotients)

        locators = list(zip(range(len(quotients)), self._weights, quotients, strict=True))
        one_way = self._places(m, "", valid, [self._explained(m, *locator, ratio, differ) for locator in locators])
        other_way = self._places(m, "other_", valid & both_ways, [_explained_otherwise(m, *one) for one in locators])
        ways = (one_way[0].any(), other_way[0].any())
        m.d.comb += [
            self.first.eq(one_way[0] | other_way[0]),
            self.second.eq(one_way[1] | other_way[1]),
            self.found.eq(Cat(ways).any()),
            self.unique.eq((ways[0] ^ ways[1]) & _at_most_one(self.first) & _at_most_one(self.second)),
        ]
        # e_2 has the lowest bit of r_0 for its magnitude: r_0 & -r_0, or r_0 | -r_0 for its negative.
        negative = Signal(ACC_BITS)
        minus = Signal()
        low = self.kept_plain[:ACC_BITS]
        m.d.comb += [
            negative.eq(-low),
            minus.eq(self.kept_plain[-1] ^ differ ^ ways[1]),
            self.second_error.eq(Mux(minus, low | negative, low & negative)),
            self.first_error.eq(low - self.second_error),
        ]
        return m

    def _split(
        self, m: Module, valid: Signal, both_ways: Signal, differ: Signal, ratio: Signal, quotients: list[Signal]
    ) -> None:
        """First stage: e_1 and e_2, and what there is to locate them by, in registers."""
        negative = self.plain[-1]
        magnitude = Signal(SYNDROME_BITS)
        lowest = Signal(SYNDROME_BITS)
        rest = Signal(SYNDROME_BITS)
        above = Signal(SYNDROME_BITS + 1)
        equal_signs = Signal()
        different_signs = Signal()
        large_rotation = Signal(RESIDUE_BITS)
        small_rotation = Signal(RESIDUE_BITS)
        splits = self.wanted & (equal_signs | different_signs)
        m.d.comb += [
            magnitude.eq(abs(self.plain)),
            rest.eq(magnitude & (magnitude - 1)),
            lowest.eq(magnitude ^ rest),
            above.eq(magnitude + lowest),
            equal_signs.eq(rest.any() & _at_most_one(rest)),
            # A run of ones has nothing above it that stays; its end is at most bit 30.
            different_signs.eq(rest.any() & ~(above & magnitude).any() & ~above[ACC_BITS:].any()),
            large_rotation.eq(_folded(Mux(equal_signs, rest, above))),
            small_rotation.eq(_folded(lowest)),
        ]
        with m.If(self.look):
            m.d.sync += valid.eq(splits)
            with m.If(splits):
                m.d.sync += [
                    both_ways.eq(equal_signs & different_signs),
                    differ.eq(~equal_signs),
                    ratio.eq(_divided(small_rotation, large_rotation)),
                ]
                for index, quotient in enumerate(quotients):
                    residue = self.residues.word_select(index, RESIDUE_BITS)
                    rotated = _divided(residue, large_rotation)
                    m.d.sync += quotient.eq(Mux(residue.any() & negative, ~rotated, rotated))

    def _explained(
        self, m: Module, locator: int, weights: tuple[int, ...], quotient: Signal, ratio: Signal, differ: Signal
    ) -> list[list[Value]]:
        """Whether c_1 (inner) and c_2 (outer list) explain a locator."""
        compared = []
        for place, weight in enumerate(weights):
            name = f"{locator}_{place}"
            part = Signal(RESIDUE_BITS, name=f"part_{name}")
            carried = Signal(RESIDUE_BITS + 1, name=f"carried_{name}")
            # In 1 .. 8191, of which the last stands for 0: the part is neither 0 nor 8191.
            rest = Signal(RESIDUE_BITS, name=f"rest_{name}")
            m.d.comb += [
                part.eq(_chosen(ratio, [(weight << bits) % RESIDUE_MODULUS for bits in range(RESIDUE_BITS)])),
                carried.eq(quotient + Mux(differ, part, ~part)),
                rest.eq(carried[:RESIDUE_BITS] + carried[RESIDUE_BITS]),
            ]
            compared.append(_Comparisons(m, rest))
        compared.append(_Comparisons(m, quotient))
        return [[rest.equal(wanted) for wanted in (*weights, RESIDUE_MODULUS)] for rest in compared]

    def _places(
        self, m: Module, prefix: str, wanted: Value, explained: list[list[list[Value]]]
    ) -> tuple[Signal, Signal]:
        """Places c_1 and c_2 of all double errors that explain all locators."""
        size = len(self.inside)
        rows = []
        for second in range(size + 1):
            row = Signal(size + 1, name=f"{prefix}pairs_with_{second}")
            for first in range(size + 1):
                if first != second:
                    # Inside are the first columns: if the later one of two is, both are.
                    last = max(place for place in (first, second) if place < size)
                    agree = Cat(locator[second][first] for locator in explained)
                    m.d.comb += row[first].eq(agree.all() & self.inside[last])
            rows.append(row)
        firsts = Signal(size + 1, name=f"{prefix}firsts")
        seconds = Signal(size + 1, name=f"{prefix}seconds")
        m.d.comb += [
            firsts.eq(Mux(wanted, reduce(or_, rows), 0)),
            seconds.eq(Mux(wanted, Cat(row.any() for row in rows), 0)),
        ]
        return firsts, seconds


class _Comparisons:
    """Comparisons of a residue with many constants, which share those of its halves."""

    def __init__(self, m: Module, value: Signal) -> None:
        self._m = m
        self._name = value.name
        self._halves = (value[:_LOW_BITS], value[_LOW_BITS:])
        self._known: dict[tuple[int, int], Signal] = {}

    def equal(self, constant: int) -> Value:
        """Whether the residue is `constant`."""
        return self._half(0, constant % (1 << _LOW_BITS)) & self._half(1, constant >> _LOW_BITS)

    def _half(self, half: int, constant: int) -> Signal:
        if (half, constant) not in self._known:
            same = Signal(name=f"{self._name}_{('low', 'high')[half]}_{constant}")
            self._m.d.comb += same.eq(self._halves[half] == constant)
            self._known[half, constant] = same
        return self._known[half, constant]


def _explained_otherwise(m: Module, locator: int, weights: tuple[int, ...], quotient: Signal) -> list[list[Value]]:
    """As `DoubleErrorLocator._explained` if 3 * 2^b is 4 * 2^b - 2^b; `quotient` is of the other way, over 2 * 2^b."""
    compared = _Comparisons(m, quotient)
    half = (RESIDUE_MODULUS + 1) // 2
    places = (*weights, 0)
    return [[compared.equal((2 * w_1 - half * w_2) % RESIDUE_MODULUS) for w_1 in places] for w_2 in places]


def _divided(residue: Value, power: Signal) -> Value:
    """A residue divided by a power of two modulo 8191, which has one bit set."""
    return _chosen(power, [residue.rotate_right(bits) for bits in range(RESIDUE_BITS)])


def _folded(one_hot: Value) -> Value:
    """A one-hot number, the exponent modulo 13."""
    return Cat(one_hot[bit::RESIDUE_BITS].any() for bit in range(RESIDUE_BITS))


def _chosen(one_hot: Signal, values: Sequence[Value | int]) -> Value:
    """That of the values whose bit is set."""
    return reduce(or_, (Mux(bit, value, 0) for bit, value in zip(one_hot, values, strict=True)))


def _at_most_one(value: Signal) -> Value:
    return (value & (value - 1)[: len(value)]) == 0
