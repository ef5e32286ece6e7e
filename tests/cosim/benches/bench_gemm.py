"""Matrix products through the command ring, checked by the scoreboard."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from brownout.cosim import CommandError, StallConfig
from brownout.cosim.reference.golden import ChannelTable
from brownout.cosim.scoreboard import GemmCase
from brownout.cosim.testbench import Testbench
from brownout.hw.commands import ErrorCause


def random_case(bench: Testbench, rng: np.random.Generator, m: int, n: int, k: int, requantise: bool) -> GemmCase:
    a = rng.integers(-128, 128, (m, k), dtype=np.int8)
    w = rng.integers(-128, 128, (k, n), dtype=np.int8)
    bias = rng.integers(-1000, 1000, n, dtype=np.int32)
    table = ChannelTable(bias, rng.integers(1, 1 << 20, n), rng.integers(20, 32, n))
    return GemmCase(bench.config, a, w, channels=table, requantise=requantise, row_padding=1)


@cocotb.test()
@cocotb.parametrize(requantise=[False, True])
async def products_match(dut: Any, requantise: bool) -> None:
    bench = await Testbench.start(dut)
    rng = np.random.default_rng(1)
    for m, n, k in ((1, 1, 1), (5, 6, 7), (9, 4, 13)):
        await bench.run_case(random_case(bench, rng, m, n, k, requantise))


@cocotb.test()
async def products_match_under_back_pressure(dut: Any) -> None:
    bench = await Testbench.start(dut)
    bench.stall(StallConfig(seed=3, aw=0.5, w=0.5, b=0.5, ar=0.5, r=0.5))
    await bench.run_case(random_case(bench, np.random.default_rng(2), 7, 9, 11, True))


@cocotb.test()
async def refused_command_reads_and_writes_no_operand(dut: Any) -> None:
    """Watches the memory bus: nothing but the command itself is fetched."""
    bench = await Testbench.start(dut)
    case = random_case(bench, np.random.default_rng(3), 2, 2, 2, False)
    case.write(bench.memory)
    addresses: list[tuple[str, int]] = []

    async def watch() -> None:
        while True:
            await FallingEdge(dut.clk)
            for channel in ("ar", "aw"):
                if getattr(dut, f"m_axi_{channel}valid").value == 1:
                    addresses.append((channel, int(getattr(dut, f"m_axi_{channel}addr").value)))

    watcher = cocotb.start_soon(watch())
    with pytest.raises(CommandError) as caught:
        await bench.run([case.command(k=0).encode()])
    watcher.cancel()
    assert caught.value.cause is ErrorCause.K
    assert {channel for channel, _ in addresses} == {"ar"}
    assert all(address >= bench.config.memory.size_bytes // 4 * 3 for _, address in addresses)
    case.check_untouched(bench.memory)
    await bench.run_case(case)
