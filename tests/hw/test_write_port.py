import pytest
from amaranth.hdl import ResetInserter, Signal

from brownout.hw.bus.write_port import WritePort
from brownout.hw.config import AcceleratorConfig

from .amaranth_bench import simulate


def run(bench):
    port = WritePort(AcceleratorConfig(rows=1, cols=1, bus_bytes=4, write_outstanding=2))

    async def wrapped(ctx):
        ctx.set(port.axi.awready, 1)
        await bench(ctx, port)

    simulate(port, wrapped)


async def request(ctx, port, beats):
    ctx.set(port.request.payload.len, beats - 1)
    ctx.set(port.request.valid, 1)
    await ctx.tick()
    ctx.set(port.request.valid, 0)
    await ctx.tick().repeat(3)


def offer(ctx, port, data, strobes=0xF):
    ctx.set(port.beat.payload.data, data)
    ctx.set(port.beat.payload.strb, strobes)
    ctx.set(port.beat.valid, 1)


def on_bus(ctx, port):
    axi = port.axi
    return tuple(ctx.get(signal) for signal in (axi.wvalid, axi.wdata, axi.wstrb, axi.wlast))


async def respond(ctx, port, response=0):
    ctx.set(port.axi.bvalid, 1)
    ctx.set(port.axi.bresp, response)
    pulses = ctx.get(port.error), ctx.get(port.surplus)
    await ctx.tick()
    ctx.set(port.axi.bvalid, 0)
    return pulses


def test_beats_pass_in_the_cycle_in_which_they_are_offered():
    async def bench(ctx, port):
        await request(ctx, port, 3)
        ctx.set(port.axi.wready, 1)
        for data in (1, 2, 3):
            offer(ctx, port, data)
            assert on_bus(ctx, port) == (1, data, 0xF, data == 3)
            assert ctx.get(port.beat.ready)
            await ctx.tick()
        assert not ctx.get(port.idle)
        assert await respond(ctx, port) == (0, 0)
        assert ctx.get(port.idle)

    run(bench)


@pytest.mark.parametrize("stop_ends", [False, True])
def test_a_beat_that_was_offered_outlives_stop_and_datapath(stop_ends):
    async def bench(ctx, port):
        await request(ctx, port, 2)
        offer(ctx, port, 0x1234, 0x3)
        await ctx.tick()
        ctx.set(port.stop, 1)
        assert on_bus(ctx, port) == (1, 0x1234, 0x3, 0)
        await ctx.tick()
        ctx.set(port.beat.valid, 0)  # the datapath is reset
        ctx.set(port.beat.payload.data, 0)
        ctx.set(port.stop, not stop_ends)
        for _ in range(5):
            assert on_bus(ctx, port) == (1, 0x1234, 0x3, 0)
            await ctx.tick()
        ctx.set(port.axi.wready, 1)
        await ctx.tick()
        ctx.set(port.stop, 1)
        assert on_bus(ctx, port) == (1, 0, 0, 1)
        await ctx.tick()
        assert await respond(ctx, port) == (0, 0)
        assert ctx.get(port.idle)

    run(bench)


def test_the_reset_pin_takes_back_what_is_offered():
    port = WritePort(AcceleratorConfig(rows=1, cols=1, bus_bytes=4, write_outstanding=2))
    reset = Signal()

    async def bench(ctx):
        ctx.set(port.axi.awready, 1)
        await request(ctx, port, 2)
        offer(ctx, port, 1)
        await ctx.tick()
        ctx.set(port.beat.valid, 0)
        assert on_bus(ctx, port)[0]
        ctx.set(reset, 1)
        await ctx.tick()
        assert not on_bus(ctx, port)[0]
        assert ctx.get(port.idle)

    simulate(ResetInserter(reset)(port), bench)


def test_a_blank_beat_that_was_offered_outlives_the_end_of_stop():
    async def bench(ctx, port):
        await request(ctx, port, 2)
        ctx.set(port.stop, 1)
        await ctx.tick()
        assert on_bus(ctx, port)[:1] + on_bus(ctx, port)[2:] == (1, 0, 0)
        ctx.set(port.stop, 0)
        offer(ctx, port, 0x55)
        for ready in (0, 0, 1):
            ctx.set(port.axi.wready, ready)
            assert on_bus(ctx, port) == (1, 0, 0, 0)
            assert not ctx.get(port.beat.ready)
            await ctx.tick()
        assert on_bus(ctx, port) == (1, 0x55, 0xF, 1)
        assert ctx.get(port.beat.ready)

    run(bench)


def test_responses_that_are_not_due_are_dropped_and_named():
    async def bench(ctx, port):
        assert await respond(ctx, port, 2) == (0, 1)
        assert ctx.get(port.idle)
        await request(ctx, port, 2)
        ctx.set(port.axi.wready, 1)
        offer(ctx, port, 1)
        await ctx.tick()
        assert await respond(ctx, port, 2) == (0, 1)
        ctx.set(port.beat.valid, 0)
        assert not ctx.get(port.idle)
        assert await respond(ctx, port, 2) == (1, 0)
        assert ctx.get(port.idle)

    run(bench)
