"""Divided U-Nets against the undivided one, and against a displaced computation in one place."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, offload
from brownout.host.errors import PlanError
from brownout.host.offloading import OffloadedConv2d
from brownout.host.stadi.execute.exchange import Exchange
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.group_norms import GroupNorms, Moments, pooled
from brownout.host.stadi.execute.halos import Halos, PixelRow
from brownout.host.stadi.execute.mailbox import Mailbox
from brownout.host.stadi.execute.patching import patched
from brownout.host.stadi.execute.solvers import solver_for
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.divided import MessageSizes
from brownout.host.stadi.simulate.interval import Failure

from .displaced import in_one_place
from .tiny import CONFIG, HALF, alone, both, calibrated, devices, divisions, latents, make_image, plan, scheduler

pytestmark = pytest.mark.xdist_group("fleet_unet")
"""Tests share workers, which take longer to start than most tests."""

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
        return make_image(
            self.placed,
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
    def alone(self, steps, guided=False):
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
    got = cases[3].generate(plan((1, 3), steps=2), guided=True, mode="full_sync")
    assert torch.equal(got.latents, cases[3].alone(2, guided=True))


def test_synchronous_images_of_a_unet_as_in_stable_diffusion_xl():
    model = unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
    )
    added = {"text_embeds": torch.ones(1, 8), "time_ids": torch.arange(6.0)[None]}
    conditions = {**prompts()[0], "added_cond_kwargs": added}
    noise = latents(1, (8, 8))
    calibration = calibrated(model, noise, conditions)
    expected = alone(
        model, calibration, noise, (conditions, None), guidance_scale=1.0, own_scheduler=scheduler(), steps=1
    )
    with Fleet(devices(CONFIG, HALF), executor="inline", patience_s=60).place(model, calibration) as placed:
        got = make_image(
            placed,
            noise,
            scheduler=scheduler(),
            conditions=conditions,
            num_inference_steps=1,
            plan=plan((1, 3), steps=1),
        )
    assert torch.equal(got.latents, expected)


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

        return in_one_place(wanted, solver, case.noise, case.latent_rows, current, evaluate)


@pytest.mark.parametrize(
    ("levels", "rows", "strides", "warmup", "warmup_rows", "steps"),
    [
        (2, (1, 1, 2, 1), (2, 1, 1, 2), 2, (1, 2, 1, 1), 4),
        (3, (1, 3), (1, 2), 1, (3, 1), 5),
        pytest.param(3, (1, 1, 1, 1), (1, 1, 1, 1), 1, (1, 1, 1, 1), 3, marks=pytest.mark.soak),
    ],
)
def test_displaced_images_equal_a_computation_in_one_place(cases, levels, rows, strides, warmup, warmup_rows, steps):
    case = cases[levels]
    wanted = plan(rows, strides=strides, warmup=warmup, warmup_rows=warmup_rows, steps=steps)
    got, expected = case.generate(wanted).latents, displaced(case, wanted)
    assert (got - case.alone(steps)).abs().mean() > 0.02, "nothing was displaced"
    # Group norms are rounded in another way, which may cross the border of an int8 step: borders of one step earlier
    # shift the first case by 0.02.
    assert (got - expected).abs().mean() < 1e-3


def test_the_finer_the_steps_the_smaller_the_error_of_displacement(cases):
    case = cases[2]
    errors = []
    for steps in (3, 8):
        got, whole = case.generate(plan((2, 3), steps=steps)).latents, case.alone(steps)
        errors.append(float((got - whole).norm() / whole.norm()))
    assert errors[0] < 0.1
    assert errors[1] < 0.7 * errors[0]


def test_stages_take_the_planned_times(cases):
    case = cases[3]
    wanted = plan((2, 1, 1), strides=(1, 2, 1), warmup=1, warmup_rows=(1, 2, 1), steps=3)
    got = case.generate(wanted, guided=True)
    costs = case.placed.costs(torch.cat([case.noise] * 2), both(case.conditions))
    counts = {device: [each.rows for each in made] for device, made in got.evaluations.items()}
    assert counts == {"d0": [1, 2, 2], "d1": [2, 1], "d2": [1, 1, 1]}
    specs = {device.name: device for device in case.placed.fleet.spec.devices}
    for device, made in got.evaluations.items():
        for each in made:
            np.testing.assert_allclose(each.stage_s, costs.of(specs[device]).stage_seconds(each.rows), rtol=1e-9)
    assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)


@pytest.fixture
def sent(monkeypatch):
    """Bytes of tensors in all messages, by step, sender, receiver and kind of the place in the model."""
    found: collections.Counter = collections.Counter()
    send = Mailbox.send

    def count(mailbox, receivers, key, tensors):
        kind = next((name for name in ("key", "pixels", "mean", "values") if name in tensors), None)
        size = sum(tensor.nbytes for name, tensor in tensors.items() if name not in ("steps", "scale"))
        for receiver in receivers:
            found[key.step, key.sender, receiver, kind] += size
        send(mailbox, receivers, key, tensors)

    monkeypatch.setattr(Mailbox, "send", count)
    return found


def test_devices_send_borders_to_neighbours_and_the_rest_to_all(cases, sent):
    case = cases[2]
    case.generate(plan((2, 1, 2), steps=3))
    # Channels times columns of the inputs of the convolutions of stride 1, in their order.
    convolutions = [2 * 8, *[16 * 8] * 2, 16 * 4, *[32 * 4] * 5, 64 * 4, 32 * 4, 48 * 4, 32 * 4, 32 * 8]
    convolutions += [48 * 8, 16 * 8, 32 * 8, *[16 * 8] * 2]
    down, up = sum(convolutions) + 16 * 8, sum(convolutions)
    # Of 16, 32 and 16 channels, on 2 x 8, 4 and 2 x 8 tokens of a row.
    keys_values = 2 * (16 * 16 + 32 * 4 + 2 * 16 * 16)
    assert sum(isinstance(each, nn.GroupNorm) for each in case.model.modules()) == 21
    for step in (0, 1):
        for sender, receiver, border, rows in (
            ("d0", "d1", down, 2),
            ("d1", "d0", up, 1),
            ("d1", "d2", down, 1),
            ("d2", "d1", up, 2),
            ("d0", "d2", 0, 2),
            ("d2", "d0", 0, 2),
        ):
            assert sent[step, sender, receiver, "pixels"] == border
            assert sent[step, sender, receiver, "key"] == rows * keys_values
            assert sent[step, sender, receiver, "mean"] == (0 if step == 0 else 21 * 4 * 2 * 4)
    assert not any(step == 2 for step, *_ in sent), "the last evaluation is of no use to others"


@pytest.mark.parametrize("coding", [None, ExchangeCoding(3, 10)])
def test_sent_bytes_are_those_of_the_plan(cases, sent, coding):
    case = cases[3]
    got = case.generate(plan((1, 3), steps=3), guided=True, coding=coding)
    model = case.placed.costs(torch.cat([case.noise] * 2), both(case.conditions)).model
    sizes = MessageSizes(dataclasses.replace(model, coding=coding))
    assert got.coding == coding
    for sender, receiver, rows, distance in (("d0", "d1", 1, 1), ("d1", "d0", 3, -1)):
        for step, synchronous in ((0, True), (1, False)):
            total = sum(size for key, size in sent.items() if key[:3] == (step, sender, receiver))
            assert total == sizes.of(rows, distance, whole=synchronous or coding is None, synchronous=synchronous).sum()


def test_after_a_loss_the_rest_begins_with_a_synchronous_step(cases):
    case = cases[2]
    fleet = Fleet(devices(CONFIG, HALF, CONFIG), executor="inline", patience_s=60)
    wanted = plan((2, 1, 2), steps=4)
    with fleet.place(case.model, case.calibration) as placed:
        other = copy.copy(case)
        other.placed = placed
        stops = Failure("d1", 0.6 * case.generate(wanted).timeline.latency_s)
        got = other.generate(wanted, replan=True, failures=[stops])
    before, after = got.timeline.plans
    assert [share.device for share in after.shares] == ["d0", "d2"]
    assert after.first_step >= before.warmup
    assert after.warmup == 1
    assert got.latents.isfinite().all()
    assert got.timeline.latency_s == pytest.approx(got.predicted_s, rel=1e-9)


def exchange(me, wanted, step, *, synchronous):
    mailbox = Mailbox(me, lambda _receiver, _envelope: None, 1.0)
    mailbox.begin(0)
    made = Exchange(mailbox, wanted, 0, lambda: None)
    made.begin(step, synchronous=synchronous)
    return made


def test_rows_that_others_take_over_without_a_synchronous_step_are_refused(cases):
    held = GroupNorms()
    moments = Moments.of(3, (0, 2), torch.ones(1, 4, 2, 8), 2)
    held.restore({"norm": {"d0": moments, "d1": replace(moments, rows=(2, 5))}})
    held.redistribute({"d0": (0, 2), "d1": (2, 5)})
    message = (
        "means and variances of rows 0..3 in norm are not held; a plan that gives rows of a U-Net to other devices has "
        "to begin with a synchronous step"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        held.redistribute({"d0": (0, 3), "d1": (3, 5)})
    wanted = plan((2, 3), steps=3)
    halo = Halos(5).halo("conv", (1, 1), lambda: exchange("d0", wanted, 1, synchronous=False))
    message = (
        "row 4 of the input of conv is not held; a plan that gives rows of a U-Net to other devices has to begin with "
        "a synchronous step"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        halo(torch.zeros(1, 4, 8, 2, dtype=torch.int8), 0.5)


def test_old_borders_have_the_steps_of_the_present_timestep():
    """The last row above d1's is from warm-up, when a step was twice as large; there is none below."""
    held = Halos(5)
    held.restore({"conv": {3: PixelRow(0, torch.tensor([[[1, -2], [70, 0]]], dtype=torch.int8), 0.5)}})
    halo = held.halo("conv", (1, 1), lambda: exchange("d1", plan((2, 3), steps=3), 1, synchronous=False))
    above, below, _ = halo(torch.zeros(1, 6, 2, 2, dtype=torch.int8), 0.25)
    assert above.tolist() == [[[[2, -4], [127, 0]]]]
    assert below.tolist() == [[[[0, 0], [0, 0]]]]


