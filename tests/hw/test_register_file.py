import pytest

from brownout.hw.bus.axi import RESP_DECERR, RESP_OKAY, RESP_SLVERR
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.register_file import DEFAULT_TIMEOUT, RegisterFile
from brownout.hw.registers import (
    ID_WORD,
    OFFSETS,
    REGISTERS,
    STATUS_BUSY,
    STATUS_DRAINING,
    STATUS_ERROR,
    counter_offset,
    counters,
)

from .amaranth_bench import simulate

DEADLINE_CYCLES = 20


async def write(ctx, device, address, value, strobes=0xF):
    axil = device.axil
    for name, setting in (("awaddr", address), ("wdata", value), ("wstrb", strobes), ("awvalid", 1), ("wvalid", 1)):
        ctx.set(getattr(axil, name), setting)
    ctx.set(axil.bready, 1)
    for _ in range(DEADLINE_CYCLES):
        taken = ctx.get(axil.awready) and ctx.get(axil.wready)
        await ctx.tick()
        if taken:
            break
    ctx.set(axil.awvalid, 0)
    ctx.set(axil.wvalid, 0)
    assert ctx.get(axil.bvalid)
    response = ctx.get(axil.bresp)
    await ctx.tick()
    return response


async def read(ctx, device, address):
    axil = device.axil
    ctx.set(axil.araddr, address)
    ctx.set(axil.arvalid, 1)
    ctx.set(axil.rready, 1)
    for _ in range(DEADLINE_CYCLES):
        taken = ctx.get(axil.arready)
        await ctx.tick()
        if taken:
            break
    ctx.set(axil.arvalid, 0)
    assert ctx.get(axil.rvalid)
    answer = ctx.get(axil.rdata), ctx.get(axil.rresp)
    await ctx.tick()
    return answer


def run(bench):
    config = AcceleratorConfig(rows=3, cols=5)
    device = RegisterFile(config)

    async def wrapped(ctx):
        await bench(ctx, device, config)

    simulate(device, wrapped)


def test_identity_registers_tell_the_configuration():
    async def bench(ctx, device, config):
        assert await read(ctx, device, OFFSETS["ID"]) == (ID_WORD, RESP_OKAY)
        assert await read(ctx, device, OFFSETS["CONFIG_HASH"]) == (config.hash_word, RESP_OKAY)
        assert await read(ctx, device, OFFSETS["DIMENSIONS"]) == (3 | 5 << 16, RESP_OKAY)
        assert await read(ctx, device, OFFSETS["TIMEOUT"]) == (DEFAULT_TIMEOUT, RESP_OKAY)

    run(bench)


def test_settings_read_back_what_was_written():
    async def bench(ctx, device, config):
        for index, register in enumerate(register for register in REGISTERS if register.access == "rw"):
            assert await write(ctx, device, register.offset, 0x1230 + index) == RESP_OKAY
        for index, register in enumerate(register for register in REGISTERS if register.access == "rw"):
            assert await read(ctx, device, register.offset) == (0x1230 + index, RESP_OKAY), register.name

    run(bench)


@pytest.mark.parametrize("name", [register.name for register in REGISTERS if register.access == "ro"])
def test_a_write_to_a_read_only_register_is_refused(name):
    async def bench(ctx, device, config):
        before = await read(ctx, device, OFFSETS[name])
        assert await write(ctx, device, OFFSETS[name], 0xFFFFFFFF) == RESP_DECERR
        assert await read(ctx, device, OFFSETS[name]) == before

    run(bench)


def test_unmapped_addresses_and_partial_writes_are_refused():
    async def bench(ctx, device, config):
        unmapped = counter_offset(len(counters(config)))
        assert (await read(ctx, device, unmapped))[1] == RESP_DECERR
        assert await write(ctx, device, unmapped, 1) == RESP_DECERR
        assert await write(ctx, device, OFFSETS["TIMEOUT"], 7, strobes=0b0111) == RESP_DECERR
        assert await read(ctx, device, OFFSETS["TIMEOUT"]) == (DEFAULT_TIMEOUT, RESP_OKAY)

    run(bench)


