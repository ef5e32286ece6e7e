"""Draw the same pictures at three operating points, each on the twin and on RTL, compare, and share an image."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import nn

from brownout.hw.config import AcceleratorConfig

from ..device.accelerator import Accelerator
from ..device.product.compare import first_difference
from ..drift.runtime import protect
from ..models.evaluate import calibration_run
from ..models.load import load_classifier, load_denoiser
from ..models.sampling import sample
from ..models.spec import ModelSpec, get_spec
from ..offloading import Calibration, LayerReport, offload, report, restore
from ..progress import progress_bar
from ..quality import class_agreement, perceptual_distance, psnr, psnr_per_image, recognised
from . import DEFAULT_VOLTAGE_V
from .fleet import LARGEST_PSNR_DB, SharedImage, share_image
from .scenario import Scenario, hardware, scenarios
from .trace import Trace

SIMULATORS = 2
"""RTL runs at a time: each keeps a core busy."""

ERROR_COUNTERS = ("checks", "detected", "corrected", "suppressed", "injected", "missed", "wrong")
"""Counters of errors, which RTL and twin must agree on too."""

MEMORY_PARTS = ("sram", "dram", "activation", "background", "host", "interface")
"""Parts of the energy that are the memory's."""

Progress = Callable[[], object]
"""Called after each step on RTL."""


