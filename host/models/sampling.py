"""Class-conditional DDIM sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from ..progress import progress_bar
from ..quality.images import to_unit_range
from .spec import ModelSpec, build_scheduler

StepCallback = Callable[[int, int, torch.Tensor], None]
"""Called after each step with its index, its timestep and the latents (N, C, H, W)."""


def initial_latents(spec: ModelSpec, count: int, seed: int) -> torch.Tensor:
    """Draw the noise that sampling starts from.

    Images are drawn one after the other, so the first ones do not depend on `count`.

    Returns
    -------
    torch.Tensor
        float32 (count, C, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.channels, spec.image_size, spec.image_size)
    return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])


@torch.no_grad()
def sample(
    model: nn.Module,
    spec: ModelSpec,
    labels: Sequence[int] | torch.Tensor,
    *,
    seed: int,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    callback: StepCallback | None = None,
    progress: bool = False,
) -> torch.Tensor:
    """Generate one image per label; the same arguments give the same image.

    Parameters
    ----------
    model : nn.Module
        The denoiser, offloaded or not.
    spec : ModelSpec
        What `model` was built from.
    labels : sequence of int, or torch.Tensor
        Class of each image.
    seed : int
        Seed of the initial noise.
    num_inference_steps : int, optional
        DDIM steps; by default what `spec` says.
    guidance_scale : float, optional
        Weight of classifier-free guidance; 1 switches it off, anything else doubles the batch. By default what
        `spec` says.
    callback : callable, optional
        ``callback(step, timestep, latents)`` after each step.
    progress : bool
        Show a progress bar.

    Returns
    -------
    torch.Tensor
        float32 (N, C, H, W) in [0, 1].

    Raises
    ------
    ValueError
        A label is out of range, there is none, or the number of steps is not positive.
    """
    classes = torch.as_tensor(labels, dtype=torch.int64)
    if classes.ndim != 1 or not len(classes):
        raise ValueError(f"labels must be a non-empty list of classes, not shape {tuple(classes.shape)}")
    wrong = classes[(classes < 0) | (classes >= spec.num_classes)]
    if len(wrong):
        raise ValueError(f"labels must be in 0..{spec.num_classes - 1}, not {int(wrong[0])}")
    steps = spec.num_inference_steps if num_inference_steps is None else num_inference_steps
    scale = spec.guidance_scale if guidance_scale is None else guidance_scale
    if steps < 1:
        raise ValueError(f"num_inference_steps must be positive, not {steps}")

    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    latents = initial_latents(spec, len(classes), seed)
    guided = scale != 1
    conditions = torch.cat([classes, torch.full_like(classes, spec.null_label)]) if guided else classes
    for step, timestep in enumerate(progress_bar(scheduler.timesteps, desc="sampling", unit="step", show=progress)):
        inputs = torch.cat([latents, latents]) if guided else latents
        predicted = model(inputs, timestep=timestep.expand(len(inputs)), class_labels=conditions).sample
        if guided:
            conditional, unconditional = predicted.chunk(2)
            predicted = unconditional + scale * (conditional - unconditional)
        # With the noise derived anew from the clipped image: otherwise the two disagree wherever guidance overshoots,
        # the error adds up over the steps, and guidance makes pictures worse.
        latents = scheduler.step(predicted, timestep, latents, use_clipped_model_output=True).prev_sample
        if callback is not None:
            callback(step, int(timestep), latents)
    return to_unit_range(latents)
