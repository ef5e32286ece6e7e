"""Denoisers to characterise: the shipped models, and pipelines of diffusers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brownout.hw.config import AcceleratorConfig, MemoryConfig
from brownout.hw.errors.model import BY_RATE

from ...device.accelerator import Accelerator
from ...models.evaluate import draw
from ...models.load import load_classifier
from ...models.spec import SPECS
from ...pipelines import OffloadedPipeline
from ..strategies import Strategy
from .characterise import Metric, image_metrics
from .slices import Run

CONFIG = AcceleratorConfig(rows=32, cols=32, timing_model=BY_RATE, memory=MemoryConfig(bytes_per_cycle=32))
"""Of the published size, with the published model of errors."""


@dataclass(frozen=True)
class Subject:
    """An offloaded denoiser, how to draw with it, and how to judge it.

    Attributes
    ----------
    name : str
    module : nn.Module
    run : callable
        Function that draws images (`Run`).
    metrics : mapping
        Measures of damage (`Metric`) by name.
    """

    name: str
    module: nn.Module
    run: Run
    metrics: Mapping[str, Metric]


@contextlib.contextmanager
def shipped(
    name: str, strategy: Strategy, *, config: AcceleratorConfig = CONFIG, steps: int | None = None
) -> Iterator[Subject]:
    """A shipped model on the twin of an accelerator that has what a strategy needs.

    Parameters
    ----------
    name : str
        Name of the model, ``digits`` or ``mnist``.
    strategy : Strategy
    config : AcceleratorConfig
        Configuration to which `Strategy.hardware` is applied.
    steps : int, optional
        Steps of the sampler; by default the model's.
    """
    with (
        Accelerator(strategy.hardware(config), backend="twin") as accelerator,
        OffloadedPipeline.shipped(name, accelerator) as pipe,
    ):
        spec = SPECS[name]

        def run(seed: int, count: int) -> torch.Tensor:
            return draw(pipe.denoiser, spec, count, seed=seed, num_inference_steps=steps)[0]

        yield Subject(name, pipe.denoiser, run, image_metrics(load_classifier(name)))


@contextlib.contextmanager
def pipeline(
    folder: Path | str,
    strategy: Strategy,
    call: Mapping[str, Any],
    *,
    config: AcceleratorConfig = CONFIG,
    **options: Any,
) -> Iterator[Subject]:
    """A pipeline of diffusers on the twin of an accelerator that has what a strategy needs.

    Parameters
    ----------
    folder : Path or str
        Folder or hub id.
    strategy : Strategy
    call : mapping
        Keyword arguments of the pipeline's calls. Values that are lists are taken in turn, one for each image:
        ``{"class_labels": [207, 360], "num_inference_steps": 20}``.
    config : AcceleratorConfig
        Configuration to which `Strategy.hardware` is applied.
    **options
        Options of ``DiffusionPipeline.from_pretrained``.
    """

    def arguments(seed: int, count: int) -> dict[str, Any]:
        given = {
            key: [value[index % len(value)] for index in range(count)] if isinstance(value, list) else value
            for key, value in call.items()
        }
        return {**given, "generator": torch.Generator().manual_seed(seed), "output_type": "np"}

    calibration_seed = (1 << 31) - 1
    with (
        Accelerator(strategy.hardware(config), backend="twin") as accelerator,
        OffloadedPipeline.from_pretrained(
            folder, accelerator, calibration=[arguments(calibration_seed, 2)], **options
        ) as pipe,
    ):
        pipe.pipeline.set_progress_bar_config(disable=True)

        def run(seed: int, count: int) -> torch.Tensor:
            images = pipe(**arguments(seed, count)).images
            return torch.as_tensor(images).movedim(-1, 1).clamp(0, 1)

        yield Subject(str(folder), pipe.denoiser, run, image_metrics())