def test_borders_of_others_bring_along_that_they_are_nan():
    """Of d0's rows 0 to 3 the last is above d1's."""
    posts = {}
    for name in ("d0", "d1"):
        posts[name] = Mailbox(name, lambda receiver, envelope: posts[receiver].deliver(envelope), 5)
        posts[name].begin(0)
    sides = {}
    for name, mailbox in posts.items():
        made = Exchange(mailbox, plan((2, 3), steps=3), 0, lambda: None)
        made.begin(0, synchronous=True)
        sides[name] = Halos(5).halo("conv", (1, 1), lambda made=made: made)
    image, none = torch.ones(1, 4, 2, 2, dtype=torch.int8), torch.zeros(6, dtype=torch.bool)
    bad = torch.tensor([True, False, False, True])

    def there():
        return sides["d1"](torch.ones(1, 6, 2, 2, dtype=torch.int8), 0.5, none)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(there)
        _, _, beyond = sides["d0"](image, 0.5, bad)
        assert beyond is None
        assert waiting.result()[2].tolist() == [True, False]


def test_moments_of_parts_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(6)
    # A mean that is large against the deviation: the mean of squares would lose it.
    values = 1e4 + torch.randn(2, 8, 5, 6, generator=generator)
    parts = [Moments.of(0, rows, values[:, :, slice(*rows)], 4) for rows in ((0, 1), (1, 3), (3, 5))]
    mean, variance = pooled(parts)
    whole = values.double().reshape(2, 4, -1)
    torch.testing.assert_close(mean, whole.mean(-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, whole.var(-1, correction=0), rtol=1e-2, atol=0)
    assert (variance > 0).all()


def test_the_module_is_as_before_between_evaluations(cases):
    model = copy.deepcopy(cases[2].model)
    with Accelerator(CONFIG, "twin") as accelerator, torch.no_grad():
        offload(model, accelerator, calibration=cases[2].calibration)
        arguments = torch.full((1,), 500), cases[2].conditions[0]
        expected = model(cases[2].noise, arguments[0], **arguments[1]).sample
        divided = patched(model, tuple(cases[2].noise.shape[-2:]))
        divided.prepare()
        alone = exchange("d0", plan((5,), steps=2), 0, synchronous=True)
        assert torch.equal(divided.evaluate(cases[2].noise, *arguments, alone), expected)
        assert torch.equal(model(cases[2].noise, arguments[0], **arguments[1]).sample, expected)
        assert all("forward" not in vars(each) for each in model.modules() if isinstance(each, nn.GroupNorm))
        with pytest.raises(PlanError, match=r"^attention_mask belongs to places of the image and cannot be divided; "):
            divided.evaluate(cases[2].noise, arguments[0], {"attention_mask": torch.ones(1)}, alone)


@pytest.mark.parametrize(
    ("options", "size", "message"),
    [
        (
            {},
            (10, 9),
            None,
        ),
        (
            {},
            (9, 8),
            "latents of 9 x 8 cannot be divided into rows of 2, as 2 levels need them; use a height that is a multiple "
            "of 2",
        ),
        (
            {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")},
            (8, 8),
            "a U-Net with down_block_types 'AttnDownBlock2D' cannot be divided into rows, but DownBlock2D, "
            "CrossAttnDownBlock2D",
        ),
        (
            {"mid_block_type": None},
            (8, 8),
            "a U-Net with mid_block_type None cannot be divided into rows, but UNetMidBlock2DCrossAttn",
        ),
    ],
)
def test_other_sizes_and_blocks_are_refused(options, size, message):
    if message is None:
        assert patched(unet(**options), size).rows == size[0] // 2
        return
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        patched(unet(**options), size)


@pytest.mark.parametrize(
    ("options", "left_out", "message"),
    [
        (
            {},
            "conv_out",
            "convolution 'conv_out' is not offloaded, but rows are exchanged in int8; let filter_fn select it",
        ),
        (
            {},
            "mid_block.attentions.0.transformer_blocks.0.attn1",
            "self-attention 'mid_block.attentions.0.transformer_blocks.0.attn1' is not offloaded, but keys and values "
            "are exchanged in int8; let filter_fn select it",
        ),
        (
            {"downsample_padding": 0},
            "",
            "convolution 'down_blocks.0.downsamplers.0.conv' with a kernel of 3 rows, stride 2 and 0 rows of "
            "padding above and 0 below gives other rows than its input has, and cannot be divided",
        ),
    ],
)
def test_what_cannot_exchange_is_refused(cases, options, left_out, message):
    model, case = unet(**options), cases[2]
    # Convolutions alone need no run of the model that shows what attention is called with.
    with Accelerator(CONFIG, "twin") as accelerator:
        offload(model, accelerator, calibration=case.calibration, filter_fn=lambda _layer, name: name != left_out)
        with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
            patched(model, (8, 8)).prepare()
