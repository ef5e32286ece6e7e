import random

from brownout.hw.array.row import ArrayRow
from brownout.hw.config import AcceleratorConfig

from .amaranth_bench import simulate


def wrap32(value):
    return (value + 2**31) % 2**32 - 2**31


def test_sums_wrap_and_weights_swap_while_others_load():
    cols, seed = 3, 7
    print("seed", seed)
    rng = random.Random(seed)
    row = ArrayRow(AcceleratorConfig(rows=2, cols=cols))

    async def bench(ctx):
        active = shadow = None
        moving = [0] * cols  # activation at each column; column 0 is the input
        sums = None
        for cycle in range(300):
            load, swap = cycle == 0 or rng.random() < 0.3, cycle == 1 or rng.random() < 0.3
            weights = [rng.choice([-128, 127, rng.randint(-128, 127)]) for _ in range(cols)]
            psum_in = [rng.choice([2**31 - 1, -(2**31), rng.randint(-(2**31), 2**31 - 1)]) for _ in range(cols)]
            moving[0] = rng.choice([-128, 127, rng.randint(-128, 127)])
            ctx.set(row.a_in, moving[0] & 0xFF)
            ctx.set(row.w_in, sum((w & 0xFF) << 8 * c for c, w in enumerate(weights)))
            ctx.set(row.load, 2**cols - 1 if load else 0)
            ctx.set(row.swap, 2**cols - 1 if swap else 0)
            ctx.set(row.psum_in, sum((p & 0xFFFFFFFF) << 32 * c for c, p in enumerate(psum_in)))
            if active is not None and cycle >= cols + 2:
                sums = [wrap32(psum_in[c] + moving[c] * active[c]) for c in range(cols)]
            # `swap` sees the shadow of before this cycle's `load`.
            if swap and shadow is not None:
                active = shadow
            if load:
                shadow = weights
            moving = [0, *moving[:-1]]
            await ctx.tick()
            if sums is not None:
                out = ctx.get(row.psum_out)
                assert [wrap32(out >> 32 * c & 0xFFFFFFFF) for c in range(cols)] == sums, f"cycle {cycle}"

    simulate(row, bench)
