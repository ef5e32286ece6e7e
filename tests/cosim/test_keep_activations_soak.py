"""Random products, kept or not, on random accelerators: bits of the reference, cycles of the cycle model."""

from __future__ import annotations

import random

import numpy as np
import pytest

from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.tiling import keeps

from .gemm_cases import extreme_int8, random_channels, random_int8
from .keep_bench import KeepBench

pytestmark = pytest.mark.soak

COMMANDS = 30
TILED = (GemmFlag.A_TILED, GemmFlag.W_TILED, GemmFlag.Y_TILED)


def random_config(rng: random.Random) -> AcceleratorConfig:
    attention = rng.random() < 0.4
    rows = rng.randint(1, 12)
    cols = rows if attention else rng.randint(1, 12)
    lanes = rng.randint(1, cols)
    block_rows, slab_bytes = rng.randint(1, 20), rng.randint(1, 40)
    checksum = None
    if rng.random() < 0.7:
        scheme = rng.choice(["residue", "weighted", "classic", "matched"])
        located = CHECK_SCHEMES.get(scheme).locates
        if attention and not located:
            scheme, located = "residue", True
        columns = not attention and (not located or rng.random() < 0.5)
        checksum = ChecksumConfig(
            scheme=scheme,
            column_checks=columns,
            locators=rng.randint(1, 2) if located else 0,
            group_rows=rng.choice([size for size in range(1, block_rows + 1) if block_rows % size == 0]),
            segment_cols=rng.randint(lanes, cols),
        )
    slab_k_tiles = max(1, min(16, slab_bytes // rows))
    return AcceleratorConfig(
        rows=rows,
        cols=cols,
        bus_bytes=rng.choice([4, 16, 64]),
        block_rows=block_rows,
        block_col_tiles=rng.randint(1, 4),
        slab_bytes=slab_bytes,
        activation_vectors=2 * slab_k_tiles * block_rows + rng.choice([0, 0, rng.randint(1, 200)]),
        drain_lanes=lanes,
        read_outstanding=rng.choice([1, 2, 64]),
        attention=attention,
        timing_model="flip",
        razor=rng.random() < 0.2,
        checksum=checksum,
        memory=MemoryConfig(
            size_bytes=1 << 22, latency_cycles=rng.randint(1, 90), bytes_per_cycle=rng.choice([1, 7, 64])
        ),
    )


def random_flags(rng: random.Random, config: AcceleratorConfig) -> GemmFlag:
    if config.checksum is None or rng.random() < 0.2:
        return GemmFlag(0)
    last = rng.choice([GemmFlag(0), GemmFlag.SUPPRESS, GemmFlag.ZERO])
    return GemmFlag.CHECK | rng.choice([GemmFlag.CORRECT, GemmFlag(0)]) | last


@pytest.mark.parametrize("seed", range(12))
def test_random_products(seed: int) -> None:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    config = random_config(rng)
    print("seed", seed, config)
    group = config.checksum.group_rows if config.checksum is not None and config.group_count else 1
    bench = KeepBench(config)
    with bench.simulator:
        for index in range(COMMANDS):
            bench.set_rate(index, rng.choice([0, 1 << 22, 1 << 28]))
            block_rows = rng.choice([0, group * rng.randint(1, config.block_rows // group)])
            batch, m, n = rng.randint(1, 3), rng.randint(1, 60), rng.randint(1, 50)
            k = rng.randint(1, 50)
            flags = random_flags(rng, config)
            draw = rng.choice([random_int8, extreme_int8])
            requantise = rng.random() < 0.5
            tiled = GemmFlag(0)
            for flag in TILED:
                tiled |= flag if rng.random() < 0.3 else GemmFlag(0)
            bench.run(
                *(draw(numbers, batch, m, k), draw(numbers, batch, k, n)),
                block_rows=block_rows,
                keep=keeps(config, m, k, block_rows) and rng.random() < 0.8,
                flags=flags,
                tiled=tiled,
                channels=random_channels(numbers, n) if requantise else None,
                requantise=requantise,
                row_padding=rng.randint(0, 1),
                log_bytes=config.log_record_bytes * rng.choice([0, 3, 200]) if flags else 0,
                error_key=rng.randrange(1 << 32),
                first_row=rng.randrange(1 << 32),
                first_col=rng.randrange(1 << 32),
                theta=rng.randrange(12) if flags else 0,
            )
            if config.attention and rng.random() < 0.3:
                bench.set_rate(0, 0)
                bench.attend(index)
