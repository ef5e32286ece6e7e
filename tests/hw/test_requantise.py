import random

import pytest

from brownout.hw.config import AcceleratorConfig
from brownout.hw.drain.requantise import Requantiser

from .amaranth_bench import simulate


def golden(acc, bias, mult, shift, bits):
    """The stated rule in unbounded Python integers."""
    total = (acc + bias + 2**31) % 2**32 - 2**31
    limit = 1 << (bits - 1)
    return max(-limit, min(limit - 1, (total * mult + (1 << (shift - 1))) >> shift))


def extremes():
    edge = [-(2**31), -(2**31) + 1, -1, 0, 1, 2**31 - 1]
    for acc in edge:
        for bias in edge:
            for mult in (0, 1, 2**30, 2**31 - 1):
                for shift in (1, 2, 31, 32, 61, 62):
                    yield acc, bias, mult, shift


def halves():
    """Products that lie exactly between two integers, on both sides of zero: the rounding rule decides."""
    for value in (-5, -3, -1, 1, 3, 5):
        yield value, 0, 1, 1
        yield value * 2, 0, 1, 2


def random_cases(seed, count):
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(count):
        shift = rng.randint(1, 62)
        yield rng.randint(-(2**31), 2**31 - 1), rng.randint(-(2**31), 2**31 - 1), rng.randrange(2**31), shift
        yield rng.randint(-(2**20), 2**20), rng.randint(-(2**12), 2**12), rng.randrange(2**24), rng.randint(20, 40)


CASES = {"extremes": list(extremes()), "halves": list(halves()), "random": list(random_cases(5, 600))}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", CASES)
def test_requantisation_follows_the_stated_rule(name, bits):
    cases = CASES[name]
    requantiser = Requantiser(AcceleratorConfig(cols=1, drain_lanes=1))

    async def bench(ctx):
        ctx.set(requantiser.channel, 1)
        ctx.set(requantiser.requant, 1)
        ctx.set(requantiser.int16, bits == 16)
        ctx.set(requantiser.out.ready, 1)
        got = []
        for index in range(len(cases) + 3):
            if index < len(cases):
                ctx.set(requantiser.chunk.valid, 1)
                ctx.set(requantiser.chunk.payload.elements, cases[index][0] & 0xFFFFFFFF)
            else:
                ctx.set(requantiser.chunk.valid, 0)
            if 0 < index <= len(cases):
                _, bias, mult, shift = cases[index - 1]
                ctx.set(requantiser.entries[0].bias, bias & 0xFFFFFFFF)
                ctx.set(requantiser.entries[0].mult, mult)
                ctx.set(requantiser.entries[0].shift, shift)
            if ctx.get(requantiser.out.valid):
                value = ctx.get(requantiser.out.payload.elements) & ((1 << bits) - 1)
                got.append(value - (1 << bits) if value >> (bits - 1) else value)
            await ctx.tick()
        assert got == [golden(*case, bits) for case in cases]

    simulate(requantiser, bench)
