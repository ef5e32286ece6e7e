"""The cycle model counts what the RTL counts, and what it skips or remembers is what it would have stepped through."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from brownout.cosim import Simulator
from brownout.cosim.cycle_model import Command, CycleModel, Found, block_count
from brownout.cosim.dram import MemoryTiming
from brownout.hw.commands import GemmCommand, GemmFlag, PlainCommand, SetPointCommand
from brownout.hw.config import K_LIMIT, AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.registers import COUNTERS

from ..configurations import CLASSIC, MATCHED, POINTS, SMALL_MEMORY, WEIGHTED, plain, protected
from .command_cases import (
    place_command,
    random_clock,
    random_command,
    random_config,
    random_setting,
    random_timing,
    with_timing,
    without_findings,
    write_channel_table,
    write_lengths,
)
from .conftest import memory_array

# The same simulators as in the tests of products, so that one worker builds them.
pytestmark = pytest.mark.xdist_group("gemm")

ODD = AcceleratorConfig(
    rows=5,
    cols=3,
    bus_bytes=32,
    block_rows=7,
    block_col_tiles=3,
    slab_bytes=11,
    drain_lanes=2,
    read_outstanding=2,
    write_outstanding=1,
    memory=SMALL_MEMORY,
)


PROTECTED = {
    "weighted": WEIGHTED,
    "classic": CLASSIC,
    "matched": MATCHED,
    "three-digits": protected(
        ChecksumConfig(scheme="classic", group_rows=512, segment_cols=2), **{"rows": 2, "cols": 2, "block_rows": 512}
    ),
}

CLOCKS = (Fraction(23, 20), Fraction(2, 7))

WITH_POINTS = {**POINTS, "carry-unprotected": protected(None, timing_model="carry", bus_bytes=4, cols=5, rows=9)}

SOAKED = ("three-digits", "carry-unprotected")
"""Left to the soak: building their simulators takes longer than all that the quick tests would ask of them."""


def assert_same(model: CycleModel, simulator: Simulator, commands: Sequence[Command]) -> None:
    """Run `commands` on both; what they add to the counters must be equal."""
    memory = memory_array(simulator)
    for command in commands:
        if isinstance(command, GemmCommand):
            assert command.write_limit <= simulator.usable_bytes
            write_channel_table(memory, command)
        if isinstance(command, SetPointCommand):
            write_lengths(memory, command)
    del memory
    before = simulator.counters()
    simulator.run([command.encode() for command in commands])
    after = simulator.counters()
    on_rtl = without_findings({name: after[name] - before[name] for name in after})
    assert model.run(commands) == on_rtl, (model.config, commands)


def sweep(config: AcceleratorConfig, count: int, seed: int, *, most_passes: int, settings: float = 0) -> None:
    """`count` doorbells of one to three random commands each, every one with another memory timing and clock.

    `settings`: chance that a command is no product.
    """
    print(f"seed {seed}")
    rng = random.Random(seed)
    with Simulator(config, check_axi=False, deadline_s=60) as simulator:
        # No model is told the operating points: each is given all commands so far that set them.
        open_rows, ring_index = CycleModel(config).open_rows, 0
        points: list[Command] = []
        for _ in range(count):
            timing = random_timing(rng, config.bus_bytes)
            slower = with_timing(config, timing)
            memory_timing = MemoryTiming.at_clock(slower.memory, random_clock(rng))
            queues = {name: timing[name] for name in ("read_queue", "write_queue")}
            simulator.set_memory(queues | memory_timing.settings())
            commands: list[Command] = []
            base = 0
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                base += config.bus_bytes * rng.randint(0, 300)
                if settings and rng.random() < settings:
                    setting = random_setting(rng, config, base=base)
                    commands.append(setting)
                    base = max(base, getattr(setting, "read_limit", 0))
                    continue
                product = random_command(rng, config, longest=300, most_passes=most_passes, base=base)
                commands.append(product)
                base = product.write_limit
            if base > simulator.usable_bytes:
                continue
            model = CycleModel(slower)
            model.set_memory_timing(memory_timing)
            model.run(points)
            points += [command for command in commands if isinstance(command, SetPointCommand)]
            model.open_rows, model.ring_index = open_rows, ring_index
            assert_same(model, simulator, commands)
            open_rows, ring_index = model.open_rows, model.ring_index


@pytest.mark.parametrize(
    ("config", "count", "most_passes"),
    [
        (plain(4, 4), 100, 8_000),
        (plain(3, 5), 100, 20_000),
        (plain(16, 4), 30, 6_000),
    ],
    ids=["4x4-small-blocks", "3x5-bus64", "16x4"],
)
def test_counters_equal_the_rtl(config: AcceleratorConfig, count: int, most_passes: int) -> None:
    sweep(config, count, config.rows * 100 + config.cols, most_passes=most_passes)


@pytest.mark.parametrize("name", [name for name in PROTECTED if name not in SOAKED])
def test_counters_equal_the_rtl_with_checksum_units(name: str) -> None:
    sweep(PROTECTED[name], 60, len(name), most_passes=6_000, settings=0.1)


@pytest.mark.parametrize("name", [name for name in WITH_POINTS if name not in SOAKED])
def test_counters_equal_the_rtl_with_operating_points(name: str) -> None:
    sweep(WITH_POINTS[name], 60, len(name), most_passes=2_000, settings=0.6)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("config", [*PROTECTED.values(), *WITH_POINTS.values()], ids=[*PROTECTED, *WITH_POINTS])
def test_counters_equal_the_rtl_with_protection_at_length(config: AcceleratorConfig, seed: int) -> None:
    sweep(config, 50, 1000 + seed, most_passes=20_000, settings=0.3)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "config",
    [*(plain(*size) for size in ((1, 1), (2, 2), (3, 5), (4, 4), (8, 8), (16, 4), (16, 16))), ODD],
    ids=lambda config: f"{config.rows}x{config.cols}-block{config.block_rows}",
)
def test_counters_equal_the_rtl_at_length(config: AcceleratorConfig, seed: int) -> None:
    sweep(config, 50, 1000 + seed, most_passes=20_000)


def test_extremes_equal_the_rtl() -> None:
    config = plain(4, 4)
    model = CycleModel(config)
    shapes = [(1, 1, 1), (1, 1, K_LIMIT), (2, 5, 4096), (1000, 1, 1), (1, 1000, 1), (129, 65, 65)]
    with Simulator(config, check_axi=False, deadline_s=60) as simulator:
        for m, n, k in shapes:
            assert_same(model, simulator, [place_command(config, m, n, k)])


def test_open_rows_and_ring_position_are_carried_from_call_to_call() -> None:
    """Two calls count like two doorbells, and unlike two first ones: the second finds rows open."""
    config = plain(4, 4)
    command = place_command(config, 3, 3, 3, base=4096)  # in another bank than the ring
    model = CycleModel(config)
    with Simulator(config, check_axi=False, deadline_s=60) as simulator:
        for _ in range(3):
            assert_same(model, simulator, [command])
        # More than the ring holds: two doorbells, and the entries wrap.
        assert_same(model, simulator, [command] * 300)
        assert model.counters() == simulator.counters()
        assert model.ring_index == 303 % 256
        simulator.restart()
        model.reset()
        assert_same(model, simulator, [command])
        assert model.counters() == simulator.counters()
    first = CycleModel(config).run([command])["dram_row_activations"]
    again = CycleModel(config)
    again.open_rows = model.open_rows
    assert again.run([command])["dram_row_activations"] < first


def random_findings(rng: random.Random, config: AcceleratorConfig, command: GemmCommand) -> Found | None:
    """Anything from nothing over some records in some blocks to all elements of some rows."""
    if not command.flags & GemmFlag.CHECK or rng.random() < 0.2:
        return None
    blocks = block_count(config, command)
    most = rng.choice([0, 1, 3, 64, 200])
    chance = rng.choice([0.02, 0.5, 1.0])
    records = np.array(
        [rng.randint(1, most) if most and rng.random() < chance else 0 for _ in range(blocks)], np.uint64
    )
    if most and chance == 1.0 and rng.random() < 0.5:
        records[:] = most
    rows = command.batch * command.m
    full = [row for row in range(rows) if rng.random() < rng.choice([0.0, 0.01, 0.3])][:1000]
    suppressed = {row * command.n + col for row in full for col in range(rng.randint(0, command.n - 1), command.n)}
    suppressed |= {rng.randrange(rows * command.n) for _ in range(rng.choice([0, 100]))}
    return Found(records, np.array(rng.sample(sorted(suppressed), len(suppressed)), np.uint64))


def skip_against_step(seed: int, count: int, most_passes: int, *, checks: bool = False) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(count):
        config = random_config(rng, protected=checks)
        commands = []
        for _ in range(rng.choice([1, 1, 2])):
            base = config.bus_bytes * rng.randint(0, 4096)
            commands.append(random_command(rng, config, longest=1000, most_passes=most_passes, base=base))
        found = [random_findings(rng, config, command) for command in commands] if checks else None
        skipped, stepped = CycleModel(config), CycleModel(config, step=True)
        timing = MemoryTiming.at_clock(config.memory, random_clock(rng))
        for model in (skipped, stepped):
            model.set_memory_timing(timing)
        assert skipped.run(commands, found) == stepped.run(commands, found), (config, commands)
        assert skipped.open_rows == stepped.open_rows, (config, commands)


def test_skipping_repetitions_changes_nothing() -> None:
    skip_against_step(seed=1, count=100, most_passes=60_000)


def test_skipping_repetitions_changes_nothing_whatever_checks_find() -> None:
    skip_against_step(seed=3, count=100, most_passes=30_000, checks=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20, 24))
def test_skipping_repetitions_changes_nothing_whatever_checks_find_at_length(seed: int) -> None:
    skip_against_step(seed, count=300, most_passes=100_000, checks=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10, 14))
def test_skipping_repetitions_changes_nothing_at_length(seed: int) -> None:
    skip_against_step(seed, count=300, most_passes=200_000)


def test_remembered_outcomes_change_nothing() -> None:
    """The same shapes again: on other banks, at other offsets in a page, sharing rows or not, at other clocks."""
    seed = 2
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(30):
        config = random_config(rng)
        bus = config.bus_bytes
        shapes = [random_command(rng, config, longest=60, most_passes=500) for _ in range(2)]
        remembering, stepping = CycleModel(config), CycleModel(config, step=True)
        timings = [MemoryTiming.at_clock(config.memory, clock) for clock in (Fraction(1), *CLOCKS)]
        for _ in range(16):
            timing = rng.choice([None, None, *timings])
            if timing is not None:
                remembering.set_memory_timing(timing)
                stepping.set_memory_timing(timing)
            shape = rng.choice(shapes)
            by = bus * rng.choice([0, 0, 1, 4096 // bus, 8192, 65536, rng.randint(0, 4096)])
            resident = bus * rng.choice([0, 0, 1, 1 << 16, (1 << 17) + 4096, rng.randint(0, 1 << 18)])
            command = dataclasses.replace(
                shape,
                a_addr=shape.a_addr + by,
                w_addr=shape.w_addr + by + resident,
                y_addr=shape.y_addr + by,
                channel_addr=shape.channel_addr + by if shape.flags else 0,
            )
            assert remembering.run([command]) == stepping.run([command]), (config, command)
            assert remembering.open_rows == stepping.open_rows, (config, command)


NOMINAL = (
    ((512, 512, 512), {}, 527_193, 645, 0),
    ((300, 200, 64), {}, 24_518, 533, 7_149),
    ((129, 70, 33), {"bytes_per_cycle": 5, "latency_cycles": 37}, 11_191, 1_534, 4_194),
    ((200, 100, 50), {"bytes_per_cycle": 24, "latency_cycles": 3}, 8_263, 472, 791),
    ((64, 64, 300), {"bytes_per_cycle": 17, "latency_cycles": 100}, 6_597, 425, 0),
)
"""Shape, memory; cycles and those stalled by load and drain with a memory whose bandwidth was in whole bytes only."""


@pytest.mark.parametrize(("shape", "memory", "cycles", "load", "drain"), NOMINAL)
def test_at_the_nominal_clock_bandwidth_is_that_in_whole_bytes(
    shape: tuple[int, int, int], memory: dict[str, int], cycles: int, load: int, drain: int
) -> None:
    config = AcceleratorConfig(memory=MemoryConfig(**memory))
    model = CycleModel(config)
    command = place_command(config, *shape)
    before = model.run([command])
    model.set_memory_timing(MemoryTiming.at_clock(config.memory, Fraction(23, 20)))
    assert model.run([command])["cycles"] > cycles
    model.set_memory_timing(MemoryTiming.at_clock(config.memory))
    for counts in (before, model.run([command])):
        assert counts["cycles"] == cycles
        assert (counts["stall_load_cycles"], counts["stall_drain_cycles"]) == (load, drain)


def test_reset_brings_the_timing_of_the_nominal_clock_back() -> None:
    config = AcceleratorConfig()
    command = place_command(config, 20, 30, 40)
    model = CycleModel(config)
    first = model.run([command])
    model.set_memory_timing(MemoryTiming.at_clock(config.memory, 2))
    assert model.run([command])["cycles"] > first["cycles"]
    model.reset()
    assert model.run([command]) == first


def test_names_are_those_of_the_registers_and_the_memory() -> None:
    names = {counter.name for counter in COUNTERS} | {"dram_row_activations"}
    assert set(CycleModel(AcceleratorConfig()).counters()) == names
    points = {f"domain_{domain}_point_{point}_cycles" for domain in range(3) for point in range(3)}
    assert set(CycleModel(WITH_POINTS["flip"]).counters()) == names | points | {"transition_cycles"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": 0}, r"^GemmCommand\.m must be in 1\.\.16777215, not 0$"),
        ({"k": K_LIMIT + 1}, r"^GemmCommand\.k must be in 1\.\.131071, not 131072$"),
        ({"batch": 1 << 16}, r"^GemmCommand\.batch must be in 1\.\.65535, not 65536$"),
        ({"lda": 8}, r"^GemmCommand\.lda must be a multiple of bus_bytes=16, not 8$"),
    ],
)
def test_commands_that_the_hardware_refuses_are_refused(changes: dict[str, int], message: str) -> None:
    config = AcceleratorConfig()
    command = dataclasses.replace(place_command(config, 1, 1, 1), **changes)
    with pytest.raises(ValueError, match=message):
        CycleModel(config).run([command])


@pytest.mark.parametrize(
    ("command", "found", "message"),
    [
        (SetPointCommand(domain=3, point=0), None, r"^SetPointCommand\.domain must be in 0\.\.2, not 3$"),
        (SetPointCommand(domain=0, point=3), None, r"^SetPointCommand\.point must be in 0\.\.2, not 3$"),
        (PlainCommand(opcode=4), Found(), r"^found must be None for PlainCommand, which checks nothing$"),
        (
            place_command(WITH_POINTS["flip"], 9, 9, 1),
            Found(records=np.zeros(3, np.uint64)),
            r"^Found\.records must have 4 entries, one per block, not 3$",
        ),
        (
            place_command(WITH_POINTS["flip"], 9, 9, 1),
            Found(suppressed=np.array([80, 81], np.uint64)),
            r"^Found\.suppressed must be below 81, the number of elements, not 81$",
        ),
    ],
)
def test_settings_and_findings_that_cannot_be_are_refused(command: Command, found: Found | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CycleModel(WITH_POINTS["flip"]).run([command], [found])


def test_open_rows_of_another_number_of_banks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^open_rows must have 16 entries, one per bank, not 1$"):
        CycleModel(AcceleratorConfig()).open_rows = [None]
