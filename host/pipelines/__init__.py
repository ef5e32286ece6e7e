"""Whole text-to-image and class-to-image pipelines whose denoiser runs on an accelerator: see ``docs/host.md``."""

from __future__ import annotations

from .calibrate import calibrate_pipeline
from .pipeline import OffloadedPipeline, StepHook
from .shipped import ShippedPipeline

__all__ = ["OffloadedPipeline", "ShippedPipeline", "StepHook", "calibrate_pipeline"]
