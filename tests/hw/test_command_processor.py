from brownout.hw.commands import COMMAND_BYTES, ErrorCause, GemmCommand, Opcode, PlainCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.bus_watch import LEAST_STALL_CYCLES
from brownout.hw.control.command_processor import CommandProcessor

from .amaranth_bench import simulate

BUS_BYTES = 128
CONFIG = AcceleratorConfig(rows=128, cols=128, bus_bytes=BUS_BYTES, address_bits=32)
RING_BASE = 0x8000
DEADLINE_CYCLES = 500
FENCE = PlainCommand(opcode=Opcode.FENCE).encode()
PRODUCT = GemmCommand(
    **{"m": 1, "n": 1, "k": 1, "a_addr": 0, "w_addr": 128, "y_addr": 256, "lda": 128, "ldw": 128, "ldy": 128},
    **{"read_base": 0, "read_limit": 256, "write_base": 256, "write_limit": 384},
).encode()


class Bench:
    """The ring engine between a host, a bus and engines that do what the test says."""

    def __init__(self, ctx, unit):
        self.ctx, self.unit = ctx, unit
        self.set(ring_base=RING_BASE, ring_entries=4, bus_idle=1, timeout=100)

    def set(self, **values):
        for name, value in values.items():
            self.ctx.set(getattr(self.unit, name), value)

    def get(self, name):
        return self.ctx.get(getattr(self.unit, name))

    async def pulse(self, name):
        self.set(**{name: 1})
        await self.ctx.tick()
        self.set(**{name: 0})

    async def ring(self, tail):
        self.set(tail=tail)
        await self.pulse("doorbell")

    async def until(self, name):
        """Wait for a member to be high; cycles that it took."""
        for cycle in range(DEADLINE_CYCLES):
            if self.get(name):
                return cycle
            await self.ctx.tick()
        raise AssertionError(f"{name} stays low")

    async def request(self):
        """Take the next request; its address."""
        ctx, request = self.ctx, self.unit.request
        for _ in range(DEADLINE_CYCLES):
            if ctx.get(request.valid):
                break
            await ctx.tick()
        address = ctx.get(request.payload.addr)
        ctx.set(request.ready, 1)
        await ctx.tick()
        ctx.set(request.ready, 0)
        self.set(bus_idle=0)
        return address

    async def give(self, command):
        ctx, beat = self.ctx, self.unit.beat
        for begin in range(0, COMMAND_BYTES, BUS_BYTES):
            ctx.set(beat.payload, int.from_bytes(command[begin : begin + BUS_BYTES], "little"))
            ctx.set(beat.valid, 1)
            self.set(bus_progress=1)
            await ctx.tick()
        ctx.set(beat.valid, 0)
        self.set(bus_progress=0, bus_idle=1)

    async def fetch(self, command):
        address = await self.request()
        await self.give(command)
        return address

    async def failure(self):
        """Wait for the error; its cause."""
        await self.until("failed")
        cause = ErrorCause(self.get("cause")).name
        await self.ctx.tick()
        assert self.get("stopped")
        assert not self.get("busy")
        return cause

    async def acknowledge(self):
        await self.pulse("acknowledge")
        assert not self.get("stopped")

    async def passes(self, tail):
        """One fence up to `tail`, from doorbell to interrupt."""
        await self.ring(tail)
        address = await self.fetch(FENCE)
        await self.until("drained")
        await self.ctx.tick()
        assert self.get("head") == tail
        assert not self.get("busy")
        return address


def run(bench):
    unit = CommandProcessor(CONFIG)

    async def wrapped(ctx):
        await bench(Bench(ctx, unit))

    simulate(unit, wrapped)


NO_RINGS = [
    ({"ring_base": RING_BASE + 8}, "RING_BASE"),
    ({"ring_base": (1 << 32) - 256}, "RING_BASE"),
    ({"ring_entries": 1}, "RING_ENTRIES"),
    ({"ring_entries": 0x10004}, "RING_ENTRIES"),
    ({"tail": 4}, "RING_TAIL"),
    ({"tail": 0x10001}, "RING_TAIL"),
    ({"ring_entries": 2}, "RING_HEAD"),
]


def test_a_ring_that_is_none_is_refused_and_nothing_is_stepped_over():
    async def test(bench):
        await bench.passes(1)
        await bench.passes(2)
        for registers, cause in NO_RINGS:
            bench.set(**{"ring_base": RING_BASE, "ring_entries": 4, "tail": 3, **registers})
            await bench.pulse("doorbell")
            assert await bench.failure() == cause
            await bench.acknowledge()
            assert bench.get("head") == 2
        bench.set(ring_base=RING_BASE, ring_entries=4)
        assert await bench.passes(3) == RING_BASE + 2 * COMMAND_BYTES

    run(test)


def test_a_ring_in_use_stays_where_it_is():
    async def test(bench):
        await bench.ring(3)
        addresses = [await bench.fetch(FENCE)]
        bench.set(ring_base=0, ring_entries=2)
        addresses += [await bench.fetch(FENCE), await bench.fetch(FENCE)]
        await bench.until("drained")
        assert addresses == [RING_BASE + index * COMMAND_BYTES for index in range(3)]

    run(test)


