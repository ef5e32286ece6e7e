"""Divided U-Nets against the undivided one, and against a displaced computation in one place."""

from __future__ import annotations

import copy
import functools
import re

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, calibrate, offload
from brownout.host.errors import PlanError
from brownout.host.offloading import OffloadedConv2d
from brownout.host.stadi.runtime.fleet import Fleet
from brownout.host.stadi.runtime.patching import patched
from brownout.host.stadi.solvers import solver_for

from .tiny import CONFIG, HALF, alone, both, calibrated, devices, divisions, latents, plan, scheduler

STEPS = 4
WIDTHS = {2: (16, 32), 3: (16, 16, 32)}
"""Of the levels; multiples of what elementwise operations compute at once."""

ROWS = {2: 5, 3: 4}
"""Of a plan: of two and of four rows of latents."""


def unet(levels=2, **options):
    """Blocks as in Stable Diffusion 1.5."""
    torch.manual_seed(levels)
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 2,
            "out_channels": 2,
            "block_out_channels": WIDTHS[levels],
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D",) * (levels - 1) + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (levels - 1),
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
        }
        | options
    ).eval()


def prompts():
    """Conditional and unconditional."""
    generator = torch.Generator().manual_seed(5)
    return tuple({"encoder_hidden_states": torch.randn(1, 3, 16, generator=generator)} for _ in range(2))


class Case:
    """A U-Net on a fleet of four unequal devices."""

    def __init__(self, levels):
        self.model, self.conditions = unet(levels), prompts()
        self.levels, self.rows, self.latent_rows = levels, ROWS[levels], 2 ** (levels - 1)
        self.noise = latents(1, (self.rows * self.latent_rows, 8))
        self.calibration = calibrated(self.model, torch.cat([self.noise] * 2), both(self.conditions))
        fleet = Fleet(devices(CONFIG, HALF, CONFIG, HALF), executor="inline", patience_s=60)
        self.placed = fleet.place(self.model, self.calibration)

    def generate(self, wanted, *, guided=False, **options):
        return self.placed.generate(
            self.noise,
            scheduler=scheduler(),
            conditions=self.conditions[0],
            unconditional=self.conditions[1] if guided else None,
            guidance_scale=2.0 if guided else 1.0,
            num_inference_steps=wanted.steps,
            plan=wanted,
            **({"replan": False} | options),
        )

    @functools.cache  # noqa: B019  (lives as long as the tests)
    def alone(self, steps=STEPS, guided=False):
        scale = 2.0 if guided else 1.0
        return alone(
            self.model,
            self.calibration,
            self.noise,
            self.conditions,
            guidance_scale=scale,
            own_scheduler=scheduler(),
            steps=steps,
        )


@pytest.fixture(scope="module")
def cases():
    made = {levels: Case(levels) for levels in WIDTHS}
    yield made
    for case in made.values():
        case.placed.close()


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", WIDTHS)
def test_synchronous_images_are_those_of_one_device_for_every_division(cases, levels, parts):
    case = cases[levels]
    for rows in divisions(case.rows, parts):
        got = case.generate(plan(rows, steps=1))
        assert torch.equal(got.latents, case.alone(1)), rows


def test_synchronous_images_with_guidance_in_several_steps(cases):
    got = cases[3].generate(plan((1, 3), steps=STEPS), guided=True, mode="full_sync")
    assert torch.equal(got.latents, cases[3].alone(guided=True))


def sites(module):
    """Layers that read more than a pixel, with the dimension of rows in their inputs."""
    for name, layer in module.named_modules():
        if isinstance(layer, OffloadedConv2d | nn.GroupNorm):
            yield layer, 2
        elif name.endswith((".attn1.to_k", ".attn1.to_v")):
            yield layer, 1


def displaced(case, wanted):
    """The displaced image, evaluated as a whole on one accelerator with old inputs of other rows put in place.

    Nothing of borders, moments or messages is used: each layer that reads more than a pixel gets the whole input, in
    which rows of others are as in their evaluation that the plan names.
    """
    module = copy.deepcopy(case.model)
    solver = solver_for(scheduler(), wanted.steps)
    store: dict = {}
    current: dict = {}

    def compose(site, dimension):
        def hook(_layer, arguments):
            whole = arguments[0].clone()
            for other, step in current["others"]:
                per_row = whole.shape[dimension] // case.rows
                start, stop = (row * per_row for row in other.rows)
                old = store[site, other.device if step is not None else "all", step]
                whole.narrow(dimension, start, stop - start).copy_(old.narrow(dimension, start, stop - start))
            store[site, current["device"], current["step"]] = whole
            return whole

        return hook

    with Accelerator(CONFIG, "twin") as accelerator, torch.no_grad():
        offload(module, accelerator, calibration=case.calibration)
        for site, (layer, dimension) in enumerate(sites(module)):
            layer.register_forward_pre_hook(compose(site, dimension))

        def evaluate(image, step):
            return module(image, torch.full((1,), solver.timesteps[step]), **case.conditions[0]).sample

        def joined(states):
            cut = [
                states[share.device].rows(*(row * case.latent_rows for row in share.rows)) for share in wanted.shares
            ]
            return type(state).join(cut)

        state = solver.begin(case.noise)
        for step in range(wanted.warmup):
            current.update(device="all", step=None, others=[])
            state = solver.step(state, evaluate(state.latents, step), step, 1)
        states = {share.device: state for share in wanted.shares}
        for step in range(wanted.warmup, wanted.steps):
            if (step - wanted.warmup) % wanted.interval == 0:
                states = dict.fromkeys(states, joined(states))
            for share in wanted.shares:
                if (step - wanted.warmup) % share.stride:
                    continue
                others = [(other, wanted.held(other, step)) for other in wanted.shares if other is not share]
                current.update(device=share.device, step=step, others=others)
                mine = states[share.device]
                states[share.device] = solver.step(mine, evaluate(mine.latents, step), step, share.stride)
    return joined(states).latents


@pytest.mark.parametrize(
    ("levels", "rows", "strides", "warmup", "warmup_rows"),
    [
        (2, (3, 2), (1, 1), 1, (3, 2)),
        (2, (1, 1, 2, 1), (2, 1, 1, 2), 2, (1, 2, 1, 1)),
        (3, (1, 3), (1, 2), 2, (3, 1)),
        (3, (1, 1, 1, 1), (1, 1, 1, 1), 1, (1, 1, 1, 1)),
    ],
)
def test_displaced_images_equal_a_computation_in_one_place(cases, levels, rows, strides, warmup, warmup_rows):
    case = cases[levels]
    steps = warmup + 4
    wanted = plan(rows, strides=strides, warmup=warmup, warmup_rows=warmup_rows, steps=steps)
    got, expected = case.generate(wanted).latents, displaced(case, wanted)
    error, shift = (got - expected).abs(), (got - case.alone(steps)).abs()
    print(error.max(), (error > 1e-4).float().mean(), shift.max(), shift.mean())
    assert shift.max() > 1e-2
    assert error.max() < 1e-3
