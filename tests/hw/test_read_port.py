import pytest

from brownout.hw.bus.read_port import ReadPort
from brownout.hw.commands import ErrorCause
from brownout.hw.config import AcceleratorConfig

from .amaranth_bench import simulate


def run(bench):
    port = ReadPort(AcceleratorConfig(rows=1, cols=1, bus_bytes=4, read_outstanding=3))

    async def wrapped(ctx):
        ctx.set(port.axi.arready, 1)
        ctx.set(port.beat.ready, 1)
        await bench(ctx, port)

    simulate(port, wrapped)


async def request(ctx, port, *beats):
    for count in beats:
        ctx.set(port.request.payload.len, count - 1)
        ctx.set(port.request.valid, 1)
        await ctx.tick()
    ctx.set(port.request.valid, 0)
    await ctx.tick()


async def answer(ctx, port, data, *, last=False, response=0):
    """One beat; what passed on, and the pulses that came with it."""
    for name, value in (("rdata", data), ("rlast", last), ("rresp", response), ("rvalid", 1)):
        ctx.set(getattr(port.axi, name), value)
    assert ctx.get(port.axi.rready)
    passed = ctx.get(port.beat.payload) if ctx.get(port.beat.valid) else None
    pulses = {"surplus"} if ctx.get(port.surplus) else set()
    if ctx.get(port.error):
        pulses.add(ErrorCause(ctx.get(port.cause)).name)
    await ctx.tick()
    ctx.set(port.axi.rvalid, 0)
    return passed, pulses


def test_whole_bursts_pass_without_a_word():
    async def bench(ctx, port):
        await request(ctx, port, 1, 3, 1)
        for data, last in ((10, 1), (11, 0), (12, 0), (13, 1), (14, 1)):
            assert await answer(ctx, port, data, last=last) == (data, set())
        assert ctx.get(port.idle)

    run(bench)


@pytest.mark.parametrize("beats", [1, 2, 3])
def test_a_short_burst_is_named_and_over(beats):
    async def bench(ctx, port):
        await request(ctx, port, 4, 1)
        for index in range(beats):
            last = index == beats - 1
            assert await answer(ctx, port, index, last=last) == (index, {"READ_LENGTH"} if last else set())
        assert await answer(ctx, port, 9, last=1) == (9, set())
        assert ctx.get(port.idle)

    run(bench)


def test_a_burst_that_goes_on_is_named_and_lasts_until_it_ends():
    async def bench(ctx, port):
        await request(ctx, port, 1, 1)
        assert await answer(ctx, port, 1) == (1, {"READ_LENGTH"})
        assert not ctx.get(port.idle)
        assert (await answer(ctx, port, 2, last=1))[1] == {"READ_LENGTH"}
        assert await answer(ctx, port, 3, last=1) == (3, set())
        assert ctx.get(port.idle)

    run(bench)


def test_beats_without_a_burst_are_dropped_and_named_and_the_next_burst_is_whole():
    async def bench(ctx, port):
        ctx.set(port.beat.ready, 0)
        for last in (0, 1, 1):
            assert await answer(ctx, port, 7, last=last) == (None, {"surplus"})
            assert ctx.get(port.idle)
        # Its address waits: this cannot be its data.
        ctx.set(port.axi.arready, 0)
        await request(ctx, port, 2)
        assert await answer(ctx, port, 7, last=1, response=2) == (None, {"surplus"})
        assert not ctx.get(port.idle)
        ctx.set(port.axi.arready, 1)
        ctx.set(port.beat.ready, 1)
        await ctx.tick()
        assert await answer(ctx, port, 8) == (8, set())
        assert await answer(ctx, port, 9, last=1, response=2) == (9, {"AXI_READ"})
        assert ctx.get(port.idle)

    run(bench)
