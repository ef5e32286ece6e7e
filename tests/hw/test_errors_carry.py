import random

import pytest
from amaranth.hdl import Module, Signal

from brownout.hw.errors.late_carries import registered_sum

from .amaranth_bench import simulate


def model(x, y, stale, length, width):
    """What settles of x + y, bit by bit: a carry that has come further than `length` is late."""
    settled = x + y & (1 << width) - 1
    captured = 0
    for bit in range(width):
        carry_in = (settled ^ x ^ y) >> bit & 1
        # How far a carry into this bit has come, at least: positions below it that only pass it on.
        run = 0
        while run < bit and ((x ^ y) >> (bit - 1 - run)) & 1:
            run += 1
        late = carry_in and run >= length
        captured |= ((stale if late else settled) >> bit & 1) << bit
    return captured, settled


@pytest.mark.parametrize("width", [14, 32, 33, 45])
def test_late_carries_keep_the_old_bits(width):
    m = Module()
    x, y, length, first = Signal(width), Signal(width), Signal(6), Signal()
    captured, settled = registered_sum(m, x=x, y=y, width=width, length=length, first=first, name="e")
    generator = random.Random(width)
    seen_late = 0

    def operand():
        value = generator.getrandbits(width)
        return generator.choice([value, -generator.getrandbits(10) & (1 << width) - 1, generator.getrandbits(10)])

    async def bench(ctx):
        nonlocal seen_late
        stale = 0
        for step in range(600):
            values = operand(), operand()
            limit = generator.choice([0, 1, 2, 3, 7, 8, 15, 16, 20, 31, 32, 40, 63])
            is_first = step == 0 or generator.random() < 0.1
            for signal, value in zip((x, y, length, first), (*values, limit, is_first), strict=True):
                ctx.set(signal, value)
            await ctx.delay(1e-10)
            expected, total = model(*values, stale, limit, width)
            assert ctx.get(settled) == total
            assert ctx.get(captured) == (total if is_first else expected), (values, stale, limit)
            seen_late += expected != total
            await ctx.tick()
            stale = total

    simulate(m, bench)
    assert seen_late > 50
