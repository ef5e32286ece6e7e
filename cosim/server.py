"""The cocotb test inside a simulator process: serves one `Simulator` until it closes the socket.

Simulated time passes only while a request needs it. Between requests this blocks in a read and nothing runs.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import cocotb
from cocotb.triggers import Timer, Trigger

from brownout.hw.registers import OFFSETS, counter_offset

from .dram import BANDWIDTH_ONE, DramModel
from .drivers import AxiLiteDriver, RingDriver
from .link import LinkClosed, SimulatorLink
from .verilated import CLOCK_PERIOD_PS

RESET_CYCLES = 4


def _next_cycle() -> Trigger:
    return Timer(CLOCK_PERIOD_PS, "ps")


class Server:
    """Requests of one host.

    Parameters
    ----------
    dut : cocotb handle
        Top of the simulated hierarchy.
    """

    def __init__(self, dut: Any) -> None:
        self._dut = dut
        self._bus = AxiLiteDriver(dut, _next_cycle)
        self._ring = RingDriver(dut, self._bus)
        self._memory = DramModel()
        self._served = -1

    async def reset(self, request: dict[str, Any]) -> dict[str, Any]:
        """Assert the reset pin for a few cycles; memory keeps its content."""
        self._dut.rst.value = 1
        await Timer(RESET_CYCLES * CLOCK_PERIOD_PS, "ps")
        self._dut.rst.value = 0
        await _next_cycle()
        return {}

    async def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read registers at ``addresses``."""
        return {"values": await self._bus.read_many(request["addresses"])}

    async def write(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write ``pairs`` of address and value."""
        for address, value in request["pairs"]:
            await self._bus.write(address, value)
        return {}

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ring the doorbell with ``tail``, wait for the interrupt, acknowledge it.

        Before, the memory rests until its credit of bandwidth, at most a beat of ``bus_bytes``, is full. So how long a
        command takes does not depend on what the host did since the last one.
        """
        beat = request["bus_bytes"] * BANDWIDTH_ONE
        await Timer(-(-beat // self._memory.get("bandwidth")) * CLOCK_PERIOD_PS, "ps")
        run = await self._ring.run_to(request["tail"])
        reply = {"began": run.began, "retired": run.retired, "completed": run.completed}
        if (stop := run.stop) is not None:
            reply |= {"error_cause": stop.cause, "error_index": stop.index, "head": stop.head}
        return reply

    async def counters(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a snapshot of the counters and read those of some ``indices``."""
        await self._bus.write(OFFSETS["SNAPSHOT"], 1)
        offsets = [counter_offset(index) for index in request["indices"]]
        words = await self._bus.read_many([offset + half for offset in offsets for half in (0, 4)])
        values = [low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True)]
        return {"values": values, "row_activations": self._memory.get("row_activations")}

    async def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change ``settings`` of the memory model."""
        for name, value in request["settings"].items():
            self._memory.set(name, value)
        return {}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Reply to one request, under its number; what goes wrong is part of the reply."""
        number, host = request["number"], int(os.environ["BROWNOUT_PARENT_PID"])
        if number[0] != host:
            # It has inherited the socket. The reply may reach the host, which knows by the number that it is not its.
            return {"number": number, "failed": f"process {number[0]} has not started this simulator, but {host}"}
        if number[1] != self._served + 1:
            return {"number": number, "failed": f"request {number[1]} came after request {self._served}"}
        self._served += 1
        try:
            handlers = {
                "reset": self.reset,
                "read": self.read,
                "write": self.write,
                "run": self.run,
                "counters": self.counters,
                "memory": self.memory,
            }
            reply = await handlers[request["op"]](request)
        except Exception as error:
            # The host decides what it means; this process stays usable.
            reply = {"failed": f"{type(error).__name__}: {error}"}
        if self._memory.get("violations"):
            reply["axi_violation"] = self._memory.violation()
            self._memory.clear_violations()
        return {**reply, "number": number}


@cocotb.test()
async def serve(dut: Any) -> None:
    """Serve until the host closes the socket."""
    link = SimulatorLink(socket.socket(fileno=int(os.environ["BROWNOUT_SOCKET_FD"])))
    server = Server(dut)
    await server.reset({})
    link.send({"ready": True, "pid": os.getpid()})
    while True:
        try:
            request = link.receive()
            link.send(await server.answer(request))
        except LinkClosed:
            return
