"""Random attention on random accelerators: bits of the reference, cycles of the cycle model."""

from __future__ import annotations

import random

import numpy as np
import pytest

from brownout.cosim import Simulator
from brownout.cosim.attention_case import AttentionCase
from brownout.cosim.cycle_model import CycleModel, Found
from brownout.cosim.reference.attention import AttentionScales, reference_attention
from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.commands import GemmFlag, SetErrorsCommand
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.tiling import attention_rows

from .conftest import memory_array
from .gemm_cases import extreme_int8, random_int8

pytestmark = pytest.mark.soak

COMMANDS = 25


def random_config(rng: random.Random) -> AcceleratorConfig:
    side = rng.randint(1, 17)
    lanes = rng.randint(1, side)
    checksum = None
    if rng.random() < 0.7:
        scheme = rng.choice(["residue", "weighted"])
        checksum = ChecksumConfig(
            scheme=scheme,
            column_checks=False,
            locators=rng.randint(1, 2),
            segment_cols=rng.randint(lanes, side),
            pairs=CHECK_SCHEMES.get(scheme).locates_doubles and rng.random() < 0.5,
        )
    return AcceleratorConfig(
        rows=side,
        cols=side,
        bus_bytes=rng.choice([4, 16, 64]),
        block_rows=rng.randint(1, 24),
        block_col_tiles=rng.randint(1, 5),
        slab_bytes=rng.randint(1, 64),
        drain_lanes=lanes,
        attention=True,
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


@pytest.mark.parametrize("seed", range(6))
def test_random_heads(seed: int) -> None:
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    config = random_config(rng)
    print("seed", seed, config)
    models = CycleModel(config), CycleModel(config, step=True)
    with Simulator(config, deadline_s=300) as simulator:
        memory = memory_array(simulator)
        for index in range(COMMANDS):
            rate = rng.choice([0, 1 << 22, 1 << 28])
            command = SetErrorsCommand(seed=index, rates=(rate,))
            simulator.run([command.encode()])
            for model in models:
                model.run([command])
            room = config.block_rows * config.block_col_tiles * config.cols
            heads, queries = rng.randint(1, 3), rng.randint(1, 40)
            width = rng.randint(1, config.slab_k_tiles * config.rows)
            columns = rng.randint(1, config.block_col_tiles * config.cols)
            keys = rng.randint(1, min(room, 70))
            draw = rng.choice([random_int8, extreme_int8])
            q, k, v = (draw(numbers, heads, *each) for each in ((queries, width), (keys, width), (keys, columns)))
            scales = AttentionScales(
                score_mult=rng.randrange(1 << 16),
                score_shift=rng.randint(1, 30),
                out_scale=rng.randrange(127 << 31),
                out_shift=rng.randint(1, 40),
            )
            flags, causal = random_flags(rng, config), rng.random() < 0.5
            checked = bool(flags)
            case = AttentionCase(
                *(config, q, k, v, scales),
                block_rows=rng.randint(1, attention_rows(config, 1 << 20, keys)),
                row_padding=rng.randint(0, 1),
                log_records=rng.choice([0, 3, 500]) if checked else 0,
                error_key=rng.randrange(1 << 32),
                value_error_key=rng.randrange(1 << 32),
                first_row=rng.randrange(1 << 32),
                theta=rng.randrange(12) * checked,
                value_theta=rng.randrange(12) * checked,
                flags=int(flags | (GemmFlag.CAUSAL if causal else GemmFlag(0))),
            )
            previous = random_int8(numbers, heads, queries, columns)
            case.write(memory, previous)
            before = simulator.counters()
            told = case.command()
            simulator.run([told.encode()])
            gained = {name: value - before[name] for name, value in simulator.counters().items()}
            options = CommandOptions(
                flags=flags,
                error_key=told.error_key,
                first_row=told.first_row,
                theta=told.theta,
                log_bytes=told.log_bytes,
            )
            wanted = reference_attention(
                *(config, q, k, v),
                scales=scales,
                block_rows=told.block_rows,
                options=options,
                value_error_key=told.value_error_key,
                value_theta=told.value_theta,
                errors=ErrorState(seed=index, rates=(rate,)),
                causal=causal,
                previous=previous,
            )
            case.check(memory, wanted.output, wanted.log)
            if checked:
                assert {name: gained[name] for name in wanted.counters} == wanted.counters
            kept = np.flatnonzero(wanted.uncorrectable) if flags & GemmFlag.SUPPRESS else np.zeros(0)
            found = Found(np.array(wanted.records, np.uint64), kept.astype(np.uint64)) if checked else None
            for model in models:
                counted = model.run([told], [found])
                assert counted == {name: gained[name] for name in counted}
