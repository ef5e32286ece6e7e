"""One image over two simulators, against the twin."""

from __future__ import annotations

import pytest
import torch

from brownout.host.stadi.execute.fleet import Fleet

from ...small import CONFIG
from .tiny import calibrated, devices, dit, dit_conditions, latents, make_image, plan, scheduler


@pytest.mark.rtl
@pytest.mark.xdist_group("fleet_rtl")
def test_two_simulators_make_the_image_of_the_twin_in_the_same_time(config):
    """Displaced, with strides; then in step, which is the image of one device."""
    model, noise, conditions = dit(), latents(1), dit_conditions(1)
    calibration = calibrated(model, noise, conditions[0])
    wanted = plan((4, 2), strides=(1, 2), warmup=1, steps=3)
    options = {"scheduler": scheduler(), "conditions": conditions[0], "num_inference_steps": 3, "replan": False}
    made = {}
    for backend, executor in (("twin", "inline"), ("rtl", "process")):
        fleet = Fleet(devices(CONFIG, config), backend=backend, executor=executor, patience_s=300)
        with fleet.place(model, calibration) as placed:
            made[backend] = make_image(placed, noise, plan=wanted, **options)
            if backend == "rtl":
                in_step = make_image(placed, noise, plan=wanted, mode="full_sync", **options)
            else:
                single = make_image(placed, noise, plan=plan((6,), steps=3), **options)
    assert torch.equal(made["rtl"].latents, made["twin"].latents)
    assert torch.equal(in_step.latents, single.latents)
    assert not torch.equal(single.latents, made["twin"].latents)
    for device, evaluations in made["twin"].evaluations.items():
        for expected, got in zip(evaluations, made["rtl"].evaluations[device], strict=True):
            assert got.rows == expected.rows
            assert got.stage_s == pytest.approx(expected.stage_s, rel=1e-9)
            assert got.energy_j == pytest.approx(expected.energy_j, rel=1e-9)
    assert made["rtl"].timeline.latency_s == pytest.approx(made["twin"].predicted_s, rel=1e-9)
