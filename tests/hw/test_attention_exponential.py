"""Exponentials against the real function, for every distance."""

from itertools import pairwise
from math import floor

from brownout.hw.attention.exponential import Exponential
from brownout.hw.attention.table import TABLE

from .amaranth_bench import simulate

LATENCY = 2


def test_every_distance_is_within_a_step_and_never_rises():
    unit = Exponential()
    distances = [*range(9 * 256), 10_000, 65_535, 1 << 16]

    async def bench(ctx):
        ctx.set(unit.counts, 1)
        found = []
        for distance in distances + [0] * LATENCY:
            ctx.set(unit.distance, distance)
            await ctx.tick()
            found.append(ctx.get(unit.value))
        found = found[LATENCY - 1 :][: len(distances)]
        assert [found[octave * 256] for octave in range(9)] == [127, 64, 32, 16, 8, 4, 2, 1, 0]
        assert all(a >= b for a, b in pairwise(found))
        for distance, value in zip(distances, found, strict=True):
            # The table's own rounding moves a half by less than a hundredth.
            assert abs(value - 127 * 2 ** (-distance / 256)) <= 0.51, distance
        assert not any(found[distance] for distance in range(8 * 256, len(found)))

    simulate(unit, bench)


def test_scores_that_do_not_count_are_nothing():
    unit = Exponential()

    async def bench(ctx):
        for counts in (0, 1, 0):
            ctx.set(unit.distance, 0)
            ctx.set(unit.counts, counts)
            await ctx.tick().repeat(LATENCY)
            assert ctx.get(unit.value) == 127 * counts

    simulate(unit, bench)


def test_table():
    assert len(TABLE) == 256
    assert TABLE[0] == 127 * 256
    assert TABLE[128] == floor(127 * 256 / 2**0.5 + 0.5)
