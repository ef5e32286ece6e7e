"""Copying in memory: every byte of every run and no other, in exactly the predicted time; bad ones are refused."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import numpy as np
import pytest

from brownout.cosim import Simulator
from brownout.cosim.cycle_model import CycleModel, Runs
from brownout.hw.commands import (
    COMMAND_FIELDS,
    COMMAND_VERSION,
    RUN_BYTES,
    CopyCommand,
    ErrorCause,
    Opcode,
    reserved_ranges,
)
from brownout.hw.config import AcceleratorConfig

from ..configurations import CLASSIC, POINTS, RESIDUE_CARRY, WEIGHTED, plain
from .command_cases import random_config, random_timing, with_timing
from .conftest import memory_array
from .test_protection_commands import refuse

pytestmark = pytest.mark.xdist_group("protection-commands")

GUARD = 4096

COPYING = {"residue": POINTS["flip"], "classic": CLASSIC, "weighted": WEIGHTED}


def random_copy(rng: random.Random, config: AcceleratorConfig) -> tuple[CopyCommand, np.ndarray]:
    """A command with source, list and target behind each other, and its runs: many or few, long or short."""
    bus = config.bus_bytes
    size = rng.choice([1, 5, 100, 4096, 5000, 40_000])
    places = []
    for _ in range(rng.choice([1, 2, 3, 16, 17, 63, 64, 65, 130])):
        offset = rng.randrange(size)
        places.append((offset, min(size - offset, rng.choice([1, 2, 7, bus, 33, 200, 9000]))))
    runs = np.array(places, np.uint32)

    def up(value: int, to: int) -> int:
        return -(-value // to) * to

    source = 4096 * rng.randint(1, 8)
    list_addr = up(source + size, bus) + bus * rng.choice([0, 1, 7])
    read_limit = up(list_addr + len(runs) * RUN_BYTES, bus)
    target = up(read_limit, 4096) + 4096 * rng.randint(1, 8)
    return (
        CopyCommand(
            runs=len(runs),
            size=size,
            source_addr=source,
            target_addr=target,
            list_addr=list_addr,
            read_base=source,
            read_limit=read_limit,
            write_base=target,
            write_limit=target + up(size, bus),
        ),
        runs,
    )


def store(memory: np.ndarray, command: CopyCommand, runs: np.ndarray) -> None:
    table = runs.astype("<u4").view(np.uint8).ravel()
    memory[command.list_addr : command.list_addr + len(table)] = table


def sweep(config: AcceleratorConfig, count: int, seed: int) -> None:
    """Random copies, each with another memory timing, against numpy and against the cycle model."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    with Simulator(config, deadline_s=60) as simulator:
        open_rows, ring_index = CycleModel(config).open_rows, 0
        memory = memory_array(simulator)
        for _ in range(count):
            timing = random_timing(rng, config.bus_bytes)
            simulator.set_memory(timing)
            command, runs = random_copy(rng, config)
            end = command.write_limit + GUARD
            memory[:end] = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, end, dtype=np.uint8)
            store(memory, command, runs)
            expected = memory[:end].copy()
            for offset, length in runs.tolist():
                source, target = command.source_addr + offset, command.target_addr + offset
                expected[target : target + length] = expected[source : source + length]
            before = simulator.counters()
            simulator.run([command.encode()])
            after = simulator.counters()
            assert np.array_equal(memory[:end], expected), (config, command)
            model = CycleModel(with_timing(config, timing))
            model.open_rows, model.ring_index = open_rows, ring_index
            predicted = model.run([command], [Runs(runs)])
            # Nothing moves between operating points here; what checks find is not predicted.
            assert predicted == {name: after[name] - before[name] for name in predicted}, (config, command, timing)
            open_rows, ring_index = model.open_rows, model.ring_index
        del memory


@pytest.mark.parametrize("name", COPYING)
def test_copies(name: str) -> None:
    """Buses of 16, 4 and 64 bytes; few and many outstanding bursts."""
    sweep(COPYING[name], count=25, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(20))
def test_copies_of_random_devices(seed: int) -> None:
    config = random_config(random.Random(seed), protected=True)
    sweep(dataclasses.replace(config, memory=dataclasses.replace(config.memory, size_bytes=1 << 22)), 100, seed)


@pytest.fixture(scope="module")
def device() -> Iterator[Simulator]:
    with Simulator(RESIDUE_CARRY, deadline_s=60) as simulator:
        yield simulator


