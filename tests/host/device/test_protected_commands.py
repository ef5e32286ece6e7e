"""Commands on the RTL against the slow reference: every scheme, both models of timing errors, all options at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from brownout.cosim import Simulator
from brownout.cosim.reference import reference_gemm
from brownout.cosim.reference.golden import ChannelTable
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import GemmFlag, SetErrorsCommand, SetPointCommand
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.errors.state import CommandOptions, ErrorState

from ...configurations import CLASSIC, MATCHED, PAIRS, RESIDUE_CARRY, RESIDUE_FLIP, WEIGHTED

pytestmark = [pytest.mark.rtl, pytest.mark.xdist_group("protected")]

ALL_TILED = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED
LOG_ROOM = 1 << 14
GUARD = 0xEE
TILED = [0, 0, ALL_TILED, ALL_TILED, GemmFlag.A_TILED, GemmFlag.W_TILED, GemmFlag.Y_TILED]


def config(rows: int, cols: int, model: str, checksum: ChecksumConfig | None, **fields: Any) -> AcceleratorConfig:
    settings = {"block_rows": 16, **fields}
    memory = MemoryConfig(size_bytes=1 << 22)
    return AcceleratorConfig(rows=rows, cols=cols, timing_model=model, checksum=checksum, memory=memory, **settings)


def checks(scheme: str, width: int, group: int = 0, locators: int = -1, *, pairs: bool = False) -> ChecksumConfig:
    return ChecksumConfig(
        scheme=scheme,
        locators=locators,
        segment_cols=width,
        column_checks=group > 0,
        group_rows=group or 32,
        pairs=pairs,
    )


CONFIGS = {
    "residue-flip": RESIDUE_FLIP,
    "weighted-flip": WEIGHTED,
    "matched-flip": MATCHED,
    "classic-flip": CLASSIC,
    "residue-carry": RESIDUE_CARRY,
    "pairs-flip": PAIRS,
}
LONG_CONFIGS = {
    "weighted-6-flip": config(5, 6, "flip", checks("weighted", 6, locators=2)),
    "matched-8-flip": config(4, 8, "flip", checks("matched", 8, 8)),
    "classic-2-flip": config(4, 4, "flip", checks("classic", 2, 4), drain_lanes=1, bus_bytes=4),
    "weighted-carry": config(4, 6, "carry", checks("weighted", 6, 8)),
    "none-flip": config(3, 9, "flip", None),
    "none-carry": config(3, 5, "carry", None),
    "weighted-q-flip": config(4, 8, "flip", checks("weighted", 5, 16), drain_lanes=3),
    "residue-wide-flip": config(2, 20, "flip", checks("residue", 16, 16), bus_bytes=64, drain_lanes=8),
    "three-digits-flip": config(3, 4, "flip", checks("matched", 4, 512), block_rows=512),
    "one-flip": config(1, 1, "flip", checks("residue", 1, 1), drain_lanes=1),
    "matched-carry": config(5, 7, "carry", checks("matched", 4, 4)),
    "razor-flip": config(3, 9, "flip", checks("residue", 4, 8), razor=True, voltage_domains=2),
    "razor-carry": config(5, 7, "carry", None, razor=True),
    "pairs-two-locators-flip": config(3, 9, "flip", checks("residue", 4, locators=2, pairs=True), drain_lanes=3),
    "pairs-wide-flip": config(2, 20, "flip", checks("residue", 16, pairs=True), bus_bytes=64),
    "pairs-carry": config(5, 7, "carry", checks("residue", 4, pairs=True)),
    "classic-carry": config(2, 3, "carry", checks("classic", 3, 16), drain_lanes=2),
}


def random_channels(rng: np.random.Generator, n: int) -> ChannelTable:
    shift = rng.integers(1, 63, n)
    exponent = np.clip(shift - rng.integers(4, 12, n), 0, 30)
    mult = np.minimum((1 << exponent) + rng.integers(0, 1 << exponent), (1 << 31) - 1)
    return ChannelTable(rng.integers(-(1 << 14), 1 << 14, n, dtype=np.int32), mult, shift)


def random_int8(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    if rng.integers(3):
        return rng.integers(-128, 128, shape, dtype=np.int8)
    return rng.choice(np.array([-128, -127, -1, 0, 127], np.int8), shape)


def random_lengths(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.uint8]:
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 64, shape, dtype=np.uint8)
    if kind == 1:
        return np.full(shape, rng.choice([0, 12, 20, 24, 28, 31, 60]), np.uint8)
    return rng.choice(np.array([24, 31, 40, 63, 63, 63], np.uint8), shape)


@dataclass
class Totals:
    """What a sweep has seen, so that it cannot pass by seeing nothing."""

    injected: int = 0
    corrected: int = 0
    pairs: int = 0
    suppressed: int = 0


class Bench:
    """Random commands on one device."""

    def __init__(self, simulator: Simulator, seed: int) -> None:
        self.simulator = simulator
        self.config = simulator.config
        self.memory = np.frombuffer(simulator.memory, np.uint8)
        self.rng = np.random.default_rng(seed)
        self.totals = Totals()

    def set_errors(self, table: int) -> tuple[list[bytes], ErrorState]:
        """Commands that set a random state of the error model, and the state; lengths from address `table` on."""
        config, rng, state = self.config, self.rng, ErrorState()
        commands = []
        if config.timing_model == "flip":
            draws = rng.choice([0, 1e-3, 1e-2, 5e-2, 0.2, 0.999], config.operating_points)
            state.seed, state.rates = int(rng.integers(1 << 32)), tuple(int(rate * (1 << 32)) for rate in draws)
            if rng.integers(2):
                state.bits = tuple(sorted(int(bit) for bit in rng.integers(0, 1 << 32, 30)))
            commands.append(SetErrorsCommand(seed=state.seed, rates=state.rates, bits=state.bits).encode())
        columns = config.cols + len(config.check_columns)
        stride = -(-columns // config.bus_bytes) * config.bus_bytes
        for domain in range(config.domains):
            point, lengths, place = int(rng.integers(config.operating_points)), None, {}
            if config.timing_model == "carry":
                lengths = random_lengths(rng, (config.rows, columns))
                end = table + stride * config.rows
                # The upper two bits of each byte are not part of a length.
                rows = self.memory[table:end].reshape(config.rows, stride)
                rows[:] = 0xFF
                rows[:, :columns] = lengths | 0x80
                place = {"lengths_addr": table, "lengths_stride": stride, "read_base": table, "read_limit": end}
                table = end
            state.move(config, domain, point, lengths)
            wait = int(rng.choice([0, 1, 2, 37]))
            command = SetPointCommand(domain=domain, point=point, transition_cycles=wait, **place)
            commands.append(command.encode())
        return commands, state

    def options(self) -> CommandOptions:
        rng = self.rng
        flags, theta, log_bytes = GemmFlag(0), 0, 0
        if self.config.checksum is not None and rng.integers(6):
            flags |= GemmFlag.CHECK
            flags |= GemmFlag.CORRECT if rng.integers(4) else GemmFlag(0)
            flags |= (GemmFlag(0), GemmFlag.SUPPRESS, GemmFlag.SUPPRESS, GemmFlag.ZERO)[rng.integers(4)]
            theta = int(rng.choice([0, 0, 0, 1, 5, 12, 20, 31, 32, 33, 40, 63]))
            log_bytes = int(rng.choice([0, 1, 10, LOG_ROOM // 32])) * self.config.log_record_bytes
        return CommandOptions(
            flags=flags,
            error_key=int(rng.integers(1 << 32)),
            first_row=int(rng.choice([0, 5, (1 << 32) - 3])),
            first_col=int(rng.choice([0, 16, (1 << 32) - 2])),
            theta=theta,
            log_bytes=log_bytes,
        )

    def run(self) -> None:
        """One command with everything at random; output, log and counters are those of the reference."""
        rng, config, memory = self.rng, self.config, self.memory
        m, n, k = (int(v) for v in rng.integers(1, rng.choice([6, 20, 45, 70]), 3))
        batch = (int(rng.integers(1, 4)),) if not rng.integers(3) else ()
        a, w = random_int8(rng, *batch, m, k), random_int8(rng, *batch, k, n)
        channels = random_channels(rng, n) if rng.integers(2) else None
        requantise, bits = channels is not None and bool(rng.integers(2)), int(rng.choice([8, 16]))
        case = GemmCase(
            *(config, a, w),
            channels=channels,
            requantise=requantise,
            bits=bits,
            row_padding=int(rng.integers(2)),
            tiled=int(rng.choice(TILED)),
        )
        case.write(memory)
        before = rng.integers(-128, 128, case.result(memory).shape).astype(f"int{bits if requantise else 32}")
        case.fill_output(memory, before)
        log_addr = -(-case.end // 128) * 128
        memory[log_addr : log_addr + LOG_ROOM] = GUARD
        commands, errors = self.set_errors(log_addr + LOG_ROOM)
        options = self.options()
        command = case.command(
            flags=case.command().flags | options.flags,
            error_key=options.error_key,
            first_row=options.first_row,
            first_col=options.first_col,
            theta=options.theta,
            log_addr=log_addr if options.log_bytes else 0,
            log_bytes=options.log_bytes,
            write_limit=log_addr + LOG_ROOM,
        )
        expected = reference_gemm(
            *(config, a, w),
            options=options,
            errors=errors,
            channels=channels,
            requantise=requantise,
            bits=bits,
            previous=before,
        )
        counted = self.simulator.counters()
        self.simulator.run([*commands, command.encode()])
        after = self.simulator.counters()
        description = f"m={m} n={n} k={k} batch={batch} {command.flags=} {options} {errors}"
        assert np.array_equal(case.result(memory), expected.output), description
        case.check_around(memory)
        end = log_addr + len(expected.log)
        assert bytes(memory[log_addr:end]) == expected.log, description
        assert (memory[end : log_addr + LOG_ROOM] == GUARD).all(), description
        got = {name: after[name] - counted[name] for name in expected.counters.keys() & after.keys()}
        assert got == {name: expected.counters[name] for name in got}, description
        assert len(got) == 6 * (config.checksum is not None) + config.razor
        self.totals.injected += expected.counters["injected"]
        self.totals.corrected += expected.counters["corrected"]
        if options.log_bytes:
            words = np.frombuffer(expected.log, "<u4").reshape(-1, config.log_record_bytes // 4)
            self.totals.pairs += int((words[:, 3] >> 26 & 1).sum())
        self.totals.suppressed += expected.counters["suppressed"]


def sweep(configuration: AcceleratorConfig, count: int, seed: int) -> Totals:
    with Simulator(configuration, deadline_s=60) as simulator:
        bench = Bench(simulator, seed)
        try:
            for _ in range(count):
                bench.run()
        finally:
            del bench.memory
    return bench.totals


@pytest.mark.parametrize("name", CONFIGS)
def test_random_commands(name: str) -> None:
    seed = 17
    print(f"seed {seed}")
    totals = sweep(CONFIGS[name], 30, seed)
    assert totals.injected > 1000
    assert totals.suppressed > 100
    assert totals.corrected > 0 or name.startswith("classic")
    assert (totals.pairs > 0) == name.startswith("pairs")


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [*CONFIGS, *LONG_CONFIGS])
def test_many_random_commands(name: str, seed: int) -> None:
    print(f"seed {seed}")
    assert sweep({**CONFIGS, **LONG_CONFIGS}[name], 60, seed).injected > 1000
