"""What do residuals of few bits do to images? ``python benchmarks/stadi_coding.py`` (two minutes).

Writes ``build/results/stadi_coding.json``. Two devices share an image (`Fleet`, in one process, on the twin), once both
at every step and once one of them at every second one; two synchronous steps, then keys and values are sent whole (8
bits) or as residuals in blocks of 32. ``digits`` is the shipped model (10 images, 10 and 30 steps), ``dit`` an
untrained one of 100 tokens (2 images, 30 steps).

- ``MODEL_STRIDE_BITS``: root mean square of the difference to the undivided image, over that of the image.
- ``..._displaced``: to the image with whole keys and values. ``..._open``: residuals without feedback, that is to the
  sender's own old values.
- ``..._bytes``: sent over those of whole keys and values, synchronous steps included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from tqdm import tqdm

from brownout.host import calibrate, write_results
from brownout.host.models.load import load_denoiser
from brownout.host.models.spec import build_scheduler
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.request import Sampling, Sharing
from brownout.host.stadi.execute.residuals import Residuals
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.hw.config import AcceleratorConfig, MemoryConfig

BITS, BLOCK, WARMUP = (6, 4, 3, 2, 1), 32, 2
CONFIG = AcceleratorConfig(rows=8, cols=8, memory=MemoryConfig(size_bytes=1 << 22))


@contextmanager
def without_feedback() -> Iterator[None]:
    """Let senders take residuals to their own old values, and not to what the receivers hold."""
    message = Residuals.message

    def to_own(own: Any, base: Any, coding: ExchangeCoding) -> Any:
        return message(own, base, coding)[0], own

    Residuals.message = staticmethod(to_own)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Residuals.message = staticmethod(message)  # type: ignore[method-assign]


def plan_of(rows: int, steps: int, stride: int) -> Plan:
    """Two halves."""
    half = rows // 2
    shares = tuple(
        Share(device=f"device{index}", stride=each, rows=part, warmup_rows=part)
        for index, (each, part) in enumerate(((1, (0, half)), (stride, (half, rows))))
    )
    return Plan(method="halves", shares=shares, rows=rows, steps=steps, warmup=WARMUP)


def untrained() -> diffusers.DiTTransformer2DModel:
    """10 rows of 10 tokens."""
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2,
        num_layers=2,
        sample_size=20,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()


class Study:
    """Images of a model, by bits."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def images(
        self, name: str, model: Any, rows: int, noise: torch.Tensor, conditions: Mapping[str, Any], steps: int
    ) -> None:
        """All numbers of bits, with and without feedback, at both strides."""

        def run(module: Any) -> None:
            for timestep in (999, 500, 1):
                module(noise, timestep=torch.full((len(noise),), timestep), **conditions)

        with torch.no_grad():
            calibration = calibrate(model, run)
        with Fleet([CONFIG, CONFIG], executor="inline").place(model, calibration) as placed:
            for stride in (1, 2):
                plan = plan_of(rows, steps, stride)

                def make(plan: Plan = plan, **options: Any) -> Any:
                    return placed.generate(
                        noise,
                        Sampling(scheduler=build_scheduler(), conditions=conditions, num_inference_steps=steps),
                        Sharing(plan=plan, replan=False, **options),
                    )

                undivided, whole = make(mode="full_sync").latents, make()
                scale = undivided.square().mean().sqrt()

                def error(image: torch.Tensor, other: torch.Tensor, scale: torch.Tensor = scale) -> float:
                    return float((image - other).square().mean().sqrt() / scale)

                self.metrics[f"{name}_{stride}_8"] = error(whole.latents, undivided)
                for bits in tqdm(BITS, desc=f"{name}, stride {stride}"):
                    key, coding = f"{name}_{stride}_{bits}", ExchangeCoding(bits, BLOCK)
                    closed = make(coding=coding)
                    with without_feedback():
                        opened = make(coding=coding)
                    self.metrics[key] = error(closed.latents, undivided)
                    self.metrics[f"{key}_displaced"] = error(closed.latents, whole.latents)
                    self.metrics[f"{key}_open"] = error(opened.latents, undivided)
                    self.metrics[f"{key}_open_displaced"] = error(opened.latents, whole.latents)
                    self.metrics[f"{key}_bytes"] = closed.sent_bytes / whole.sent_bytes


def main() -> None:
    study = Study()
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for steps in (10, 30):
        study.images(f"digits_{steps}", load_denoiser("digits"), 4, noise, {"class_labels": torch.arange(10)}, steps)
    noise = torch.randn(2, 2, 20, 20, generator=torch.Generator().manual_seed(1))
    study.images("dit_30", untrained(), 10, noise, {"class_labels": torch.arange(2)}, 30)
    path = write_results("stadi_coding", study.metrics, config=CONFIG)
    print(path)
    for name, value in study.metrics.items():
        print(f"{name:40} {value:.4f}")


if __name__ == "__main__":
    main()
