"""A short profile of the devices: what an evaluation of some rows takes, as their accelerators count it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...errors import PlanError
from ..plan.allocation import proportional_rows
from ..plan.costs import LinearCost
from ..plan.plan import Plan, Share
from .request import Sampling, Sharing

if TYPE_CHECKING:
    from .fleet import PlacedDenoiser


@dataclass(frozen=True)
class DeviceProfile:
    """Times of a device, free of background load.

    Attributes
    ----------
    seconds : dict of int to float
        Simulated time of an evaluation, by its rows.
    line : LinearCost
        Fixed and per-row time that fit these best.
    planned_error : float
        Largest relative distance to the times that plans are made with.
    """

    seconds: Mapping[int, float]
    line: LinearCost
    planned_error: float


def profile(placed: PlacedDenoiser, latents: torch.Tensor, conditions: Mapping[str, Any]) -> dict[str, DeviceProfile]:
    """Let all devices evaluate different numbers of rows in a few synchronous steps.

    Parameters
    ----------
    placed : PlacedDenoiser
        On the devices.
    latents : torch.Tensor
        float32 (B, C, H, W), as an image will have; with guidance twice the batch.
    conditions : mapping
        Argument of `PlacedDenoiser.generate`, for this batch.

    Returns
    -------
    dict of str to DeviceProfile
        By device.

    Raises
    ------
    PlanError
        There are more devices than rows.
    FleetError
        A device was lost.
    """
    from diffusers import DDIMScheduler  # takes a while to import

    costs = placed.costs(latents, conditions)
    names, rows = placed.alive, costs.model.rows
    if len(names) > rows:
        raise PlanError(f"{len(names)} devices cannot share {rows} token rows; use at most {rows} devices")
    seen: dict[str, dict[int, float]] = {name: {} for name in names}
    # Each device in turn has little, and much.
    weights = np.linspace(1.0, 4.0, len(names)) if len(names) > 1 else np.ones(1)
    for turn in range(len(names)):
        counts = proportional_rows(list(np.roll(weights, turn)), rows)
        bounds = np.concatenate([[0], np.cumsum(counts)]).tolist()
        spans = list(pairwise(bounds))
        shares = tuple(
            Share(device=name, stride=1, rows=span, warmup_rows=span) for name, span in zip(names, spans, strict=True)
        )
        plan = Plan(method="profile", shares=shares, rows=rows, steps=1, warmup=1)
        made = placed.generate(
            latents,
            Sampling(scheduler=DDIMScheduler(), conditions=conditions, num_inference_steps=1),
            Sharing(plan=plan, replan=False),
        )
        for name, evaluations in made.evaluations.items():
            seen[name] |= {each.rows: sum(each.stage_s) for each in evaluations}
    devices = {device.name: device for device in placed.fleet.spec.devices}
    return {name: _device(seconds, costs.of(devices[name]).table) for name, seconds in seen.items()}


def _device(seconds: Mapping[int, float], planned: np.ndarray[Any, np.dtype[np.float64]]) -> DeviceProfile:
    rows, times = np.array(list(seconds)), np.array(list(seconds.values()))
    per_row, fixed = np.polyfit(rows, times, 1) if len(rows) > 1 else (times[0] / rows[0], 0.0)
    worst = np.abs(fixed + per_row * rows - times) / times
    error = np.abs(planned[rows] - times) / times
    return DeviceProfile(seconds, LinearCost(float(fixed), float(per_row), float(worst.max())), float(error.max()))
