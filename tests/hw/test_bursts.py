import random

import pytest

from brownout.hw.bus.bursts import RowBursts
from brownout.hw.config import AcceleratorConfig

from .amaranth_bench import simulate


@pytest.mark.parametrize("bus_bytes", [4, 16, 64])
def test_bursts_cover_the_rows_and_are_legal(bus_bytes):
    seed = bus_bytes
    print("seed", seed)
    rng = random.Random(seed)
    most_bytes = 9000
    bursts = RowBursts(AcceleratorConfig(bus_bytes=bus_bytes), most_rows=20, most_row_bytes=most_bytes)
    jobs = [(4096 - bus_bytes, bus_bytes, 3, 2), (0, 4096, 1, most_bytes // bus_bytes)]
    for _ in range(8):
        jobs.append(
            (rng.randrange(1 << 20), rng.randrange(1 << 12) * bus_bytes, rng.randint(1, 20),
             rng.randint(1, most_bytes // bus_bytes))
        )  # fmt: skip

    async def bench(ctx):
        for addr, stride, rows, beats in jobs:
            for name, value in (("addr", addr), ("stride", stride), ("rows", rows), ("beats", beats), ("start", 1)):
                ctx.set(getattr(bursts, name), value)
            await ctx.tick()
            ctx.set(bursts.start, 0)
            covered = []
            while ctx.get(bursts.busy):
                ready = rng.random() < 0.7
                ctx.set(bursts.request.ready, ready)
                if ready and ctx.get(bursts.request.valid):
                    first, count = ctx.get(bursts.request.payload.addr), ctx.get(bursts.request.payload.len) + 1
                    assert first % bus_bytes == 0
                    assert count <= 256
                    assert first // 4096 == (first + count * bus_bytes - 1) // 4096
                    covered += [first + i * bus_bytes for i in range(count)]
                await ctx.tick()
            expected = [
                (addr + row * stride) // bus_bytes * bus_bytes + beat * bus_bytes
                for row in range(rows)
                for beat in range(beats)
            ]
            assert covered == expected
            assert ctx.get(bursts.next_row) == addr + rows * stride

    simulate(bursts, bench)
