"""What goes wrong on the memory bus ends in a named error, and once the bus is well the next command passes."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import Timer, with_timeout

from brownout.cosim import CLOCK_PERIOD_PS
from brownout.cosim.errors import CommandError
from brownout.cosim.scoreboard import GemmCase
from brownout.cosim.testbench import Testbench
from brownout.hw.commands import ErrorCause, Opcode, PlainCommand
from brownout.hw.registers import STATUS_DRAINING

TIMEOUT_CYCLES = 120
ALWAYS = 1 << 16
"""As a chance to stall, per 65536."""

CHANNELS = ("aw", "w", "b", "ar", "r")

PHASES = {
    "before": 0,
    "fetch": 5,
    "load": 150,
    "drain": 1500,
}
"""Cycles from the doorbell until something goes wrong: the command is there after 80, the first block written from
1100 on, the last operands are read at 3000."""


def cycles(count: int) -> Timer:
    return Timer(max(1, count) * CLOCK_PERIOD_PS, "ps")


def product(bench: Testbench, base: int, m: int = 600) -> GemmCase:
    """Five blocks of rows, so that reads and writes go on to the end; bursts of two beats."""
    rng = np.random.default_rng(m)
    a, w = rng.integers(-128, 128, (m, 20), np.int8), rng.integers(-128, 128, (20, 2), np.int8)
    return GemmCase(bench.config, a, w, base=base)


async def fails(bench: Testbench, case: GemmCase) -> ErrorCause:
    """Run a case that fails; its cause."""
    with pytest.raises(CommandError) as caught:
        await with_timeout(bench.run([case.command().encode()]), 100_000 * CLOCK_PERIOD_PS, "ps")
    return caught.value.cause


async def passes(bench: Testbench) -> None:
    """The next command is right to the byte, and the bus rests after it."""
    case = product(bench, 1 << 20, 9)
    await with_timeout(bench.run_case(case), 100_000 * CLOCK_PERIOD_PS, "ps")
    assert await bench.bus.read_register("STATUS") == 0


async def start(dut: Any) -> Testbench:
    bench = await Testbench.start(dut)
    await bench.bus.write_register("TIMEOUT", TIMEOUT_CYCLES)
    return bench


@cocotb.test()
@cocotb.parametrize(channel=CHANNELS)
async def a_channel_that_stalls_for_three_time_outs_in_any_phase(dut: Any, channel: str) -> None:
    bench = await start(dut)
    case = product(bench, 0)
    for after in PHASES.values():
        case.write(bench.memory)

        async def stall(after: int = after) -> None:
            await cycles(after)
            bench.dram.set(f"stall_{channel}", ALWAYS)

        stalling = cocotb.start_soon(stall())
        # After one time-out, and another one for draining.
        assert await fails(bench, case) is ErrorCause.BUS_TIMEOUT
        await stalling
        assert await bench.bus.read_register("STATUS") == STATUS_DRAINING
        await cycles(TIMEOUT_CYCLES)
        bench.dram.set(f"stall_{channel}", 0)
        await passes(bench)
        case.check_around(bench.memory)


@cocotb.test()
async def computing_without_the_bus_for_longer_than_the_time_out(dut: Any) -> None:
    bench = await start(dut)
    await bench.run_case(product(bench, 0))


@cocotb.test()
async def commands_on_a_dead_bus_fail_one_by_one_until_it_is_well(dut: Any) -> None:
    bench = await start(dut)
    case = product(bench, 0)
    case.write(bench.memory)
    bench.dram.set("stall_w", ALWAYS)
    for _ in range(3):
        assert await fails(bench, case) is ErrorCause.BUS_TIMEOUT
        assert await bench.bus.read_register("STATUS") == STATUS_DRAINING
    bench.dram.set("stall_w", 0)
    await passes(bench)


@cocotb.test()
@cocotb.parametrize(channel=CHANNELS)
async def a_soft_reset_without_time_out_on_a_dead_bus(dut: Any, channel: str) -> None:
    bench = await start(dut)
    await bench.bus.write_register("TIMEOUT", 0)
    case = product(bench, 0)
    case.write(bench.memory)
    for after in PHASES.values():
        running = cocotb.start_soon(bench.run([case.command().encode()]))
        await cycles(after + 20)
        bench.dram.set(f"stall_{channel}", ALWAYS)
        await cycles(1000)
        running.cancel()
        await bench.bus.write_register("CONTROL", 1)
        await cycles(30)
        assert await bench.bus.read_register("STATUS") & ~STATUS_DRAINING == 0
        registers = [await bench.bus.read_register(name) for name in ("IRQ", "RING_HEAD", "RING_TAIL", "ERROR_CAUSE")]
        assert registers == [0, 0, 0, 0]
        assert dut.irq.value == 0
        bench.dram.set(f"stall_{channel}", 0)
        await bench.soft_reset()
        await passes(bench)


@cocotb.test()
@cocotb.parametrize(
    (
        ("knob", "cause"),
        [
            ("short_reads", ErrorCause.READ_LENGTH),
            ("surplus_r", ErrorCause.READ_SURPLUS),
            ("surplus_b", ErrorCause.WRITE_SURPLUS),
        ],
    )
)
async def answers_that_are_too_short_or_too_many(dut: Any, knob: str, cause: ErrorCause) -> None:
    bench = await start(dut)
    case = product(bench, 0)
    for after in PHASES.values():
        case.write(bench.memory)

        async def disturb(after: int = after) -> None:
            await cycles(after)
            bench.dram.set(knob, 1)

        disturbing = cocotb.start_soon(disturb())
        assert await fails(bench, case) is cause
        await disturbing
        await passes(bench)


@cocotb.test()
async def a_fence_does_not_hide_a_surplus_answer(dut: Any) -> None:
    bench = await start(dut)
    bench.dram.set("surplus_b", 1)
    with pytest.raises(CommandError) as caught:
        await bench.run([PlainCommand(opcode=Opcode.FENCE).encode()])
    assert caught.value.cause is ErrorCause.WRITE_SURPLUS
    await passes(bench)
