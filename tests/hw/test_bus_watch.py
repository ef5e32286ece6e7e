import pytest

from brownout.hw.commands import ErrorCause
from brownout.hw.control.bus_watch import LEAST_STALL_CYCLES, BusWatch

from .amaranth_bench import simulate

DEADLINE_CYCLES = 1000


def run(bench, **inputs):
    watch = BusWatch()

    async def wrapped(ctx):
        setting(ctx, watch, restart=1, **inputs)
        await ctx.tick()
        await ctx.tick()  # in the first one `idle` changes
        ctx.set(watch.restart, 0)
        await bench(ctx, watch)

    simulate(watch, wrapped)


def setting(ctx, watch, **inputs):
    for name, value in inputs.items():
        ctx.set(getattr(watch, name), value)


async def cycles_to_expiry(ctx, watch):
    for cycle in range(DEADLINE_CYCLES):
        if ctx.get(watch.expired):
            return cycle
        await ctx.tick()
    return None


@pytest.mark.parametrize(
    ("inputs", "cycles", "cause"),
    [
        ({"idle": 0, "running": 1, "moving": 1, "timeout": 100}, 100, ErrorCause.BUS_TIMEOUT),
        ({"idle": 0, "running": 0, "timeout": 7}, 7, ErrorCause.BUS_TIMEOUT),
        ({"idle": 1, "running": 1, "timeout": 200}, 255, ErrorCause.STALLED),
        ({"idle": 1, "running": 1, "timeout": 3}, LEAST_STALL_CYCLES - 1, ErrorCause.STALLED),
        ({"idle": 1, "running": 0, "timeout": 3}, None, None),
        ({"idle": 1, "running": 1, "moving": 1, "timeout": 3}, None, None),
        ({"idle": 0, "progress": 1, "timeout": 3}, None, None),
        ({"idle": 0, "running": 1, "timeout": 0}, None, None),
        ({"idle": 1, "running": 1, "timeout": 0}, None, None),
    ],
)
def test_what_stands_still_is_given_up(inputs, cycles, cause):
    async def bench(ctx, watch):
        assert await cycles_to_expiry(ctx, watch) == cycles
        if cause is not None:
            assert ctx.get(watch.cause) == cause
            await ctx.tick().repeat(5)
            assert ctx.get(watch.expired)

    run(bench, **inputs)


@pytest.mark.parametrize("event", [{"progress": 1}, {"restart": 1}, {"idle": 1}])
def test_a_move_or_a_restart_begins_a_whole_time_out(event):
    async def bench(ctx, watch):
        await ctx.tick().repeat(9)
        assert not ctx.get(watch.expired)
        setting(ctx, watch, **event)
        await ctx.tick()
        setting(ctx, watch, **dict.fromkeys(event, 0))
        await ctx.tick().repeat(9)
        assert not ctx.get(watch.expired)
        await ctx.tick().repeat(2)
        assert ctx.get(watch.expired)

    run(bench, idle=0, timeout=10)


def test_ports_are_stopped_until_nothing_is_outstanding_whatever_happens():
    async def bench(ctx, watch):
        assert not ctx.get(watch.stop)
        setting(ctx, watch, idle=0, abandon=1)
        assert ctx.get(watch.stop)
        await ctx.tick()
        ctx.set(watch.abandon, 0)
        for restart in (0, 1, 0):
            ctx.set(watch.restart, restart)
            await ctx.tick().repeat(20)
            assert ctx.get(watch.stop)
        ctx.set(watch.idle, 1)
        await ctx.tick()
        assert not ctx.get(watch.stop)

    run(bench, idle=1, timeout=10)


def test_abandoning_with_nothing_outstanding_stops_for_that_cycle():
    async def bench(ctx, watch):
        ctx.set(watch.abandon, 1)
        assert ctx.get(watch.stop)
        await ctx.tick()
        ctx.set(watch.abandon, 0)
        assert not ctx.get(watch.stop)

    run(bench, idle=1)
