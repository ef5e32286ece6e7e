"""The divider of output scales against Python's division."""

import random

from brownout.hw.attention.depths import DIVIDER_STAGES
from brownout.hw.attention.divider import Divider
from brownout.hw.params import EXPONENT_STEPS, MAX_OUT_SCALE

from .amaranth_bench import simulate

LARGEST_SUM = EXPONENT_STEPS * 131_071


def cases(numerator):
    random.seed(numerator)
    print("seed", numerator)
    yield from (0, EXPONENT_STEPS, EXPONENT_STEPS + 1, LARGEST_SUM, LARGEST_SUM - 1)
    yield from (random.randint(EXPONENT_STEPS, LARGEST_SUM) for _ in range(40))
    yield from (random.randint(EXPONENT_STEPS, 4 * EXPONENT_STEPS) for _ in range(40))


def test_quotients_are_floors_one_a_cycle():
    divider = Divider()

    async def bench(ctx):
        for numerator in (MAX_OUT_SCALE, MAX_OUT_SCALE - 1, 1, 0, 12_345_678_901):
            ctx.set(divider.numerator, numerator)
            divisors = list(cases(numerator))
            found = []
            for cycle in range(len(divisors) + DIVIDER_STAGES):
                ctx.set(divider.divisor, divisors[cycle] if cycle < len(divisors) else 1)
                await ctx.tick()
                found.append(ctx.get(divider.quotient))
            wanted = [numerator // divisor if divisor else 0 for divisor in divisors]
            assert found[DIVIDER_STAGES - 1 :][: len(divisors)] == wanted

    simulate(divider, bench)
