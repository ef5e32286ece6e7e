import random

import pytest

from brownout.hw.config import AcceleratorConfig
from brownout.hw.drain.packer import Packer

from .amaranth_bench import simulate


@pytest.mark.parametrize("lanes", [1, 3, 8])
@pytest.mark.parametrize("size", [0, 1, 2])
def test_beats_carry_every_byte_of_a_row_once_and_nothing_else(lanes, size):
    seed = 10 * lanes + size
    print("seed", seed)
    rng = random.Random(seed)
    bus_bytes, element_bytes = 8, 1 << size
    packer = Packer(AcceleratorConfig(cols=16, bus_bytes=bus_bytes, drain_lanes=lanes))
    blocks = []
    for _ in range(6):
        offset = rng.randrange(bus_bytes) // element_bytes * element_bytes
        rows = [
            [bytes(rng.randrange(256) for _ in range(element_bytes * rng.randint(1, lanes))) for _ in range(length)]
            for length in [rng.randint(1, 6)] * rng.randint(1, 4)
        ]
        blocks.append((offset, rows))

    async def bench(ctx):
        ctx.set(packer.size, size)
        for offset, rows in blocks:
            ctx.set(packer.offset, offset)
            chunks = [(chunk, index + 1 == len(row)) for row in rows for index, chunk in enumerate(row)]
            expected = []
            for row in rows:
                data = b"".join(row)
                cells = [None] * offset + list(data)
                cells += [None] * (-len(cells) % bus_bytes)
                expected += [cells[i : i + bus_bytes] for i in range(0, len(cells), bus_bytes)]
            got = []
            for _ in range(1000):
                offered = bool(chunks) and rng.random() < 0.8
                ctx.set(packer.chunk.valid, offered)
                if chunks:
                    data, row_end = chunks[0]
                    # Bytes beyond the count are noise that must not come out.
                    noise = int.from_bytes(
                        data + bytes(rng.randrange(256) for _ in range(4 * lanes - len(data))), "little"
                    )
                    ctx.set(packer.chunk.payload.elements, noise)
                    ctx.set(packer.chunk.payload.count, len(data) // element_bytes)
                    ctx.set(packer.chunk.payload.row_end, row_end)
                ready = rng.random() < 0.7
                ctx.set(packer.beat.ready, ready)
                if ready and ctx.get(packer.beat.valid):
                    beat = ctx.get(packer.beat.payload.data).to_bytes(bus_bytes, "little")
                    strobes = ctx.get(packer.beat.payload.strb)
                    got.append([byte if strobes >> i & 1 else None for i, byte in enumerate(beat)])
                taken = offered and ctx.get(packer.chunk.ready)
                await ctx.tick()
                if taken:
                    chunks.pop(0)
                if not chunks and ctx.get(packer.empty):
                    break
            assert got == expected

    simulate(packer, bench)
