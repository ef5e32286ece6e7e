"""Undervolted pipelines of diffusers: rollback makes them close to clean, and RTL draws what the twin draws."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest

from brownout.host import Accelerator, OffloadedPipeline
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import Rollback, Unprotected
from brownout.hw.config import ChecksumConfig, MemoryConfig

from ..pipelines.tiny import TINY, make, noise
from .denoiser import CONFIG, RESIDUE

LARGE = replace(
    CONFIG, rows=16, cols=16, block_rows=128, slab_bytes=64, memory=MemoryConfig(size_bytes=1 << 25), block_col_tiles=8
)
SEGMENTS = ChecksumConfig(scheme="residue", segment_cols=8, column_checks=False)


def draw(name, strategy, low, *, config=LARGE, backend="twin", scheduler=None, steps=None, first=1):
    """Image, statistics and what the execution counted."""
    tiny = make(name)
    if scheduler is not None:
        tiny.pipeline.scheduler = scheduler.from_config(tiny.pipeline.scheduler.config)
    call = tiny.call if steps is None else tiny.call | {"num_inference_steps": steps}
    with Accelerator(strategy.hardware(config), backend=backend) as accelerator:
        calls = [call | {"generator": noise(9)}]
        with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=calls) as pipe:
            with protect(pipe.denoiser, strategy, SelectivePolicy(low=low, first=first), seed=4) as run:
                images = pipe(**call, generator=noise(1)).images
                assert run.evaluation == pipe.evaluations - 1
                return images, dict(pipe.stats), run


def distance(a, b):
    return float(np.abs(a - b).mean())


@pytest.mark.parametrize("name", TINY)
def test_rollback_brings_pipelines_close_to_their_clean_image(name):
    low = OperatingPoint(voltage_v=0.68, check_voltage_v=0.72)
    clean, _, _ = draw(name, Unprotected(), NOMINAL)
    ruined, _, _ = draw(name, Unprotected(), low)
    rolled_back, stats, run = draw(name, Rollback(SEGMENTS), low)
    assert stats["corrected"] > 0
    assert run.model.accelerator.config.checksum == SEGMENTS
    assert distance(rolled_back, clean) < distance(ruined, clean) / 4


def test_second_order_solvers_go_back_to_the_evaluation_before():
    low = OperatingPoint(error_rate=0.02, check_rate=0.01)
    options = {"scheduler": diffusers.HeunDiscreteScheduler}
    clean, _, _ = draw("dit", Unprotected(), NOMINAL, **options)
    ruined, _, _ = draw("dit", Unprotected(), low, **options)
    rolled_back, _, run = draw("dit", Rollback(SEGMENTS), low, **options)
    # Three steps, of which all but the last take two evaluations; ages are in evaluations, and all are one.
    assert run.evaluation == 4
    assert set(run.model.history.ages) <= {1}
    assert distance(rolled_back, clean) < distance(ruined, clean) / 4


@pytest.mark.rtl
def test_rtl_draws_the_image_of_the_twin():
    config = replace(CONFIG, memory=MemoryConfig(size_bytes=1 << 23, row_bytes=512, banks=8, latency_cycles=20))
    low = OperatingPoint(error_rate=0.02, check_rate=0.01)
    results = [
        draw("dit", Rollback(RESIDUE), low, config=config, backend=backend, steps=2) for backend in ("twin", "rtl")
    ]
    (twin, twin_stats, _), (rtl, rtl_stats, _) = results
    assert np.array_equal(twin, rtl)
    assert twin_stats == pytest.approx(rtl_stats)
    assert twin_stats["suppressed"] > 0
