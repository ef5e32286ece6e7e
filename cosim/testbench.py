"""Base of cocotb testbenches: clock, reset, registers, command ring, memory and scoreboard of one device.

A testbench runs with cocotb's own main (`brownout.cosim.run_tests`), so it may wait for any edge of the pins of the
simulation top. The configuration comes from the environment that `run_tests` sets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from brownout.hw.commands import COMMAND_BYTES, ErrorCause
from brownout.hw.config import AcceleratorConfig

from .dram import DramModel, StallConfig
from .drivers import AxiLiteDriver, RingDriver
from .errors import AxiViolation, CommandError, ProtocolError
from .scoreboard import GemmCase
from .simulator import ring_bytes
from .verilated import CLOCK_PERIOD_PS

CONFIG_VARIABLE = "BROWNOUT_CONFIG"
RESET_CYCLES = 4


def configuration() -> AcceleratorConfig:
    """Configuration of the device under test."""
    return AcceleratorConfig.from_dict(json.loads(os.environ[CONFIG_VARIABLE]))


class Testbench:
    """The device under test with its drivers. Create it with `start`, which also resets knobs of the memory model.

    Attributes
    ----------
    dut : cocotb handle
        The simulation top; the memory bus is there as ``m_axi_*``.
    config : AcceleratorConfig
        Configuration of the device.
    bus : AxiLiteDriver
        Driver of the register interface.
    ring : RingDriver
        Driver of the command ring: doorbell and interrupt.
    dram : DramModel
        Timing, test knobs and statistics of the memory.
    memory : uint8 array
        All of the memory, shared with the model.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.config = configuration()
        self.bus = AxiLiteDriver(dut, lambda: FallingEdge(dut.clk))
        self.ring = RingDriver(dut, self.bus, lambda: FallingEdge(dut.clk))
        self.dram = DramModel()
        self.memory = np.ctypeslib.as_array(self.dram.buffer())
        size = self.config.memory.size_bytes
        self._ring_base = size - ring_bytes(size)
        self._entries = ring_bytes(size) // COMMAND_BYTES
        self._tail = 0

    @classmethod
    async def start(cls, dut: Any) -> Testbench:
        """Start the clock, reset the device and configure its ring."""
        dut.rst.value = 1
        Clock(dut.clk, CLOCK_PERIOD_PS, "ps").start(start_high=False)
        await FallingEdge(dut.clk)  # the memory model exists from the first evaluation on
        bench = cls(dut)
        # The model belongs to the process, so it still has what the test before this one asked of it.
        bench.stall(StallConfig())
        knobs = ("hang", "slverr_base", "slverr_limit", "wrong_id_base", "wrong_id_limit")
        for knob in (*knobs, "short_reads", "surplus_r", "surplus_b"):
            bench.dram.set(knob, 0)
        for _ in range(RESET_CYCLES):
            await FallingEdge(dut.clk)
        dut.rst.value = 0
        await FallingEdge(dut.clk)
        await bench._configure_ring()
        return bench

    async def _configure_ring(self) -> None:
        self._tail = await self.ring.configure(self._ring_base, self._entries)

    async def soft_reset(self) -> None:
        """Reset the device through its CONTROL register, wait until its memory bus rests and configure its ring."""
        await self.bus.write_register("CONTROL", 1)
        while await self.bus.read_register("STATUS"):
            pass
        await self._configure_ring()

    def stall(self, stalls: StallConfig) -> None:
        """Put random back-pressure on the channels of the memory bus."""
        for name, value in stalls.settings().items():
            self.dram.set(name, value)

    async def run(self, commands: Sequence[bytes]) -> None:
        """Run fewer commands than the ring holds.

        Raises
        ------
        CommandError
            A command failed.
        AxiViolation
            The device broke a rule of AXI.
        ProtocolError
            It has not completed as many commands as it was given.
        """
        if len(commands) >= self._entries:
            raise ValueError(f"the ring holds {self._entries - 1} commands, not {len(commands)}")
        first = self._tail
        for i, command in enumerate(commands):
            address = self._ring_base + (first + i) % self._entries * COMMAND_BYTES
            self.memory[address : address + COMMAND_BYTES] = np.frombuffer(command, np.uint8)
        self._tail = (first + len(commands)) % self._entries
        run = await self.ring.run_to(self._tail)
        self.check_axi()
        index = len(commands) if run.stop is None else (run.stop.index - first) % self._entries
        if run.completed != index:
            raise ProtocolError(f"the device has completed {run.completed} commands, but says that {index} succeeded")
        if run.stop is not None:
            self._tail = run.stop.head
            raise CommandError(ErrorCause(run.stop.cause), index)

    async def run_case(self, case: GemmCase) -> None:
        """Put the operands of `case` into memory, run it and check every byte of the case's memory.

        Raises
        ------
        MismatchError, CommandError, AxiViolation
        """
        case.write(self.memory)
        await self.run([case.command().encode()])
        case.check(self.memory)

    def check_axi(self) -> None:
        """Raise `AxiViolation` if the device has broken a rule of AXI since the last look."""
        if message := self.dram.violation():
            self.dram.clear_violations()
            raise AxiViolation(message)
