"""Cocotb drivers of the device: AXI4-Lite registers and the command ring.

They work under both mains: all waiting goes through one function that returns a trigger for "the next falling edge of
the clock". Values are written and sampled after falling edges, when everything has settled, so nothing races with the
rising edge that samples them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cocotb.triggers import ReadOnly, RisingEdge, Trigger

from brownout.hw.registers import IRQ_DONE, IRQ_ERROR, OFFSETS, RETIRED_MODULUS, STATUS_ERROR


class AxiLiteError(Exception):
    """A register access was answered with an error response."""


class AxiLiteDriver:
    """Master of the AXI4-Lite port. One access at a time; start all calls at a falling edge.

    Parameters
    ----------
    dut : cocotb handle
        Object with the pins ``s_axil_*``.
    next_cycle : callable
        Returns a trigger that fires at the next falling edge of the clock.
    """

    def __init__(self, dut: Any, next_cycle: Callable[[], Trigger]) -> None:
        self._next_cycle = next_cycle
        self._awaddr, self._awvalid, self._awready = dut.s_axil_awaddr, dut.s_axil_awvalid, dut.s_axil_awready
        self._wdata, self._wvalid, self._wready = dut.s_axil_wdata, dut.s_axil_wvalid, dut.s_axil_wready
        self._bresp, self._bvalid = dut.s_axil_bresp, dut.s_axil_bvalid
        self._araddr, self._arvalid, self._arready = dut.s_axil_araddr, dut.s_axil_arvalid, dut.s_axil_arready
        self._rdata, self._rresp, self._rvalid = dut.s_axil_rdata, dut.s_axil_rresp, dut.s_axil_rvalid
        for pin in (self._awvalid, self._wvalid, self._arvalid, dut.s_axil_awprot, dut.s_axil_arprot):
            pin.value = 0
        dut.s_axil_wstrb.value = 0xF
        # Responses are always taken at once: there is never more than one outstanding.
        dut.s_axil_bready.value = 1
        dut.s_axil_rready.value = 1

    async def write(self, address: int, value: int) -> None:
        """Write one register and wait for the response.

        Raises
        ------
        AxiLiteError
            The response is not OKAY.
        """
        self._awaddr.value = address
        self._wdata.value = value
        self._awvalid.value = 1
        self._wvalid.value = 1
        address_waits = data_waits = True
        while True:
            if address_waits or data_waits:
                await ReadOnly()  # ready may depend on the valid that was just set
                address_taken = address_waits and self._awready.value == 1
                data_taken = data_waits and self._wready.value == 1
            await self._next_cycle()
            if address_waits and address_taken:
                self._awvalid.value = 0
                address_waits = False
            if data_waits and data_taken:
                self._wvalid.value = 0
                data_waits = False
            if self._bvalid.value == 1:
                break
        if (response := int(self._bresp.value)) != 0:
            raise AxiLiteError(f"write to 0x{address:03x} was answered with response {response}")

    async def read(self, address: int) -> int:
        """Read one register.

        Raises
        ------
        AxiLiteError
            The response is not OKAY.
        """
        return (await self.read_many([address]))[0]

    async def read_many(self, addresses: Sequence[int]) -> list[int]:
        """Read registers, the address of the next one offered while the answer to the last is on its way.

        Raises
        ------
        AxiLiteError
            A response is not OKAY.
        """
        values: list[int] = []
        offered = 0
        if addresses:
            self._araddr.value = addresses[0]
            self._arvalid.value = 1
        while len(values) < len(addresses):
            taken = False
            if offered < len(addresses):
                await ReadOnly()
                taken = self._arready.value == 1
            await self._next_cycle()
            if taken:
                offered += 1
                if offered < len(addresses):
                    self._araddr.value = addresses[offered]
                else:
                    self._arvalid.value = 0
            if self._rvalid.value == 1:
                if (response := int(self._rresp.value)) != 0:
                    self._arvalid.value = 0
                    raise AxiLiteError(f"read of 0x{addresses[len(values)]:03x} was answered with response {response}")
                values.append(int(self._rdata.value))
        return values

    async def write_while_reading(self, address: int, value: int, read_address: int) -> int:
        """Write one register and read another, both offered in the same cycle; returns what is read.

        Raises
        ------
        AxiLiteError
            A response is not OKAY.
        """
        self._awaddr.value, self._wdata.value, self._araddr.value = address, value, read_address
        for pin in (self._awvalid, self._wvalid, self._arvalid):
            pin.value = 1
        waiting = [(self._awvalid, self._awready), (self._wvalid, self._wready), (self._arvalid, self._arready)]
        written: int | None = None
        found: tuple[int, int] | None = None
        while written is None or found is None:
            await ReadOnly()
            taken = [(valid, ready) for valid, ready in waiting if ready.value == 1]
            await self._next_cycle()
            for pair in taken:
                pair[0].value = 0
                waiting.remove(pair)
            if written is None and self._bvalid.value == 1:
                written = int(self._bresp.value)
            if found is None and self._rvalid.value == 1:
                found = int(self._rdata.value), int(self._rresp.value)
        if written:
            raise AxiLiteError(f"write to 0x{address:03x} was answered with response {written}")
        if found[1]:
            raise AxiLiteError(f"read of 0x{read_address:03x} was answered with response {found[1]}")
        return found[0]

    async def write_register(self, name: str, value: int) -> None:
        """Write a register by its name in `brownout.hw.registers`."""
        await self.write(OFFSETS[name], value)

    async def read_register(self, name: str) -> int:
        """Read a register by its name in `brownout.hw.registers`."""
        return await self.read(OFFSETS[name])


@dataclass(frozen=True)
class RingStop:
    """Why the ring stopped before its tail.

    Attributes
    ----------
    cause : int
        Value of the register ERROR_CAUSE.
    index : int
        Ring entry of the command that failed.
    head : int
        Ring entry at which the next command has to be put.
    """

    cause: int
    index: int
    head: int


@dataclass(frozen=True)
class RingRun:
    """What the device says after a doorbell.

    Attributes
    ----------
    began, retired : int
        RETIRED before the doorbell and after the interrupt: commands that it has completed since hard reset, modulo
        `brownout.hw.registers.RETIRED_MODULUS`.
    stop : RingStop or None
        None if it says that all commands up to the tail have succeeded.
    """

    began: int
    retired: int
    stop: RingStop | None

    @property
    def completed(self) -> int:
        """Commands completed in between."""
        return (self.retired - self.began) % RETIRED_MODULUS


class RingDriver:
    """Rings the doorbell and handles the interrupt. The commands are in memory already.

    Parameters
    ----------
    dut : cocotb handle
        Object with the pin ``irq``.
    bus : AxiLiteDriver
        Access to the registers.
    align : callable, optional
        Returns a trigger that fires at the next falling edge of the clock; needed where the interrupt is seen at the
        rising edge that makes it.
    """

    def __init__(self, dut: Any, bus: AxiLiteDriver, align: Callable[[], Trigger] | None = None) -> None:
        self._bus = bus
        self._align = align
        self._irq = dut.irq
        self._irq_edge = RisingEdge(dut.irq)

    async def configure(self, base: int, entries: int) -> int:
        """Set where the ring is; returns its head."""
        await self._bus.write_register("RING_BASE_LO", base & 0xFFFFFFFF)
        await self._bus.write_register("RING_BASE_HI", base >> 32)
        await self._bus.write_register("RING_ENTRIES", entries)
        return await self._bus.read_register("RING_HEAD")

    async def run_to(self, tail: int) -> RingRun:
        """Run the commands up to ring entry `tail`, and acknowledge the interrupt."""
        # Read in the cycle of the doorbell, before the first command can be there.
        began = await self._bus.write_while_reading(OFFSETS["RING_TAIL"], tail, OFFSETS["RETIRED"])
        if self._irq.value != 1:
            await self._irq_edge
            if self._align is not None:
                await self._align()
        failed = await self._bus.read_register("IRQ") & IRQ_ERROR
        if failed:
            cause, index = await self._bus.read_many([OFFSETS["ERROR_CAUSE"], OFFSETS["ERROR_INDEX"]])
        retired = await self._bus.write_while_reading(OFFSETS["IRQ"], IRQ_DONE | IRQ_ERROR, OFFSETS["RETIRED"])
        if not failed:
            return RingRun(began, retired, None)
        # The ring leaves the bad command a few cycles after the write; until then the head is not the next entry.
        while await self._bus.read_register("STATUS") & STATUS_ERROR:
            pass
        return RingRun(began, retired, RingStop(cause, index, await self._bus.read_register("RING_HEAD")))
