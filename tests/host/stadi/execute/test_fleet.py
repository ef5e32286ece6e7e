"""Images of fleets against those of one accelerator, and against a displaced computation in one place."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch

from brownout.host import Accelerator, offload
from brownout.host.device.power.energy import EnergyModel
from brownout.host.device.power.timing import DelayModel
from brownout.host.errors import FleetError, PlanError
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.solvers import solver_for
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.simulate.interval import Failure
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .displaced import in_one_place
from .tiny import (
    CONFIG,
    HALF,
    STEPS,
    alone,
    both,
    calibrated,
    devices,
    dit,
    dit_conditions,
    divisions,
    latents,
    make_image,
    pixart,
    pixart_conditions,
    plan,
    scheduler,
)

pytestmark = pytest.mark.xdist_group("fleet_fleet")
"""Tests share workers, which take longer to start than most tests."""

KINDS = {"dit": (dit, dit_conditions), "pixart": (pixart, pixart_conditions)}


class Case:
    """A model with its scales, on a fleet of six unequal devices."""

    def __init__(self, kind):
        make, conditions = KINDS[kind]
        self.model, self.conditions = make(), conditions(1)
        self.noise = latents(1)
        self.calibration = calibrated(self.model, torch.cat([self.noise] * 2), both(self.conditions))
        fleet = Fleet(devices(CONFIG, HALF, CONFIG, HALF, CONFIG, HALF), executor="inline", patience_s=60)
        self.placed = fleet.place(self.model, self.calibration)

    def generate(self, *, guidance_scale=2.0, conditions=None, noise=None, **options):
        conditions = self.conditions if conditions is None else conditions
        unconditional = conditions[1] if guidance_scale != 1 else None
        return make_image(
            self.placed,
            self.noise if noise is None else noise,
            **({"scheduler": scheduler(), "num_inference_steps": STEPS} | options),
            conditions=conditions[0],
            unconditional=unconditional,
            guidance_scale=guidance_scale,
        )

    def alone(self, *, guidance_scale=2.0, own=None, steps=STEPS, noise=None, conditions=None):
        return alone(
            self.model,
            self.calibration,
            self.noise if noise is None else noise,
            self.conditions if conditions is None else conditions,
            guidance_scale=guidance_scale,
            own_scheduler=scheduler() if own is None else own,
            steps=steps,
        )


@pytest.fixture(scope="module", params=KINDS)
def case(request):
    made = Case(request.param)
    yield made
    made.placed.close()


@pytest.fixture(scope="module")
def dit_case():
    made = Case("dit")
    yield made
    made.placed.close()


def test_one_device_makes_the_undivided_image(case):
    whole = case.generate(plan=plan([6]))
    assert torch.equal(whole.latents, case.alone())
    assert whole.latents.abs().max() < 100, "the solver ran away"


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_synchronous_images_are_those_of_one_device_for_every_division(case, parts):
    expected = case.alone(steps=2)
    for rows in divisions(6, parts):
        got = case.generate(plan=plan(rows, steps=2), mode="full_sync", num_inference_steps=2)
        assert torch.equal(got.latents, expected), rows


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_need_no_other_arguments(dit_case, steps):
    """Fewer than the usual warm-up has: all are synchronous, so the image is that of one device."""
    expected = dit_case.alone(steps=steps)
    for options in ({}, {"plan": "uniform"}, {"plan": "elastic"}, {"plan": "single"}, {"mode": "full_sync"}):
        got = dit_case.generate(num_inference_steps=steps, **options)
        assert torch.equal(got.latents, expected), options
        assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)
    with pytest.raises(PlanError, match=rf"^warmup must be in 0..{steps}, because there are {steps} steps, not 4;"):
        dit_case.generate(num_inference_steps=steps, warmup_steps=4)


def test_synchronous_images_with_dpm_solver(case):
    def own():
        return diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction", algorithm_type="dpmsolver++")

    got = case.generate(plan=plan([1, 5]), mode="full_sync", scheduler=own())
    assert torch.equal(got.latents, case.alone(own=own()))


def test_synchronous_images_of_several_at_once_and_without_guidance(dit_case):
    noise, conditions = latents(3), dit_conditions(3)
    got = dit_case.generate(plan=plan([2, 4]), mode="full_sync", noise=noise, conditions=conditions, guidance_scale=1.0)
    expected = dit_case.alone(noise=noise, conditions=conditions, guidance_scale=1.0)
    assert torch.equal(got.latents, expected)


def test_pixart_divides_images_that_are_not_square():
    case = Case("pixart")
    with case.placed:
        noise = latents(1, (8, 20))
        got = case.generate(plan=plan([1, 3]), mode="full_sync", noise=noise)
        assert torch.equal(got.latents, case.alone(noise=noise))


def test_halves_of_guidance_on_two_devices(dit_case):
    fleet = Fleet(devices(CONFIG, HALF), executor="inline", patience_s=60)
    with fleet.place(dit_case.model, dit_case.calibration) as placed:
        got = make_image(
            placed,
            dit_case.noise,
            scheduler=scheduler(),
            conditions=dit_case.conditions[0],
            unconditional=dit_case.conditions[1],
            guidance_scale=2.0,
            num_inference_steps=STEPS,
            plan="guidance",
        )
    assert torch.equal(got.latents, dit_case.alone())


def displaced(case, wanted):
    """The displaced image, evaluated as a whole on one accelerator with keys and values of other rows put in place.

    Nothing of rows, messages or workers is used: for each device and step the whole image is evaluated, and of it the
    device's rows are kept.
    """
    module = copy.deepcopy(case.model)
    solver = solver_for(scheduler(), wanted.steps)
    store: dict = {}
    with Accelerator(CONFIG, "twin") as accelerator, torch.no_grad():
        offload(module, accelerator, calibration=case.calibration)
        calls = [each for each in module.modules() if type(each).__name__ == "AttentionCall" and ".attn1" in each.name]
        current: dict = {}

        def gather(site):
            def put(key, value, _steps, _bad):
                key, value = key.clone(), value.clone()
                store[site, current["device"], current["step"]] = key.clone(), value.clone()
                for other, step in current["others"]:
                    other_rows = slice(other.rows[0] * 6, other.rows[1] * 6)
                    old = store[site, other.device if step is not None else "all", step]
                    key[:, :, other_rows], value[:, :, other_rows] = old[0][:, :, other_rows], old[1][:, :, other_rows]
                return key, value, False

            return put

        for call in calls:
            call.gather = gather(call.name)

        def evaluate(image, step):
            inputs = torch.cat([image, image])
            timestep = torch.full((len(inputs),), solver.timesteps[step])
            predicted = module(inputs, timestep=timestep, **both(case.conditions)).sample[:, : image.shape[1]]
            good, bad = predicted.chunk(2)
            return bad + 2.0 * (good - bad)

        return in_one_place(wanted, solver, case.noise, 2, current, evaluate)


@pytest.mark.parametrize(
    ("rows", "strides", "warmup"),
    [
        ((3, 3), (1, 1), 1),
        ((4, 2), (1, 2), 2),
        ((1, 5), (4, 1), 2),
        ((1, 2, 3), (2, 1, 4), 2),
        ((1, 1, 1, 1, 1, 1), (1, 2, 1, 2, 1, 1), 2),
    ],
)
def test_displaced_images_equal_a_computation_in_one_place(case, rows, strides, warmup):
    wanted = plan(rows, strides=strides, warmup=warmup)
    got = case.generate(plan=wanted, replan=False)
    assert torch.equal(got.latents, displaced(case, wanted))
    assert not torch.equal(got.latents, case.alone()), "nothing was displaced"


def test_rows_of_warm_up_may_be_others(case):
    same = plan((3, 3), strides=(1, 2), warmup=2)
    other = plan((3, 3), strides=(1, 2), warmup=2, warmup_rows=(5, 1))
    assert torch.equal(case.generate(plan=same, replan=False).latents, case.generate(plan=other, replan=False).latents)


def test_planned_times_are_those_that_the_accelerators_count(dit_case):
    wanted = plan((4, 2), strides=(1, 2), warmup=2, warmup_rows=(5, 1))
    got = dit_case.generate(plan=wanted, replan=False)
    inputs, conditions = torch.cat([dit_case.noise] * 2), both(dit_case.conditions)
    costs = dit_case.placed.costs(inputs, conditions)
    counts = {device: [each.rows for each in made] for device, made in got.evaluations.items()}
    assert counts == {"d0": [5, 5, 4, 4, 4, 4], "d1": [1, 1, 2, 2]}
    specs = {device.name: device for device in dit_case.placed.fleet.spec.devices}
    for device, made in got.evaluations.items():
        for each in made:
            expected = costs.of(specs[device])
            np.testing.assert_allclose(each.stage_s, expected.stage_seconds(each.rows), rtol=1e-9)
            # But for activations of DRAM rows, which depend on where matrices lie.
            activations = (each.energy_j - expected.energy_j(each.rows)) / EnergyModel().activation_j
            assert activations == pytest.approx(round(activations), abs=1e-6)
            assert abs(activations) < 200
    assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)
    assert got.damaged == 0
    assert got.lost == {}


def test_background_load_changes_the_plan_in_mid_run_and_both_executions_agree(dit_case):
    """The whole way: a load begins, the planner gives rows away, workers follow."""
    free = dit_case.generate(plan="uniform", num_inference_steps=12, replan=False)
    begins = free.timeline.latency_s / 2
    pair = [
        DeviceSpec(name="d0", config=CONFIG),
        DeviceSpec(name="d1", config=CONFIG, load=LoadTrace((0.0, begins), (0.0, 0.6))),
    ]
    with Fleet(pair, executor="inline", patience_s=60).place(dit_case.model, dit_case.calibration) as placed:
        options = {
            "scheduler": scheduler(),
            "conditions": dit_case.conditions[0],
            "unconditional": dit_case.conditions[1],
            "guidance_scale": 2.0,
            "num_inference_steps": 12,
            "warmup_steps": 1,
        }
        got = make_image(placed, dit_case.noise, plan="elastic", **options)
        assert len(got.timeline.plans) > 1
        assert got.timeline.plans[-1].shares != got.timeline.plans[0].shares
        assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)
        stays = make_image(placed, dit_case.noise, plan="elastic", replan=False, **options)
        assert stays.timeline.latency_s > got.timeline.latency_s


def test_a_device_that_stops_in_simulated_time_is_replaced_from_the_last_sync_point(dit_case):
    wanted = plan((3, 3), warmup=2, steps=8)
    undisturbed = dit_case.generate(plan=wanted, num_inference_steps=8, replan=False)
    stops = Failure("d1", undisturbed.timeline.latency_s * 0.6)
    got = dit_case.generate(plan=wanted, num_inference_steps=8, failures=[stops])
    assert len(got.timeline.plans) == 2
    after = got.timeline.plans[1]
    assert "d1" not in {share.device for share in after.shares}
    assert any(segment.kind == "lost" for segment in got.timeline.segments)
    assert got.latents.isfinite().all()
    # The image until then is that of the first plan: the rest, from the same latents, that of the second.
    assert (got.latents - undisturbed.latents).abs().max() < (dit_case.noise - undisturbed.latents).abs().max()


def test_a_device_at_an_overclocked_point_makes_the_same_image_faster(dit_case):
    memory = MemoryConfig(size_bytes=1 << 22)
    slow = DeviceSpec(name="d0", config=AcceleratorConfig(rows=8, cols=8, memory=memory), frequency_hz=1e9)
    with Fleet([slow], executor="inline", patience_s=60).place(dit_case.model, dit_case.calibration) as placed:
        got = make_image(
            placed,
            dit_case.noise,
            scheduler=scheduler(),
            conditions=dit_case.conditions[0],
            num_inference_steps=2,
            plan=plan([6], steps=2),
        )
    nominal = dit_case.generate(plan=plan([6], steps=2), num_inference_steps=2, guidance_scale=1.0)
    assert torch.equal(got.latents, nominal.latents)
    assert got.timeline.latency_s > 1.2 * nominal.timeline.latency_s
    assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"plan": plan([6], steps=5)}, PlanError, "the plan covers steps 0..4, but 0..5 are needed"),
        ({"plan": plan([3, 4])}, PlanError, "the plan divides 7 rows, but the image has 6"),
        (
            {"plan": plan([3, 3], warmup=0)},
            PlanError,
            "devices that share an image need at least one synchronous step; use warmup of 1 or more",
        ),
        ({"mode": "async"}, ValueError, "mode must be one of 'displaced', 'full_sync', not 'async'"),
        (
            {"noise": torch.zeros(2, 12, 12)},
            ValueError,
            "latents must be float32 (B, C, H, W), not torch.float32 (2, 12, 12)",
        ),
        (
            {"noise": torch.zeros(1, 2, 13, 12)},
            PlanError,
            "latents of 13 x 12 do not consist of patches of 2 x 2",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(dit_case, options, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        dit_case.generate(**options)


def test_guidance_needs_its_other_half(dit_case):
    with pytest.raises(ValueError, match=r"^guidance_scale=3 needs unconditional=$"):
        make_image(
            dit_case.placed,
            dit_case.noise,
            scheduler=scheduler(),
            conditions=dit_case.conditions[0],
            guidance_scale=3.0,
        )
    with pytest.raises(ValueError, match=r"^guidance_scale=1 makes no use of unconditional=; leave it out$"):
        make_image(
            dit_case.placed,
            dit_case.noise,
            scheduler=scheduler(),
            conditions=dit_case.conditions[0],
            unconditional=dit_case.conditions[1],
        )


def test_a_model_that_does_not_fit_is_refused_when_it_is_placed(dit_case):
    tiny = AcceleratorConfig(rows=8, cols=8, memory=MemoryConfig(size_bytes=1 << 16))
    with pytest.raises(FleetError, match=r"^device d1 could not be started: DeviceMemoryError: "):
        Fleet(devices(CONFIG, tiny), executor="inline").place(dit_case.model, dit_case.calibration)


def test_other_models_are_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    from brownout.host.stadi.execute.patching import patched

    with pytest.raises(
        PlanError,
        match=r"^Sequential cannot be divided into token rows; DiTTransformer2DModel and PixArtTransformer2DModel can$",
    ):
        patched(model, (8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "thread"}, "executor must be one of 'process', 'inline', 'ray', not 'thread'"),
        ({"patience_s": 0}, "patience_s must be positive, not 0"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
    ],
)
def test_options_of_a_fleet_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Fleet([CONFIG], **options)


def test_an_undervolted_device_errs_alike_each_time_and_protection_keeps_the_image(dit_case):
    """A protected point: 3 errors in 1,000 sums, corrected, or kept from the evaluation before."""
    delay_model = DelayModel()
    voltage = delay_model.voltage_at_rate(3e-3)
    checked = replace(
        CONFIG, timing_model="flip", checksum=ChecksumConfig(scheme="residue", group_rows=8, segment_cols=8)
    )
    noise, images = dit_case.noise, {}
    wanted = plan((3, 3), strides=(1, 2), warmup=2)
    for name, device in {
        "clean": DeviceSpec(name="d1", config=checked),
        "low": DeviceSpec(name="d1", config=checked, voltage_v=voltage),
        "again": DeviceSpec(name="d1", config=checked, voltage_v=voltage),
    }.items():
        pair = [DeviceSpec(name="d0", config=CONFIG), device]
        with Fleet(pair, executor="inline", patience_s=60).place(dit_case.model, dit_case.calibration) as placed:
            made = make_image(
                placed,
                noise,
                scheduler=scheduler(),
                conditions=dit_case.conditions[0],
                num_inference_steps=STEPS,
                plan=wanted,
                replan=False,
            )
            images[name] = made.latents
    assert torch.equal(images["low"], images["again"])
    assert not torch.equal(images["low"], images["clean"])
    moved = (noise - images["clean"]).square().mean()
    assert (images["low"] - images["clean"]).square().mean() < 0.05 * moved
