import random

import pytest
from amaranth.hdl import Const, Module, Signal

from brownout.hw.array.row import ArrayRow
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.razor import total_of

from .amaranth_bench import simulate
from .test_errors_carry import model


def test_an_element_whose_cycle_is_borrowed_passes_on_what_came_from_above():
    cols, seed = 3, 11
    print("seed", seed)
    rng = random.Random(seed)
    row = ArrayRow(AcceleratorConfig(rows=2, cols=cols, timing_model="carry", razor=True))
    seen = [0, 0, 0, 0]  # Drops in bubbles, drops that count, errors, errors of elements that drop.

    async def bench(ctx):
        weights = [rng.randint(-128, 127) for _ in range(cols)]
        ctx.set(row.w_in, sum((w & 0xFF) << 8 * c for c, w in enumerate(weights)))
        for signal, value in ((row.load, 7), (row.swap, 0)):
            ctx.set(signal, value)
        await ctx.tick()
        ctx.set(row.load, 0)
        ctx.set(row.swap, 7)
        await ctx.tick()
        ctx.set(row.swap, 0)
        moving, stale = [0] * cols, [0] * cols
        for cycle in range(400):
            above = [rng.getrandbits(14) - (1 << 13) & 0xFFFFFFFF for _ in range(cols)]
            moving = [rng.randint(-128, 127), *moving[:-1]]
            lengths = [rng.choice([0, 4, 12, 31]) for _ in range(cols)]
            first, valid, borrow_in = (rng.getrandbits(cols) for _ in range(3))
            if cycle < cols:
                first = 7  # What the registers held before is unknown.
            ctx.set(row.a_in, moving[0] & 0xFF)
            ctx.set(row.psum_in, sum(x << 32 * c for c, x in enumerate(above)))
            ctx.set(row.lengths, sum(length << 6 * c for c, length in enumerate(lengths)))
            ctx.set(row.first, first)
            ctx.set(row.valid, valid)
            ctx.set(row.borrow_in, borrow_in)
            sums, borrow_out = [], 0
            for c in range(cols):
                y = moving[c] * weights[c] & 0xFFFFFFFF
                captured, settled = model(above[c], y, stale[c], lengths[c], 32)
                wrong = captured != settled and not first >> c & 1
                borrowed = borrow_in >> c & 1
                sums.append(above[c] if borrowed else settled)
                borrow_out |= (wrong and not borrowed) << c
                stale[c] = settled
                seen[valid >> c & 1] += borrowed
                seen[2 + borrowed] += wrong
            await ctx.tick()
            if cycle >= cols:
                out = ctx.get(row.psum_out)
                assert [out >> 32 * c & 0xFFFFFFFF for c in range(cols)] == sums, f"cycle {cycle}"
                assert ctx.get(row.borrow_out) == borrow_out, f"cycle {cycle}"
                assert ctx.get(row.dropped) == (borrow_in & valid).bit_count(), f"cycle {cycle}"

    simulate(row, bench)
    assert min(seen) > 50


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_a_total_of_all_flags_does_not_overflow(count):
    m, total = Module(), Signal(8)
    m.d.sync += total.eq(total_of([Const(1, 1)] * count))

    async def bench(ctx):
        await ctx.tick()
        assert ctx.get(total) == count

    simulate(m, bench)
