import random

import pytest

from brownout.hw.config import AcceleratorConfig
from brownout.hw.load.unpacker import Unpacker

from .amaranth_bench import simulate


@pytest.mark.parametrize("element_bytes", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("bus_bytes", [4, 8])
def test_elements_equal_slices_of_the_rows(element_bytes, bus_bytes):
    seed = 100 * element_bytes + bus_bytes
    print("seed", seed)
    rng = random.Random(seed)
    # rows=element_bytes makes the configuration's row offsets multiples of the element, as in the accelerator
    config = AcceleratorConfig(rows=element_bytes, cols=element_bytes, bus_bytes=bus_bytes, slab_bytes=40)
    unpacker = Unpacker(config, element_bytes=element_bytes)
    jobs = []
    for _ in range(12):
        elements = rng.randint(1, 5)
        row_bytes = rng.randint((elements - 1) * element_bytes + 1, elements * element_bytes)
        offset = element_bytes * rng.randint(0, 7) % bus_bytes
        rows, zero_rows = rng.randint(1, 4), rng.choice([0, 0, 1]) if element_bytes > 1 else 0
        jobs.append((rows, zero_rows, elements, row_bytes, offset))

    async def bench(ctx):
        for rows, zero_rows, elements, row_bytes, offset in jobs:
            beats = -(-(offset + row_bytes) // bus_bytes)
            memory = [bytes(rng.randrange(256) for _ in range(beats * bus_bytes)) for _ in range(rows)]
            expected = []
            for row in memory:
                valid = row[offset : offset + row_bytes].ljust(elements * element_bytes, b"\0")
                expected += [valid[i * element_bytes : (i + 1) * element_bytes] for i in range(elements)]
            expected += [bytes(element_bytes)] * (zero_rows * elements)
            queue = [row[i * bus_bytes : (i + 1) * bus_bytes] for row in memory for i in range(beats)]
            for name, value in (
                ("rows", rows), ("zero_rows", zero_rows), ("elements", elements),
                ("row_bytes", row_bytes), ("beats", beats), ("offset", offset),
            ):  # fmt: skip
                ctx.set(getattr(unpacker.job, name), value)
            ctx.set(unpacker.start, 1)
            await ctx.tick()
            ctx.set(unpacker.start, 0)
            got, ends = [], []
            for _ in range(2000):
                offered = bool(queue) and rng.random() < 0.7
                ctx.set(unpacker.beat.valid, offered)
                ctx.set(unpacker.beat.payload, int.from_bytes(queue[0], "little") if queue else 0)
                if ctx.get(unpacker.valid):
                    got.append(ctx.get(unpacker.element).to_bytes(element_bytes, "little"))
                    ends.append(ctx.get(unpacker.row_end))
                    finished = ctx.get(unpacker.job_end)
                else:
                    finished = False
                taken = offered and ctx.get(unpacker.beat.ready)
                await ctx.tick()
                if taken:
                    queue.pop(0)
                if finished:
                    break
            assert got == expected
            assert ends == ([0] * (elements - 1) + [1]) * (rows + zero_rows)
            assert not queue
            assert not ctx.get(unpacker.busy)

    simulate(unpacker, bench)
