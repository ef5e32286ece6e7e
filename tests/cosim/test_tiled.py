"""Tiled operands on the RTL: the same results as row-major ones, nothing read or written elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from brownout.cosim import CommandError, Simulator
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.commands import ErrorCause, GemmFlag

from .conftest import memory_array
from .gemm_cases import random_channels, random_int8

# The same simulators as in the tests of products, so that one worker builds them.
pytestmark = pytest.mark.xdist_group("gemm")

Open = Callable[[int, int], Simulator]
ALL = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED
LARGE = pytest.param(16, 16, marks=pytest.mark.soak)
EACH = [sum(flags, GemmFlag(0)) for count in (1, 2, 3) for flags in itertools.combinations(ALL, count)]


def run_cases(simulator: Simulator, cases: list[GemmCase]) -> None:
    memory = memory_array(simulator)
    for case in cases:
        case.write(memory)
    simulator.run([case.command().encode() for case in cases])
    for case in cases:
        case.check(memory)


@pytest.mark.parametrize(("rows", "cols"), [(3, 5), (4, 4), (16, 4), LARGE])
def test_every_choice_of_tiled_operands_in_batches_of_odd_shapes(open_simulator: Open, rows: int, cols: int) -> None:
    """Tails everywhere: 64-byte beats in which 3 x 5 tiles leave gaps, and beats that tiles fill."""
    simulator = open_simulator(rows, cols)
    config = simulator.config
    rng = np.random.default_rng(rows * 100 + cols)
    long = (config.block_rows + 3, (config.block_col_tiles + 1) * cols - 1, (config.slab_k_tiles + 1) * rows + 1)
    base, cases = 0, []
    for index, tiled in enumerate(EACH):
        for m, n, k in [(1, 1, 1), (7, cols + 1, rows - 1), long]:
            batch = 1 if (m, n, k) == long else 1 + index % 3
            w = random_int8(rng, batch, k, n) if index % 2 else random_int8(rng, k, n)
            case = GemmCase(
                *(config, random_int8(rng, batch, m, k), w),
                channels=random_channels(rng, n) if index % 3 else None,
                requantise=index % 3 == 2,
                bits=8 << (index // 3 % 2),
                base=base,
                row_padding=index % 2,
                tiled=tiled,
            )
            cases.append(case)
            base = -(-case.end // 128) * 128
    run_cases(simulator, cases)


def test_blocks_in_all_directions(open_simulator: Open) -> None:
    simulator = open_simulator(3, 5)
    config = simulator.config
    rng = np.random.default_rng(7)
    m, n, k = 2 * config.block_rows + 3, 5 * config.block_col_tiles * 5 + 7, 5 * config.slab_k_tiles * 3 + 7
    case = GemmCase(
        *(config, random_int8(rng, m, k), random_int8(rng, k, n)),
        channels=random_channels(rng, n),
        requantise=True,
        bits=16,
        base=4096 - 64,
        tiled=ALL,
    )
    run_cases(simulator, [case])


STRIDES = {"lda": ErrorCause.LDA, "ldw": ErrorCause.LDW, "ldy": ErrorCause.LDY}


@pytest.mark.parametrize(("rows", "cols"), [(3, 5), (16, 4), LARGE])
def test_strides_that_are_not_those_of_the_tiles_are_refused(open_simulator: Open, rows: int, cols: int) -> None:
    """In arrays whose tiles have gaps between them, and in those whose tiles have none; and nothing is written."""
    simulator = open_simulator(rows, cols)
    bus = simulator.config.bus_bytes
    rng = np.random.default_rng(3)
    memory = memory_array(simulator)
    for requantise, bits in ((False, 8), (True, 8), (True, 16)):
        a, w = random_int8(rng, 6, 77), random_int8(rng, 77, 131)
        case = GemmCase(
            *(simulator.config, a, w),
            channels=random_channels(rng, 131),
            requantise=requantise,
            bits=bits,
            base=8192,
            tiled=ALL,
        )
        good = case.command()
        for name, cause in STRIDES.items():
            for wrong in (getattr(good, name) - bus, getattr(good, name) + bus):
                case.write(memory)
                with pytest.raises(CommandError) as caught:
                    simulator.run([case.command(**{name: wrong}).encode()])
                assert caught.value.cause is cause, (name, wrong)
                case.check_untouched(memory)
        run_cases(simulator, [case])


def test_tiles_that_reach_outside_their_window_are_refused(open_simulator: Open) -> None:
    """One beat less than the tiles take, which would be enough for as many rows that lie in one piece."""
    simulator = open_simulator(3, 5)
    config = simulator.config
    rng = np.random.default_rng(4)
    memory = memory_array(simulator)
    case = GemmCase(config, random_int8(rng, 9, 100), random_int8(rng, 100, 77), base=8192, tiled=ALL)
    good = case.command()
    ends = {
        ErrorCause.A_WINDOW: ("read_limit", good.a_addr + good.m * good.lda),
        ErrorCause.W_WINDOW: ("read_limit", good.w_addr + good.k * good.ldw),
        ErrorCause.Y_WINDOW: ("write_limit", good.y_addr + good.m * good.ldy),
    }
    for cause, (limit, end) in ends.items():
        case.write(memory)
        with pytest.raises(CommandError) as caught:
            simulator.run([case.command(**{limit: end - config.bus_bytes}).encode()])
        assert caught.value.cause is cause
        case.check_untouched(memory)
    run_cases(simulator, [case])
