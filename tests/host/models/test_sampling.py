"""Sampling is deterministic and does what its arguments say."""

from __future__ import annotations

import re

import pytest
import torch

from brownout.host import sample
from brownout.host.models.sampling import initial_latents
from brownout.host.models.spec import DIGITS, build_denoiser


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return build_denoiser(DIGITS).requires_grad_(False)


def test_the_same_seed_gives_the_same_image_and_another_does_not(model):
    first = sample(model, DIGITS, [1, 2], seed=4, num_inference_steps=3)
    torch.rand(7)  # the global generator must not matter
    assert torch.equal(first, sample(model, DIGITS, torch.tensor([1, 2]), seed=4, num_inference_steps=3))
    assert not torch.equal(first, sample(model, DIGITS, [1, 2], seed=5, num_inference_steps=3))
    assert first.shape == (2, 1, 8, 8)
    assert first.min() >= 0
    assert first.max() <= 1


def test_noise_of_an_image_does_not_depend_on_how_many_follow():
    assert torch.equal(initial_latents(DIGITS, 2, seed=9), initial_latents(DIGITS, 5, seed=9)[:2])


def test_callback_sees_every_step(model):
    seen = []
    images = sample(
        model,
        DIGITS,
        [3],
        seed=0,
        num_inference_steps=4,
        callback=lambda step, timestep, latents: seen.append((step, timestep, latents)),
    )
    assert [(step, timestep) for step, timestep, _ in seen] == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert torch.equal((seen[-1][2] / 2 + 0.5).clamp(0, 1), images)


def test_guidance_extrapolates_from_the_null_label(model):
    """One step of guided sampling, written out with two separate evaluations."""
    seen = []
    sample(
        model,
        DIGITS,
        [3, 7],
        seed=0,
        num_inference_steps=1,
        guidance_scale=2.5,
        callback=lambda step, timestep, latents: seen.append(latents),
    )
    noise = initial_latents(DIGITS, 2, seed=0)
    timestep = torch.tensor([999, 999])
    with_class = model(noise, timestep=timestep, class_labels=torch.tensor([3, 7])).sample
    without = model(noise, timestep=timestep, class_labels=torch.tensor([10, 10])).sample
    velocity = without + 2.5 * (with_class - without)
    # At the last timestep the signal has all but gone, and a single step ends on the predicted image.
    expected = (-velocity).clamp(-1, 1)
    assert (seen[0] - expected).abs().max() < 0.01


@pytest.mark.parametrize(
    ("labels", "steps", "message"),
    [
        ([], None, "labels must be a non-empty list of classes, not shape (0,)"),
        ([[1]], None, "labels must be a non-empty list of classes, not shape (1, 1)"),
        ([1, 10], None, "labels must be in 0..9, not 10"),
        ([-1], None, "labels must be in 0..9, not -1"),
        ([1], 0, "num_inference_steps must be positive, not 0"),
    ],
)
def test_messages(model, labels, steps, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        sample(model, DIGITS, labels, seed=0, num_inference_steps=steps)
