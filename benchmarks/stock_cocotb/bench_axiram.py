"""A matrix product on the accelerator driven the usual way: cocotb's main, cocotbext-axi on both buses.

Run by ``benchmarks/cosim.py``. Prints nothing; writes cycles and wall-clock time between doorbell and interrupt to the
file named by BROWNOUT_STOCK_RESULT.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from brownout.cosim import CLOCK_PERIOD_PS
from brownout.cosim.scoreboard import GemmCase
from brownout.cosim.testbench import configuration
from brownout.hw.commands import COMMAND_BYTES
from brownout.hw.registers import IRQ_DONE, OFFSETS

RING_ENTRIES = 16


@cocotb.test()
async def gemm(dut: Any) -> None:
    """One product, checked."""
    config = configuration()
    m, n, k = json.loads(os.environ["BROWNOUT_STOCK_SHAPE"])
    Clock(dut.clk, CLOCK_PERIOD_PS, "ps").start()
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=config.memory.size_bytes)
    registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)

    rng = np.random.default_rng(0)
    a = rng.integers(-128, 128, (m, k), dtype=np.int8)
    w = rng.integers(-128, 128, (k, n), dtype=np.int8)
    case = GemmCase(config, a, w)
    ram.write(0, case.image().tobytes())
    ring_base = config.memory.size_bytes - RING_ENTRIES * COMMAND_BYTES
    ram.write(ring_base, case.command().encode())
    await registers.write_dword(OFFSETS["RING_BASE_LO"], ring_base)
    await registers.write_dword(OFFSETS["RING_BASE_HI"], 0)
    await registers.write_dword(OFFSETS["RING_ENTRIES"], RING_ENTRIES)

    start_s, start_ps = time.perf_counter(), get_sim_time("ps")
    await registers.write_dword(OFFSETS["RING_TAIL"], 1)
    await RisingEdge(dut.irq)
    wall_s = time.perf_counter() - start_s
    cycles = round((get_sim_time("ps") - start_ps) / CLOCK_PERIOD_PS)
    assert await registers.read_dword(OFFSETS["IRQ"]) == IRQ_DONE
    case.check(np.frombuffer(ram.read(0, case.end), np.uint8))
    Path(os.environ["BROWNOUT_STOCK_RESULT"]).write_text(json.dumps({"cycles": cycles, "wall_s": wall_s}))
