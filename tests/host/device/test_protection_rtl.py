"""Errors, checks, corrections, log and counters of simulated RTL are those of the twin."""

from __future__ import annotations

import pytest
import torch

from brownout.host import Accelerator, Protection, Requantisation
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

pytestmark = pytest.mark.rtl


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def journey(config, backend):
    """Results, log and counters of a few products between changes of operating points."""
    generator = torch.Generator().manual_seed(1)
    found = []
    with Accelerator(
        config, backend=backend, protection=Protection(on_uncorrectable="suppress", log_records=20)
    ) as accelerator:
        slots = accelerator.new_slot(2, 9, 11), accelerator.new_slot(2, 9, 11, dtype=torch.int8)
        for step in range(5):
            if step == 1 and config.timing_model == "flip":
                accelerator.set_error_rate(0.05, seed=7, check_rate=0.01)
            if step == 1 and config.timing_model == "carry":
                accelerator.set_operating_point(voltage_v=0.76)
            if step == 2:
                accelerator.set_operating_point(voltage_v=0.62, domain=1, seed=9)
            settings = {}
            if step == 4:
                scales = Requantisation(torch.full((11,), 1 << 20), torch.full((11,), 30))
                settings = {"requant": scales, "bias": torch.arange(11, dtype=torch.int32)}
            out = slots[step == 4]
            a, w = random_int8(generator, 2, 9, 13), random_int8(generator, 2, 13, 11)
            accelerator.gemm(a, w, out=out, error_key=step, first_row=3, first_col=8, **settings)
            found.append((out.clone(), accelerator.last_log, dict(accelerator.stats)))
    return found


@pytest.mark.parametrize("model", ["flip", "carry"])
def test_a_journey_through_operating_points_is_the_same(model):
    config = AcceleratorConfig(
        rows=4,
        cols=4,
        block_rows=8,
        block_col_tiles=2,
        slab_bytes=8,
        timing_model=model,
        checksum=ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4),
        voltage_domains=2,
        operating_points=3,
        memory=MemoryConfig(size_bytes=1 << 20),
    )
    for step, (expected, got) in enumerate(zip(journey(config, "twin"), journey(config, "rtl"), strict=True)):
        assert torch.equal(expected[0], got[0]), step
        assert expected[1] == got[1], step
        assert expected[2] == {name: got[2][name] for name in expected[2]}, step
        assert got[2]["time_s"] > 0
        assert expected[2]["detected"] > 0 or step == 0
