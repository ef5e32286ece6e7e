import pytest

from brownout.hw.commands import COMMAND_BYTES, ErrorCause
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.ring import Ring

from .amaranth_bench import simulate

ADDRESS_BITS = 32
TOP = 1 << ADDRESS_BITS


def run(bench):
    ring = Ring(AcceleratorConfig(rows=1, cols=1, address_bits=ADDRESS_BITS))

    async def wrapped(ctx):
        await bench(ctx, ring)

    simulate(ring, wrapped)


def write(ctx, ring, base, entries, tail):
    for signal, value in ((ring.base, base), (ring.entries, entries), (ring.tail, tail)):
        ctx.set(signal, value)


async def pulse(ctx, signal):
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


@pytest.mark.parametrize(
    ("base", "entries", "tail", "cause"),
    [
        (0x1000, 2, 1, "NONE"),
        (0x1080, 2, 1, "RING_BASE"),
        (TOP, 2, 1, "RING_BASE"),
        (1 << 63, 2, 1, "RING_BASE"),
        (TOP - 2 * COMMAND_BYTES, 2, 1, "NONE"),
        (TOP - 2 * COMMAND_BYTES, 3, 1, "RING_BASE"),
        (TOP - COMMAND_BYTES, 65535, 1, "RING_BASE"),
        (0, 0, 0, "RING_ENTRIES"),
        (0, 1, 0, "RING_ENTRIES"),
        (0, 65535, 65534, "NONE"),
        (0, 65536, 1, "RING_ENTRIES"),
        (0, 0x10004, 1, "RING_ENTRIES"),
        (0, 4, 4, "RING_TAIL"),
        (0, 4, 0x10001, "RING_TAIL"),
        (0, 4, 1 << 31, "RING_TAIL"),
    ],
)
def test_registers_that_describe_no_ring_are_named(base, entries, tail, cause):
    async def bench(ctx, ring):
        write(ctx, ring, base, entries, tail)
        assert ErrorCause(ctx.get(ring.cause)).name == cause

    run(bench)


def test_a_ring_that_has_shrunk_below_its_head_is_named_until_it_is_reset():
    async def bench(ctx, ring):
        write(ctx, ring, 0x1000, 8, 7)
        await pulse(ctx, ring.latch)
        for _ in range(5):
            await pulse(ctx, ring.advance)
        for entries, cause in ((6, "NONE"), (5, "RING_HEAD"), (2, "RING_HEAD")):
            write(ctx, ring, 0x1000, entries, 1)
            assert ErrorCause(ctx.get(ring.cause)).name == cause
        await pulse(ctx, ring.clear)
        assert (ctx.get(ring.head), ErrorCause(ctx.get(ring.cause)).name) == (0, "NONE")

    run(bench)


def test_only_what_was_latched_counts():
    async def bench(ctx, ring):
        write(ctx, ring, 0x1000, 3, 2)
        await pulse(ctx, ring.latch)
        write(ctx, ring, 0x8000, 9, 8)
        seen = []
        for _ in range(4):
            seen.append((ctx.get(ring.head), ctx.get(ring.address), ctx.get(ring.at_end)))
            await pulse(ctx, ring.advance)
        assert seen == [(0, 0x1000, 0), (1, 0x1100, 1), (2, 0x1200, 0), (0, 0x1000, 0)]
        write(ctx, ring, 0x8001, 9, 8)
        await pulse(ctx, ring.latch)
        assert ctx.get(ring.address) == 0x1100
        write(ctx, ring, 0x8000, 9, 8)
        await pulse(ctx, ring.latch)
        assert ctx.get(ring.address) == 0x8100

    run(bench)


def test_there_is_something_to_do_while_head_is_not_the_tail_of_the_registers():
    async def bench(ctx, ring):
        write(ctx, ring, 0, 4, 0)
        assert not ctx.get(ring.anything)
        for tail in (1, 1 << 16):
            write(ctx, ring, 0, 4, tail)
            assert ctx.get(ring.anything)

    run(bench)
