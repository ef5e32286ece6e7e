from brownout.hw.commands import Opcode, PlainCommand, SetPointCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.settings import Settings

from .amaranth_bench import simulate

CONFIG = AcceleratorConfig(rows=2, cols=2, timing_model="flip", operating_points=3)


def load(ctx, settings, command):
    ctx.set(settings.command, int.from_bytes(command.encode()[: len(settings.command) // 8], "little"))


async def pulse(ctx, signal):
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


def test_what_was_given_up_in_any_cycle_is_not_in_the_way_of_the_next_command():
    settings = Settings(CONFIG)
    slow = SetPointCommand(domain=0, point=2, transition_cycles=1 << 31)

    async def bench(ctx):
        for cycles in range(4):
            load(ctx, settings, slow)
            await pulse(ctx, settings.start)
            for _ in range(cycles):
                await ctx.tick()
            await pulse(ctx, settings.abort)
            assert not ctx.get(settings.in_transition)
            load(ctx, settings, PlainCommand(opcode=Opcode.SNAPSHOT))
            ctx.set(settings.start, 1)
            assert ctx.get(settings.capture), cycles
            await ctx.tick()
            ctx.set(settings.start, 0)
            assert ctx.get(settings.done)
            await ctx.tick()

    simulate(settings, bench)
