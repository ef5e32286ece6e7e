"""What a caller asks of a fleet: an image, and how devices are to share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..plan.coding import ExchangeCoding
from ..plan.plan import Plan

MODES = ("displaced", "full_sync")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampling:
    """How noise becomes an image, whoever makes it.

    Attributes
    ----------
    scheduler : DDIMScheduler or DPMSolverMultistepScheduler
        Scheduler of diffusers: its configuration counts, it is not changed.
    conditions : mapping
        Arguments of the denoiser beside latents and timestep; nested mappings of tensors (B, ...).
    unconditional : mapping, optional
        The same for the unconditional half of classifier-free guidance.
    guidance_scale : float
        Weight of guidance; 1: none.
    num_inference_steps : int
        Evaluations of a device with stride 1.
    use_clipped_model_output : bool
        Argument of ``DDIMScheduler.step``.

    Raises
    ------
    ValueError
        There is guidance without `unconditional`, or the other way round.
    """

    scheduler: Any
    conditions: Mapping[str, Any]
    unconditional: Mapping[str, Any] | None = None
    guidance_scale: float = 1.0
    num_inference_steps: int = 50
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        if (self.unconditional is None) != (self.guidance_scale == 1):
            without = self.unconditional is None
            remedy = "needs unconditional=" if without else "makes no use of unconditional=; leave it out"
            raise ValueError(f"guidance_scale={self.guidance_scale:g} {remedy}")

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a run to be taken up, beside the conditions."""
        # diffusers notes for itself lists made of sets, in another order in each process.
        noted = {name: value for name, value in self.scheduler.config.items() if not name.startswith("_")}
        return {
            "scheduler": [type(self.scheduler).__name__, noted],
            "use_clipped_model_output": self.use_clipped_model_output,
            "guidance_scale": self.guidance_scale,
        }

    @property
    def all_conditions(self) -> dict[str, Any]:
        """Those of both halves of guidance, the conditional one first; without guidance `conditions`."""
        return dict(self.conditions) if self.unconditional is None else _both(self.conditions, self.unconditional)

    def inputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, H, W) as the denoiser gets them: twice with guidance."""
        return latents if self.unconditional is None else torch.cat([latents, latents])


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """How devices share an image.

    Attributes
    ----------
    plan : str or Plan
        One of `brownout.host.stadi.plan.planner.METHODS`, or a plan of one's own for this fleet.
    mode : {"displaced", "full_sync"}
        ``"full_sync"`` makes all steps synchronous: the image is that of a single device, bit for bit.
    warmup_steps : int, optional
        Synchronous steps of plans that are made here; by default as in `Planner`: 4, or all of fewer.
    max_stride : int
        Largest stride of them.
    coding : ExchangeCoding or "auto", optional
        Coding of keys and values after synchronous steps; by default they are sent whole. ``"auto"`` takes
        `brownout.host.stadi.plan.coding.AUTO` if it is predicted to save at least `AUTO_GAIN` of the latency.
    replan : bool
        Whether plans are changed when devices slow down, and when they are lost.

    Raises
    ------
    ValueError
        `mode` or `coding` is unknown.
    """

    plan: str | Plan = "stadi"
    mode: str = "displaced"
    warmup_steps: int | None = None
    max_stride: int = 4
    coding: ExchangeCoding | str | None = None
    replan: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {self.mode!r}")
        if isinstance(self.coding, str) and self.coding != "auto":
            raise ValueError(f"coding must be an ExchangeCoding, 'auto' or None, not {self.coding!r}")

    @property
    def synchronous(self) -> bool:
        """Whether all steps are."""
        return self.mode == "full_sync"

    @property
    def next_method(self) -> str:
        """Of plans after the first."""
        # Halves of guidance are for exactly two devices.
        return self.plan if isinstance(self.plan, str) and self.plan != "guidance" else "stadi"

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a run to be taken up, beside the first plan and what it sends."""
        return {"method": self.next_method, "mode": self.mode, "replan": self.replan, "max_stride": self.max_stride}


def _both(conditional: Mapping[str, Any], unconditional: Mapping[str, Any]) -> dict[str, Any]:
    if conditional.keys() != unconditional.keys():
        odd = sorted(conditional.keys() ^ unconditional.keys())
        raise ValueError(f"conditions and unconditional must name the same arguments, but {odd[0]!r} is in one of them")
    found: dict[str, Any] = {}
    for name, value in conditional.items():
        other = unconditional[name]
        if isinstance(value, torch.Tensor):
            found[name] = torch.cat([value, other])
        else:
            found[name] = _both(value, other) if isinstance(value, Mapping) else value
    return found
