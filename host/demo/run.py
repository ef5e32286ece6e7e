"""Draw the same pictures in float32, on the twin and on RTL, and compare."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from brownout.hw.config import AcceleratorConfig

from ..accelerator import Accelerator
from ..compare import first_difference
from ..models.evaluate import calibration_run
from ..models.load import load_classifier, load_denoiser
from ..models.spec import ModelSpec, get_spec
from ..offloading import Calibration, LayerReport, offload, report, restore
from ..quality import class_agreement, psnr
from ..sampling import sample
from .trace import Trace

LARGEST_PSNR_DB = 120.0
"""What is reported where nothing differs: results are JSON, which has no infinity."""


@dataclass(frozen=True)
class Run:
    """One pass over all pictures on one backend.

    Attributes
    ----------
    images : torch.Tensor
        float32 (N, C, H, W) in [0, 1].
    trace : Trace
        What was computed on the way.
    layers : list of LayerReport
        Per layer.
    stats : dict
        Counters of the accelerator.
    start_s, wall_s : float
        Wall-clock seconds to start the device and load the weights, and to draw.
    """

    images: torch.Tensor
    trace: Trace
    layers: list[LayerReport]
    stats: dict[str, float]
    start_s: float
    wall_s: float


@dataclass(frozen=True)
class Demo:
    """Everything that the page shows.

    Attributes
    ----------
    float32 : torch.Tensor
        Pictures of the unquantised model, (N, C, H, W) in [0, 1].
    mismatch : str or None
        Where RTL and twin first differ; None if they are bit-identical.
    metrics : dict
        Flat figures for the result file.
    """

    spec: ModelSpec
    config: AcceleratorConfig
    labels: list[int]
    seed: int
    float32: torch.Tensor
    twin: Run
    rtl: Run
    mismatch: str | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Job:
    model: nn.Module
    spec: ModelSpec
    config: AcceleratorConfig
    labels: list[int]
    seed: int
    calibration: Calibration

    def run(self, backend: str, trace: Trace) -> Run:
        began = time.monotonic()
        with Accelerator(self.config, backend=backend) as accelerator:
            offload(self.model, accelerator, calibration=self.calibration, observer=trace.see_layer)
            try:
                started = time.monotonic()
                images = sample(
                    self.model,
                    self.spec,
                    self.labels,
                    seed=self.seed,
                    callback=trace.see_step,
                    progress=backend == "rtl",
                )
                wall = time.monotonic() - started
                return Run(images, trace, report(self.model), dict(accelerator.stats), started - began, wall)
            finally:
                restore(self.model)

    def describe_mismatch(self, rtl: Trace, twin: Trace) -> str | None:
        """Where the runs first differ, down to the element; None if they are bit-identical."""
        index = rtl.first_departing_layer()
        if index is not None and index < len(twin.layers) and rtl.layers[index][0] == twin.layers[index][0]:
            name = rtl.layers[index][0]
            again = Trace(keep_index=index)
            self.run("twin", again)
            assert again.kept is not None
            assert rtl.kept is not None
            difference = first_difference(again.kept, rtl.kept, self.config)
            return f"layer call {index} ({name}), expected from the twin, got from RTL: {difference}"
        if index is not None or len(rtl.layers) != len(twin.layers):
            return f"the runs called different layers: {len(twin.layers)} calls on the twin, {len(rtl.layers)} on RTL"
        step = rtl.first_departing_step()
        return None if step is None else f"latents differ after step {step} although all layers agree"


def run_demo(name: str, *, seed: int, config: AcceleratorConfig) -> Demo:
    """Draw one picture per class.

    Parameters
    ----------
    name : str
        ``digits`` or ``mnist``.
    seed : int
        Of the initial noise.
    config : AcceleratorConfig
        The accelerator.

    Raises
    ------
    ValueError
        No model has that name.
    WeightsNotFoundError
        The model is not trained.
    brownout.cosim.errors.SimulatorError
        The simulator could not be built, died or hung.
    """
    began = time.monotonic()
    spec = get_spec(name)
    labels = list(range(spec.num_classes))
    model, classifier = load_denoiser(name), load_classifier(name)
    float32 = sample(model, spec, labels, seed=seed)
    job = _Job(model, spec, config, labels, seed, calibration_run(spec))
    twin = job.run("twin", Trace())
    rtl = job.run("rtl", Trace(reference=twin.trace))
    mismatch = job.describe_mismatch(rtl.trace, twin.trace)
    target = torch.tensor(labels)
    metrics = {
        "bit_exact": mismatch is None,
        "class_agreement": class_agreement(rtl.images, target, classifier),
        "class_agreement_float32": class_agreement(float32, target, classifier),
        "psnr_to_float32_db": min(psnr(rtl.images, float32), LARGEST_PSNR_DB),
        "sim_cycles": rtl.stats["cycles"],
        "sim_cycles_per_s": rtl.stats["cycles"] / rtl.wall_s,
        "utilisation": rtl.stats["ideal_cycles"] / rtl.stats["cycles"],
        "macs": rtl.stats["macs"],
        "dram_bytes": rtl.stats["dram_bytes"],
        "layer_calls": len(rtl.trace.layers),
        "num_inference_steps": len(rtl.trace.latents),
        "guidance_scale": spec.guidance_scale,
        "images": len(labels),
        "start_s": rtl.start_s,
        "rtl_wall_s": rtl.wall_s,
        "twin_wall_s": twin.wall_s,
        "wall_s": time.monotonic() - began,
    }
    return Demo(spec, config, labels, seed, float32, twin, rtl, mismatch, metrics)
