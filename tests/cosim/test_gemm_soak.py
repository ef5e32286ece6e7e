"""Long sweeps of GEMM commands: configurations drawn at random, and arrays too large to build in the quick tests."""

from __future__ import annotations

import numpy as np
import pytest

from brownout.cosim import Simulator, StallConfig
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.config import AcceleratorConfig

from ..configurations import SMALL_MEMORY
from .conftest import memory_array
from .gemm_cases import extreme_channels, extreme_int8, random_channels, random_int8

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]


def random_config(rng: np.random.Generator) -> AcceleratorConfig:
    """Any geometry up to 12 x 12, every other parameter down to its least value."""
    return AcceleratorConfig(
        rows=int(rng.integers(1, 13)),
        cols=int(rng.integers(1, 13)),
        bus_bytes=int(rng.choice([4, 8, 16, 32, 64, 128])),
        block_rows=int(rng.choice([1, 2, 7, 16, 128])),
        block_col_tiles=int(rng.choice([1, 2, 3, 4])),
        slab_bytes=int(rng.choice([1, 8, 33, 64])),
        drain_lanes=int(rng.choice([1, 2, 3, 4, 8])),
        read_outstanding=int(rng.choice([1, 2, 64])),
        write_outstanding=int(rng.choice([1, 16])),
        memory=SMALL_MEMORY,
    )


def random_case(config: AcceleratorConfig, rng: np.random.Generator, largest: int) -> GemmCase:
    m, n, k = (int(v) for v in rng.integers(1, rng.integers(2, largest), 3))
    extreme = bool(rng.integers(2))
    draw = extreme_int8 if extreme else random_int8
    batch = (int(rng.integers(1, 4)),) if rng.integers(2) else ()
    channels = (extreme_channels if extreme else random_channels)(rng, n) if rng.integers(3) else None
    return GemmCase(
        *(config, draw(rng, *batch, m, k), draw(rng, *batch, k, n)),
        channels=channels,
        requantise=channels is not None and bool(rng.integers(2)),
        bits=int(rng.choice([8, 16])),
        row_padding=int(rng.integers(3)),
    )


def run_random_cases(config: AcceleratorConfig, rng: np.random.Generator, count: int, largest: int) -> None:
    chances = rng.uniform(0, 0.6, 5) * rng.integers(0, 2)
    stalls = StallConfig(seed=1, **dict(zip(("aw", "w", "b", "ar", "r"), map(float, chances), strict=True)))
    with Simulator(config, stalls=stalls, deadline_s=300) as simulator:
        memory = memory_array(simulator)
        for _ in range(count):
            case = random_case(config, rng, largest)
            case.write(memory)
            simulator.run([case.command().encode()])
            case.check(memory)
        del memory


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    print(f"seed {seed}: {config}")
    run_random_cases(config, rng, count=40, largest=80)


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (64, 16), (24, 64), (64, 64)])
def test_large_arrays(rows: int, cols: int) -> None:
    rng = np.random.default_rng(rows + cols)
    run_random_cases(AcceleratorConfig(rows=rows, cols=cols, memory=SMALL_MEMORY), rng, count=12, largest=200)
