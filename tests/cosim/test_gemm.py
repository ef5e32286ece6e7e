"""GEMM commands on the RTL against the golden model: every tail, extremes, both output kinds, batches, stalls."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from brownout.cosim import Simulator, StallConfig
from brownout.cosim.scoreboard import GemmCase

from ..configurations import plain
from .conftest import memory_array
from .gemm_cases import extreme_channels, extreme_int8, random_channels, random_int8

pytestmark = pytest.mark.xdist_group("gemm")

Open = Callable[[int, int], Simulator]
SIZES = [(1, 1), (2, 2), (3, 5), (4, 4), (16, 4)]


def run_cases(simulator: Simulator, cases: list[GemmCase]) -> None:
    memory = memory_array(simulator)
    for case in cases:
        case.write(memory)
    simulator.run([case.command().encode() for case in cases])
    for case in cases:
        case.check(memory)


def tails(size: int) -> list[int]:
    """Lengths below, at and above whole tiles."""
    return sorted({1, max(1, size - 1), size, size + 1, 2 * size, 3 * size + size // 2 + 1})


@pytest.mark.parametrize(("rows", "cols"), SIZES)
def test_every_kind_of_tail(open_simulator: Open, rows: int, cols: int) -> None:
    simulator = open_simulator(rows, cols)
    rng = np.random.default_rng(rows * 100 + cols)
    cases: list[GemmCase] = []
    for index, (m, n, k) in enumerate(itertools.product((1, 2, 7, 33), tails(cols), tails(rows))):
        channels = random_channels(rng, n) if index % 3 else None
        base = cases[-1].end if cases else 0
        case = GemmCase(
            *(simulator.config, random_int8(rng, m, k), random_int8(rng, k, n)),
            channels=channels,
            requantise=index % 3 == 2,
            bits=8 << (index // 3 % 2),
            base=-(-base // 128) * 128,
            row_padding=index % 2,
        )
        cases.append(case)
    run_cases(simulator, cases)


@pytest.mark.parametrize(("rows", "cols"), [(3, 5), (4, 4)])
def test_blocks_larger_than_the_accumulators(open_simulator: Open, rows: int, cols: int) -> None:
    """More rows than one block, more column tiles than one block, more k-tiles than one slab, all with tails."""
    simulator = open_simulator(rows, cols)
    config = simulator.config
    rng = np.random.default_rng(7)
    m = 2 * config.block_rows + 3
    n = (2 * config.block_col_tiles + 1) * cols - 1
    k = (2 * config.slab_k_tiles + 1) * rows + 1
    a, w = random_int8(rng, m, k), random_int8(rng, k, n)
    for requantise, bits in ((False, 8), (True, 8), (True, 16)):
        case = GemmCase(config, a, w, channels=random_channels(rng, n), requantise=requantise, bits=bits)
        run_cases(simulator, [case])


def test_extreme_operands_and_wrapping_sums(open_simulator: Open) -> None:
    simulator = open_simulator(4, 4)
    rng = np.random.default_rng(8)
    for _ in range(6):
        m, n, k = (int(v) for v in rng.integers(1, 40, 3))
        a, w = extreme_int8(rng, m, k), extreme_int8(rng, k, n)
        channels = extreme_channels(rng, n)
        for requantise, bits in ((False, 8), (True, 8), (True, 16)):
            case = GemmCase(simulator.config, a, w, channels=channels, requantise=requantise, bits=bits)
            run_cases(simulator, [case])


def test_largest_k_of_most_negative_operands(open_simulator: Open) -> None:
    """K = 131071 products of (-128)^2 are 2^31 - 2^14: the largest sum there is; with a bias it wraps."""
    simulator = open_simulator(4, 4)
    k = 131_071
    a = np.full((1, k), -128, np.int8)
    w = np.full((k, 1), -128, np.int8)
    case = GemmCase(simulator.config, a, w)
    assert case.expected()[0, 0, 0] == k << 14
    run_cases(simulator, [case])


def test_requantisation_rounds_half_up(open_simulator: Open) -> None:
    """Every residue of the sum modulo the divisor, negative sums included."""
    simulator = open_simulator(4, 4)
    rng = np.random.default_rng(9)
    a = np.arange(-128, 128, dtype=np.int64).astype(np.int8)[:, None]
    channels = random_channels(rng, 3)
    channels.bias[:] = 0
    channels.mult[:] = (1, 3, 5)
    channels.shift[:] = (2, 3, 4)
    run_cases(simulator, [GemmCase(simulator.config, a, np.ones((1, 3), np.int8), channels=channels, requantise=True)])


@pytest.mark.parametrize("shared_weights", [False, True])
def test_batches_with_strides(open_simulator: Open, shared_weights: bool) -> None:
    simulator = open_simulator(3, 5)
    rng = np.random.default_rng(10)
    for padding in (0, 3):
        a = random_int8(rng, 5, 6, 7)
        w = random_int8(rng, 7, 11) if shared_weights else random_int8(rng, 5, 7, 11)
        channels = random_channels(rng, 11)
        for requantise in (False, True):
            case = GemmCase(
                simulator.config, a, w, channels=channels, requantise=requantise, base=4096 - 64, row_padding=padding
            )
            run_cases(simulator, [case])


@pytest.mark.parametrize("row_strides", [{"lda": 0}, {"ldw": 0}, {"lda": 0, "ldw": 0}], ids=str)
def test_row_strides_of_zero_read_one_row_again_and_again(open_simulator: Open, row_strides: dict[str, int]) -> None:
    simulator, rng = open_simulator(3, 5), np.random.default_rng(15)
    a, w = random_int8(rng, 2, 9, 7), random_int8(rng, 2, 7, 11)
    case = GemmCase(simulator.config, a, w)
    memory = memory_array(simulator)
    case.write(memory)
    simulator.run([case.command(**row_strides).encode()])
    rows_of_a = a[:, :1] if "lda" in row_strides else a
    rows_of_w = w[:, :1] if "ldw" in row_strides else w
    expected = np.broadcast_to(rows_of_a, a.shape).astype(int) @ np.broadcast_to(rows_of_w, w.shape).astype(int)
    assert np.array_equal(case.result(memory), expected)
    case.check_around(memory)


def test_of_outputs_in_one_place_the_last_product_stays(open_simulator: Open) -> None:
    simulator, rng = open_simulator(3, 5), np.random.default_rng(16)
    case = GemmCase(simulator.config, random_int8(rng, 3, 9, 7), random_int8(rng, 3, 7, 11))
    memory = memory_array(simulator)
    case.write(memory)
    simulator.run([case.command(y_batch_stride=0).encode()])
    assert np.array_equal(case.result(memory)[0], case.expected()[2])


@pytest.mark.parametrize("seed", range(3))
def test_back_pressure_on_every_channel_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances = dict(zip(("aw", "w", "b", "ar", "r"), rng.uniform(0.1, 0.7, 5), strict=True))
    with Simulator(plain(3, 5), stalls=StallConfig(seed=seed, **chances), deadline_s=60) as simulator:
        for _ in range(6):
            m, n, k = (int(v) for v in rng.integers(1, 60, 3))
            case = GemmCase(
                *(simulator.config, random_int8(rng, m, k), random_int8(rng, k, n)),
                channels=random_channels(rng, n),
                requantise=bool(rng.integers(2)),
                bits=int(rng.choice([8, 16])),
                row_padding=int(rng.integers(3)),
            )
            run_cases(simulator, [case])


def test_slow_memory_changes_only_time(open_simulator: Open) -> None:
    fast = open_simulator(4, 4)
    rng = np.random.default_rng(11)
    a, w = random_int8(rng, 20, 30), random_int8(rng, 30, 10)
    cycles = []
    for settings in ({"latency_cycles": 300, "bytes_per_cycle": 3}, {"latency_cycles": 64, "bytes_per_cycle": 16}):
        fast.set_memory(settings)
        before = fast.counters()["cycles"]
        run_cases(fast, [GemmCase(fast.config, a, w)])
        cycles.append(fast.counters()["cycles"] - before)
    assert cycles[0] > cycles[1]


def test_more_commands_than_the_ring_holds(open_simulator: Open) -> None:
    simulator = open_simulator(4, 4)
    rng = np.random.default_rng(12)
    case = GemmCase(simulator.config, random_int8(rng, 1, 4), random_int8(rng, 4, 1))
    case.write(memory_array(simulator))
    before = simulator.counters()["commands"]
    simulator.run([case.command().encode()] * 600)
    assert simulator.counters()["commands"] - before == 600
    case.check(memory_array(simulator))


def test_counters_count_useful_work_and_beats(open_simulator: Open) -> None:
    simulator = open_simulator(4, 4)
    rng = np.random.default_rng(13)
    m, n, k = 9, 6, 7
    before = simulator.counters()
    run_cases(simulator, [GemmCase(simulator.config, random_int8(rng, m, k), random_int8(rng, k, n))])
    after = simulator.counters()
    used = {name: after[name] - before[name] for name in after}
    assert used["macs"] == m * n * k
    assert used["commands"] == 1
    assert used["busy_cycles"] == m * -(-k // 4) * -(-n // 4)
    assert used["dram_write_bytes"] == m * 32  # 24 bytes of a row in two beats of 16
    assert after["dram_row_activations"] > 0


def test_same_program_takes_the_same_cycles(open_simulator: Open) -> None:
    rng = np.random.default_rng(14)
    config = plain(4, 4)
    case = GemmCase(config, random_int8(rng, 40, 30), random_int8(rng, 30, 20))
    cycles = []
    for _ in range(2):
        with Simulator(config, deadline_s=60) as simulator:
            run_cases(simulator, [case])
            cycles.append(simulator.counters())
    assert cycles[0] == cycles[1]