def test_a_command_that_failed_is_stepped_over_in_the_ring_in_which_it_failed():
    async def test(bench):
        bench.set(ring_entries=2)
        await bench.passes(1)
        await bench.ring(0)
        await bench.fetch(bytes(COMMAND_BYTES))
        assert await bench.failure() == "OPCODE"
        bench.set(ring_entries=4)
        await bench.acknowledge()
        assert bench.get("head") == 0

    run(test)


def test_the_ring_is_drained_once_when_its_tail_moves_on_under_way():
    async def test(bench):
        await bench.ring(1)
        await bench.request()
        await bench.ring(2)
        await bench.give(FENCE)
        drained = []
        for _ in range(2):
            for _ in range(20):
                drained.append(bench.get("drained"))
                if bench.ctx.get(bench.unit.request.valid):
                    await bench.fetch(FENCE)
                await bench.ctx.tick()
        assert sum(drained) == 1
        assert bench.get("head") == 2

    run(test)


def test_a_command_that_stands_still_is_given_up():
    async def test(bench):
        for tail, timeout, cycles in ((1, 10, LEAST_STALL_CYCLES), (3, 100, 128)):
            bench.set(timeout=timeout)
            await bench.ring(tail)
            await bench.fetch(PRODUCT)
            await bench.until("start")
            # As long as something moves it may take what it takes.
            for _ in range(5):
                await bench.ctx.tick().repeat(cycles - 10)
                await bench.pulse("moving")
            assert abs(await bench.until("failed") - cycles) < 5
            assert await bench.failure() == "STALLED"
            await bench.acknowledge()
            await bench.passes(tail + 1 & 3)

    run(test)


def test_after_a_time_out_the_bus_is_drained_and_every_wait_is_a_whole_one():
    async def test(bench):
        await bench.ring(1)
        await bench.request()
        assert 200 <= await bench.until("failed") < 210
        assert await bench.failure() == "BUS_TIMEOUT"
        for _ in range(3):
            await bench.acknowledge()
            assert bench.get("draining")
            await bench.ring((bench.get("head") + 1) % 4)
            assert 100 <= await bench.until("failed") < 110
            assert await bench.failure() == "BUS_TIMEOUT"
            assert bench.get("stop")
        bench.set(bus_idle=1)
        await bench.ctx.tick()
        assert not bench.get("stop")
        await bench.acknowledge()
        await bench.passes((bench.get("head") + 1) % 4)

    run(test)


def test_a_soft_reset_ends_soon_whatever_the_bus_does():
    async def test(bench):
        bench.set(timeout=0)
        for cycles in (1, 2, 3, 4, 5, 9, 20, 29, 30, 60):
            await bench.ring(1)
            if cycles > 4:
                await bench.fetch(PRODUCT)
            await bench.ctx.tick().repeat(cycles)
            bench.set(bus_idle=0)
            await bench.pulse("soft_reset")
            assert bench.get("busy")
            assert await bench.until("reset_done") < 30
            await bench.ctx.tick()
            assert (bench.get("busy"), bench.get("head"), bench.get("stopped")) == (0, 0, 0)
            # Only the ports still have to do with it, and the next command waits for them.
            await bench.ring(1)
            for _ in range(100):
                assert not bench.ctx.get(bench.unit.request.valid)
                await bench.ctx.tick()
            assert bench.get("draining")
            bench.set(bus_idle=1)
            assert await bench.fetch(FENCE) == RING_BASE
            await bench.until("drained")
            await bench.pulse("soft_reset")
            await bench.until("reset_done")

    run(test)


def test_a_doorbell_after_a_soft_reset_is_not_lost():
    async def test(bench):
        for cycles in range(1, 7):
            await bench.ring(2)
            await bench.request()
            bench.set(soft_reset=1)
            for _ in range(cycles):
                await bench.ctx.tick()
                bench.set(soft_reset=0)
            await bench.ring(1)
            bench.set(bus_idle=1)
            assert await bench.fetch(FENCE) == RING_BASE
            await bench.until("drained")

    run(test)


def test_a_doorbell_before_a_soft_reset_is_void():
    async def test(bench):
        bench.set(tail=1)
        bench.set(doorbell=1)
        await bench.ctx.tick()
        bench.set(doorbell=0)
        await bench.pulse("soft_reset")
        await bench.until("reset_done")
        for _ in range(20):
            await bench.ctx.tick()
            assert not bench.ctx.get(bench.unit.request.valid)
        assert not bench.get("busy")

    run(test)


def test_an_answer_that_nobody_asked_for_fails_the_command_under_way_or_the_next_one():
    cause = "WRITE_SURPLUS"

    async def test(bench):
        await bench.passes(1)
        bench.set(surplus_cause=ErrorCause[cause])
        await bench.ctx.tick()
        bench.set(surplus_cause=0)
        await bench.ctx.tick().repeat(10)
        await bench.ring(2)
        assert await bench.failure() == cause
        await bench.acknowledge()
        await bench.ring(3)
        await bench.fetch(PRODUCT)
        bench.set(surplus_cause=ErrorCause[cause])
        await bench.ctx.tick()
        bench.set(surplus_cause=0)
        assert await bench.failure() == cause
        await bench.acknowledge()
        await bench.passes(0)

    run(test)
