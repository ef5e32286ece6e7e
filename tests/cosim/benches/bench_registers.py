"""Registers over AXI4-Lite."""

from __future__ import annotations

from typing import Any

import cocotb
import pytest

from brownout.cosim.drivers import AxiLiteError
from brownout.cosim.testbench import Testbench
from brownout.hw.registers import ID_WORD, INTERFACE_VERSION, OFFSETS, REGISTERS


@cocotb.test()
async def identification(dut: Any) -> None:
    bench = await Testbench.start(dut)
    assert await bench.bus.read_register("ID") == ID_WORD
    assert await bench.bus.read_register("VERSION") == INTERFACE_VERSION
    assert await bench.bus.read_register("CONFIG_HASH") == bench.config.hash_word
    assert await bench.bus.read_register("DIMENSIONS") == bench.config.rows | bench.config.cols << 16


@cocotb.test()
async def writable_registers_hold_what_is_written(dut: Any) -> None:
    bench = await Testbench.start(dut)
    values = {"RING_BASE_LO": 0x12345600, "RING_BASE_HI": 0x9A, "RING_ENTRIES": 77, "TIMEOUT": 0xFFFFFFFF}
    for name, value in values.items():
        await bench.bus.write_register(name, value)
    assert await bench.bus.read_many([OFFSETS[name] for name in values]) == list(values.values())


@cocotb.test()
async def illegal_accesses_are_answered_with_an_error(dut: Any) -> None:
    bench = await Testbench.start(dut)
    read_only = [register.offset for register in REGISTERS if register.access == "ro"]
    for address in (*read_only, 0xFFC):
        with pytest.raises(AxiLiteError):
            await bench.bus.write(address, 1)
    with pytest.raises(AxiLiteError):
        await bench.bus.read(0xFFC)
    assert await bench.bus.read_register("ID") == ID_WORD