BUS = RESIDUE_CARRY.bus_bytes
GOOD = CopyCommand(
    runs=1,
    size=100,
    source_addr=1 << 20,
    target_addr=(1 << 20) + 8192,
    list_addr=(1 << 20) + 4096,
    read_base=1 << 20,
    read_limit=(1 << 20) + 8192,
    write_base=(1 << 20) + 8192,
    write_limit=(1 << 20) + 8192 + 128,
)


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        (ErrorCause.VERSION, {"version": COMMAND_VERSION + 1}),
        (ErrorCause.RUNS, {"runs": 0}),
        (ErrorCause.RUNS, {"runs": 1 << 24}),
        (ErrorCause.READ_WINDOW, {"read_base": GOOD.read_limit}),
        (ErrorCause.READ_WINDOW, {"read_base": 1}),
        (ErrorCause.WRITE_WINDOW, {"write_limit": 1 << 41}),
        (ErrorCause.SOURCE, {"source_addr": GOOD.source_addr + BUS}),
        (ErrorCause.SOURCE, {"source_addr": GOOD.source_addr - 4096}),
        (ErrorCause.SOURCE, {"source_addr": (1 << 64) - 4096}),
        (ErrorCause.SOURCE, {"size": 8193, "write_limit": 1 << 22}),
        (ErrorCause.TARGET, {"target_addr": GOOD.target_addr + BUS}),
        (ErrorCause.TARGET, {"target_addr": GOOD.target_addr + 4096}),
        (ErrorCause.TARGET, {"size": 129}),
        (ErrorCause.LIST, {"list_addr": GOOD.list_addr + 8}),
        (ErrorCause.LIST, {"list_addr": GOOD.read_limit}),
        (ErrorCause.LIST, {"runs": 513}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_malformed_copy(device: Simulator, cause: ErrorCause, changes: dict[str, int]) -> None:
    refuse(device, dataclasses.replace(GOOD, **changes).encode(), cause)


@pytest.mark.parametrize("run", [(0, 0), (0, 101), (100, 1), (99, 2), ((1 << 32) - 1, 2), (2, (1 << 32) - 1)])
@pytest.mark.parametrize("before", [0, 70])
def test_a_run_outside_its_region_stops_the_command(device: Simulator, run: tuple[int, int], before: int) -> None:
    """`before`: runs in front of it, which have gone by or are on their way when it is found."""
    memory = memory_array(device)
    runs = np.array([(0, 1)] * before + [run], np.uint32)
    store(memory, GOOD, runs)
    memory[GOOD.target_addr - GUARD : GOOD.target_addr + GUARD] = 0xAA
    refuse(device, dataclasses.replace(GOOD, runs=len(runs)).encode(), ErrorCause.RUN)
    assert (memory[GOOD.target_addr + 1 : GOOD.target_addr + GUARD] == 0xAA).all()


def test_reserved_bytes(device: Simulator) -> None:
    for low, high in reserved_ranges(COMMAND_FIELDS[Opcode.COPY]):
        for offset in {low, high - 1}:
            command = bytearray(GOOD.encode())
            command[offset] = 1
            refuse(device, bytes(command), ErrorCause.RESERVED)


def test_an_error_of_the_bus_stops_the_copy(device: Simulator) -> None:
    store(memory_array(device), GOOD, np.array([(0, 100)], np.uint32))
    for address, cause in ((GOOD.source_addr, ErrorCause.AXI_READ), (GOOD.target_addr, ErrorCause.AXI_WRITE)):
        device.set_memory({"slverr_base": address, "slverr_limit": address + BUS})
        try:
            refuse(device, GOOD.encode(), cause)
        finally:
            device.set_memory({"slverr_base": 0, "slverr_limit": 0})


def test_without_checksum_units_there_is_nothing_to_copy_with() -> None:
    with Simulator(plain(4, 4), deadline_s=60) as simulator:
        refuse(simulator, GOOD.encode(), ErrorCause.OPCODE)
    with pytest.raises(ValueError, match=r"^CopyCommand needs an AcceleratorConfig with checksum units$"):
        CycleModel(plain(4, 4)).run([GOOD], [Runs(np.array([[0, 1]], np.uint32))])


@pytest.mark.parametrize(
    ("changes", "places", "message"),
    [
        ({}, [[0, 1]] * 2, r"^found must be Runs with places of shape \(1, 2\) for CopyCommand$"),
        ({"source_addr": 64}, [[0, 1]], r"^CopyCommand\.source_addr must be a multiple of 4096, not 64$"),
        ({"target_addr": 1}, [[0, 1]], r"^CopyCommand\.target_addr must be a multiple of 4096, not 1$"),
        ({}, [[99, 2]], r"^Runs\.places\[0\] must be a run inside 100 bytes, not \[99, 2\]$"),
        ({}, [[0, 0]], r"^Runs\.places\[0\] must be a run inside 100 bytes, not \[0, 0\]$"),
    ],
)
def test_the_cycle_model_refuses_what_the_hardware_refuses(
    changes: dict[str, int], places: list[list[int]], message: str
) -> None:
    command, runs = dataclasses.replace(GOOD, **changes), Runs(np.array(places, np.uint32))
    with pytest.raises(ValueError, match=message):
        CycleModel(RESIDUE_CARRY).run([command], [runs])