def test_effects_of_a_write_show_by_the_time_of_its_response():
    async def bench(ctx, device, config):
        pulses = []
        axil = device.axil
        for name, value in (("awaddr", OFFSETS["SNAPSHOT"]), ("awvalid", 1), ("wvalid", 1), ("wstrb", 15)):
            ctx.set(getattr(axil, name), value)
        pulses.append(ctx.get(device.capture))
        await ctx.tick()
        # The snapshot is copied at this edge: a read from here on sees it.
        assert pulses == [1]
        assert ctx.get(axil.bvalid)

    run(bench)


def test_interrupt_bits_are_set_by_events_and_cleared_by_writing_ones():
    async def bench(ctx, device, config):
        ctx.set(device.drained, 1)
        await ctx.tick()
        ctx.set(device.drained, 0)
        ctx.set(device.failed, 1)
        ctx.set(device.head, 5)
        await ctx.tick()
        ctx.set(device.failed, 0)
        assert ctx.get(device.irq)
        assert (await read(ctx, device, OFFSETS["IRQ"]))[0] == 3
        assert (await read(ctx, device, OFFSETS["ERROR_INDEX"]))[0] == 5
        await write(ctx, device, OFFSETS["IRQ"], 1)
        assert (await read(ctx, device, OFFSETS["IRQ"]))[0] == 2
        assert ctx.get(device.irq)
        await write(ctx, device, OFFSETS["IRQ"], 2)
        assert not ctx.get(device.irq)

    run(bench)


def test_retired_counts_completed_commands_through_soft_resets():
    async def bench(ctx, device, config):
        for completed in (1, 2):
            ctx.set(device.command_done, 1)
            await ctx.tick()
            ctx.set(device.command_done, 0)
            # At once: the interrupt of the same cycle has risen too.
            assert await read(ctx, device, OFFSETS["RETIRED"]) == (completed, RESP_OKAY)
            await write(ctx, device, OFFSETS["CONTROL"], 1)
            assert await read(ctx, device, OFFSETS["RETIRED"]) == (completed, RESP_OKAY)

    run(bench)


def test_where_the_ring_lies_cannot_be_written_while_busy():
    async def bench(ctx, device, config):
        for name in ("RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES"):
            assert await write(ctx, device, OFFSETS[name], 0xABCD0100) == RESP_OKAY
            ctx.set(device.busy, 1)
            assert await write(ctx, device, OFFSETS[name], 0) == RESP_SLVERR
            ctx.set(device.busy, 0)
            assert await read(ctx, device, OFFSETS[name]) == (0xABCD0100, RESP_OKAY)
        ctx.set(device.busy, 1)
        for name in ("RING_TAIL", "TIMEOUT", "CONTROL", "SNAPSHOT", "IRQ"):
            assert await write(ctx, device, OFFSETS[name], 0) == RESP_OKAY

    run(bench)


def test_interrupts_are_cleared_when_a_soft_reset_is_done():
    async def bench(ctx, device, config):
        await write(ctx, device, OFFSETS["RING_TAIL"], 9)
        await write(ctx, device, OFFSETS["CONTROL"], 1)
        assert await read(ctx, device, OFFSETS["RING_TAIL"]) == (0, RESP_OKAY)
        # The command that it ends may still come to its end before.
        ctx.set(device.failed, 1)
        ctx.set(device.head, 3)
        await ctx.tick()
        ctx.set(device.failed, 0)
        assert ctx.get(device.irq)
        await write(ctx, device, OFFSETS["RING_TAIL"], 2)
        ctx.set(device.reset_done, 1)
        await ctx.tick()
        ctx.set(device.reset_done, 0)
        assert not ctx.get(device.irq)
        for name, value in (("IRQ", 0), ("ERROR_INDEX", 0), ("RING_TAIL", 2)):
            assert await read(ctx, device, OFFSETS[name]) == (value, RESP_OKAY)

    run(bench)


def test_status_tells_that_the_bus_still_owes_answers():
    async def bench(ctx, device, config):
        for name, bit in (("busy", STATUS_BUSY), ("stopped", STATUS_ERROR), ("draining", STATUS_DRAINING)):
            ctx.set(getattr(device, name), 1)
            assert await read(ctx, device, OFFSETS["STATUS"]) == (bit, RESP_OKAY)
            ctx.set(getattr(device, name), 0)

    run(bench)