@dataclass(frozen=True)
class DemoRun:
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
        Counters of the accelerator, and ``rolled_back``: elements of layers that kept their last value.
    start_s, wall_s : float
        Wall-clock seconds to start the device and load the weights, and to draw.
    """

    images: torch.Tensor
    trace: Trace
    layers: list[LayerReport]
    stats: dict[str, float]
    start_s: float
    wall_s: float

    def energy_j(self) -> dict[str, float]:
        """Energy of all images by ``mac`` (idle elements in it), ``check``, ``memory`` and ``leakage``."""
        parts = {name: self.stats[f"energy_{name}_j"] for name in ("mac", "check")}
        parts["mac"] += self.stats["energy_idle_j"]
        parts["memory"] = sum(self.stats[f"energy_{name}_j"] for name in MEMORY_PARTS)
        return {**parts, "leakage": self.stats["energy_leakage_j"]}


@dataclass(frozen=True)
class DemoOutcome:
    """What became of a scenario.

    Attributes
    ----------
    twin, rtl : DemoRun
        The same run on both.
    mismatch : str or None
        Where RTL and twin first differ; None if they are bit-identical.
    recognised : torch.Tensor
        bool (N,): classified as their label.
    psnr_db : torch.Tensor
        (N,): of each image to that of the nominal run; infinite where it is the same.
    """

    scenario: Scenario
    twin: DemoRun
    rtl: DemoRun
    mismatch: str | None
    recognised: torch.Tensor
    psnr_db: torch.Tensor


@dataclass(frozen=True)
class Demo:
    """Everything that the page shows.

    Attributes
    ----------
    float32 : torch.Tensor
        Pictures of the unquantised model, (N, C, H, W) in [0, 1].
    outcomes : tuple of DemoOutcome
        Nominal, unprotected, with rollback.
    shared : SharedImage
        One image over two accelerators.
    metrics : dict
        Flat figures for the result file: of all images; without a scenario's name in theirs, of the nominal run.
    """

    spec: ModelSpec
    config: AcceleratorConfig
    labels: list[int]
    seed: int
    float32: torch.Tensor
    outcomes: tuple[DemoOutcome, ...]
    shared: SharedImage
    metrics: dict[str, float]

    @property
    def class_names(self) -> list[str]:
        """What each picture was asked to show."""
        return [self.spec.class_names[label] for label in self.labels]

    @property
    def nominal(self) -> DemoOutcome:
        """The run without errors."""
        return self.outcomes[0]

    @property
    def mismatch(self) -> str | None:
        """Where RTL and twin first differ in any run; None if they are bit-identical."""
        found = (f"{each.scenario.title}: {each.mismatch}" for each in self.outcomes if each.mismatch is not None)
        return next(found, self.shared.mismatch)


@dataclass(frozen=True)
class DemoJob:
    """What all runs have in common.

    Attributes
    ----------
    seed : int
        Seed of the initial noise and of the draws of timing errors.
    """

    spec: ModelSpec
    config: AcceleratorConfig
    labels: list[int]
    seed: int
    calibration: Calibration = field(repr=False)

    @classmethod
    def of(cls, name: str, *, seed: int, config: AcceleratorConfig) -> DemoJob:
        """Ten pictures of a model, one per class; raises as `run_demo`."""
        spec = get_spec(name)
        return cls(spec, hardware(config), list(range(spec.num_classes)), seed, calibration_run(spec))

    def run(self, scenario: Scenario, backend: str, trace: Trace, progress: Progress | None = None) -> DemoRun:
        """Draw the pictures; threads may do that at the same time."""
        began = time.monotonic()
        model: nn.Module = load_denoiser(self.spec.name)
        rolled_back = suppressed = 0

        def see_layer(name: str, sums: torch.Tensor) -> None:
            nonlocal rolled_back, suppressed
            trace.see_layer(name, sums)
            before, suppressed = suppressed, accelerator.check_counts["suppressed"]
            # Attention has no values to go back to: what is uncorrectable there stays as it is.
            if not name.endswith((".qk", ".pv")):
                rolled_back += suppressed - before

        def see_step(step: int, timestep: int, latents: torch.Tensor) -> None:
            trace.see_step(step, timestep, latents)
            if progress is not None:
                progress()

        with Accelerator(self.config, backend=backend) as accelerator:
            offload(model, accelerator, calibration=self.calibration, observer=see_layer)
            try:
                started = time.monotonic()
                with protect(model, scenario.strategy, scenario.policy, seed=self.seed):
                    images = sample(model, self.spec, self.labels, seed=self.seed, callback=see_step)
                    stats = {**accelerator.stats, "rolled_back": rolled_back}
                wall = time.monotonic() - started
                return DemoRun(images, trace, report(model), stats, started - began, wall)
            finally:
                restore(model)

    def describe_mismatch(self, scenario: Scenario, rtl: DemoRun, twin: DemoRun) -> str | None:
        """Where two runs first differ, down to the element; None if they are bit-identical."""
        index, other = rtl.trace.first_departing_layer(), twin.trace
        if index is not None and index < len(other.layers) and rtl.trace.layers[index][0] == other.layers[index][0]:
            name = rtl.trace.layers[index][0]
            again = Trace(keep_index=index)
            self.run(scenario, "twin", again)
            assert again.kept is not None
            assert rtl.trace.kept is not None
            difference = first_difference(again.kept, rtl.trace.kept, self.config)
            return f"layer call {index} ({name}), expected from the twin, got from RTL: {difference}"
        if index is not None or len(rtl.trace.layers) != len(other.layers):
            calls = f"{len(other.layers)} calls on the twin, {len(rtl.trace.layers)} on RTL"
            return f"the runs called different layers: {calls}"
        step = rtl.trace.first_departing_step()
        if step is not None:
            return f"latents differ after step {step} although all layers agree"
        for name in ERROR_COUNTERS:
            if rtl.stats[name] != twin.stats[name]:
                return f"{name} is {twin.stats[name]} on the twin but {rtl.stats[name]} on RTL although all bits agree"
        return None


def _run_on_rtl(
    job: DemoJob, wanted: tuple[Scenario, ...], twins: list[DemoRun], *, show_progress: bool
) -> list[DemoRun]:
    """All scenarios on RTL, `SIMULATORS` at a time, in their order."""
    steps = len(wanted) * job.spec.num_inference_steps
    with (
        progress_bar(total=steps, desc="RTL", unit="step", show=show_progress) as bar,
        ThreadPoolExecutor(SIMULATORS) as pool,
    ):
        runs = [
            pool.submit(job.run, scenario, "rtl", Trace(reference=twin.trace), bar.update)
            for scenario, twin in zip(wanted, twins, strict=True)
        ]
        try:
            return [run.result() for run in runs]
        finally:
            # After a failure, what has not begun is not worth waiting for.
            pool.shutdown(cancel_futures=True)


def _scenario_metrics(outcome: DemoOutcome) -> dict[str, float]:
    name, stats = outcome.scenario.name, outcome.rtl.stats
    counts = ("injected", "corrected", "rolled_back", "missed", "wrong")
    energy = {f"energy_{part}_{name}_j": value for part, value in outcome.rtl.energy_j().items()}
    return {
        f"energy_{name}_j": stats["energy_j"],
        **energy,
        f"time_{name}_s": stats["time_s"],
        f"sim_cycles_{name}": stats["cycles"],
        **{f"{count}_{name}": stats[count] for count in counts},
    }


def run_demo(
    name: str,
    *,
    seed: int,
    config: AcceleratorConfig,
    voltage_v: float = DEFAULT_VOLTAGE_V,
    show_progress: bool = False,
) -> Demo:
    """Draw one picture per class in every scenario, and one image over two accelerators.

    Parameters
    ----------
    name : str
        ``digits``, ``mnist`` or ``emoji``.
    seed : int
        Seed of the initial noise and of the draws of timing errors.
    config : AcceleratorConfig
        The accelerator; its timing model and checksum units are those that the scenarios need.
    voltage_v : float
        The low voltage.
    show_progress : bool
        Show a progress bar of the RTL's runs.

    Raises
    ------
    ValueError
        No model has that name, or the voltage is beyond what the delay model covers.
    WeightsNotFoundError
        The model is not trained.
    brownout.cosim.errors.SimulatorError
        The simulator could not be built, died or hung.
    """
    began = time.monotonic()
    wanted = scenarios(voltage_v)
    job = DemoJob.of(name, seed=seed, config=config)
    classifier, target = load_classifier(name), torch.tensor(job.labels)
    float32 = sample(load_denoiser(name), job.spec, job.labels, seed=seed)
    twins = [job.run(scenario, "twin", Trace()) for scenario in wanted]
    rtl_began = time.monotonic()
    rtls = _run_on_rtl(job, wanted, twins, show_progress=show_progress)
    rtl_wall_s = time.monotonic() - rtl_began
    shared = share_image(job.config, seed=seed)
    clean = rtls[0].images
    outcomes = tuple(
        DemoOutcome(
            scenario,
            twin,
            rtl,
            job.describe_mismatch(scenario, rtl, twin),
            recognised(rtl.images, target, classifier),
            psnr_per_image(rtl.images, clean),
        )
        for scenario, twin, rtl in zip(wanted, twins, rtls, strict=True)
    )
    nominal = rtls[0]
    metrics = {
        "bit_exact": all(outcome.mismatch is None for outcome in outcomes) and shared.mismatch is None,
        "class_agreement": outcomes[0].recognised.double().mean().item(),
        "class_agreement_float32": class_agreement(float32, target, classifier),
        "psnr_to_float32_db": min(psnr(clean, float32), LARGEST_PSNR_DB),
        "voltage_v": voltage_v,
    }
    for outcome in outcomes:
        metrics |= _scenario_metrics(outcome)
    for outcome in outcomes[1:]:
        key, images = outcome.scenario.name, outcome.rtl.images
        metrics |= {
            f"class_agreement_{key}": outcome.recognised.double().mean().item(),
            f"psnr_{key}_db": min(psnr(images, clean), LARGEST_PSNR_DB),
            f"perceptual_{key}": perceptual_distance(images, clean, classifier),
        }
    metrics |= {
        "sim_cycles": nominal.stats["cycles"],
        "sim_cycles_per_s": sum(run.stats["cycles"] for run in rtls) / sum(run.wall_s for run in rtls),
        "utilisation": nominal.stats["ideal_cycles"] / nominal.stats["cycles"],
        "macs": nominal.stats["macs"],
        "dram_bytes": nominal.stats["dram_bytes"],
        "layer_calls": len(nominal.trace.layers),
        "num_inference_steps": len(nominal.trace.latents),
        "guidance_scale": job.spec.guidance_scale,
        "images": len(job.labels),
        "start_s": nominal.start_s,
        "rtl_wall_s": rtl_wall_s,
        "twin_wall_s": sum(run.wall_s for run in twins),
        **shared.metrics(),
        "wall_s": time.monotonic() - began,
    }
    return Demo(job.spec, job.config, job.labels, seed, float32, outcomes, shared, metrics)
