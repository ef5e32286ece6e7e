"""One image over two unequal accelerators, on RTL and on the twin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from brownout.hw.config import AcceleratorConfig

from ..models.evaluate import calibration_run
from ..models.load import load_classifier, load_denoiser
from ..models.sampling import initial_latents
from ..models.spec import ModelSpec, build_scheduler, get_spec
from ..quality import psnr, recognised, to_unit_range
from ..stadi.execute.fleet import Fleet, Generated, PlacedDenoiser
from ..stadi.execute.request import Sampling, Sharing
from ..stadi.plan.device import DeviceSpec

MODEL, LABEL, STEPS, WARMUP_STEPS = "mnist", 3, 10, 2
METHODS = ("single", "uniform", "elastic", "stadi")
"""Plans that the page compares."""

ON_RTL = "stadi"
"""The one of them that is executed on RTL too."""

LARGEST_PSNR_DB = 120.0
"""What is reported where nothing differs: results are JSON, which has no infinity."""

PATIENCE_S = 600.0
"""Simulators are built at first use."""


@dataclass(frozen=True)
class SharedImage:
    """What the page shows.

    Attributes
    ----------
    spec : ModelSpec
        Description of the model.
    devices : tuple of DeviceSpec
        The accelerators.
    twin : dict of str to Generated
        Runs on the twin, by method.
    rtl : Generated
        `ON_RTL`, on two simulators.
    images : dict of str to torch.Tensor
        float32 (1, H, W) in [0, 1], by method; that of `ON_RTL` is the RTL's.
    recognised : dict of str to bool
        Classified as the label.
    psnr_db : dict of str to float
        Distance to the image of a single device.
    mismatch : str or None
        Where RTL and twin differ.
    """

    spec: ModelSpec
    devices: tuple[DeviceSpec, ...]
    twin: dict[str, Generated]
    rtl: Generated
    images: dict[str, torch.Tensor]
    recognised: dict[str, bool]
    psnr_db: dict[str, float]
    mismatch: str | None

    def metrics(self) -> dict[str, float]:
        """Flat figures for the result file."""
        single = self.twin["single"].timeline.latency_s
        found: dict[str, float] = {"fleet_bit_exact": self.mismatch is None}
        for name, made in self.twin.items():
            found[f"fleet_latency_{name}_s"] = made.timeline.latency_s
            found[f"fleet_energy_{name}_j"] = made.timeline.energy_j
        uniform, stadi = (self.twin[name].timeline.latency_s for name in ("uniform", "stadi"))
        return found | {
            "fleet_reduction_vs_single": 1 - stadi / single,
            "fleet_reduction_vs_patch": 1 - stadi / uniform,
            "fleet_psnr_stadi_db": min(self.psnr_db["stadi"], LARGEST_PSNR_DB),
            "fleet_predicted_stadi_s": self.rtl.predicted_s,
        }


def unequal(config: AcceleratorConfig) -> tuple[DeviceSpec, DeviceSpec]:
    """An accelerator, and one of half as many rows and columns."""
    half = AcceleratorConfig(rows=max(1, config.rows // 2), cols=max(1, config.cols // 2))
    return _named("large", config), _named("small", half)


def _named(size: str, config: AcceleratorConfig) -> DeviceSpec:
    return DeviceSpec(name=f"{size} {config.rows}x{config.cols}", config=config)


def _generate(placed: PlacedDenoiser, spec: ModelSpec, method: str, seed: int) -> Generated:
    label, guided = torch.tensor([LABEL]), spec.guidance_scale != 1
    return placed.generate(
        initial_latents(spec, 1, seed),
        Sampling(
            scheduler=build_scheduler(),
            conditions={"class_labels": label},
            unconditional={"class_labels": torch.full_like(label, spec.null_label)} if guided else None,
            guidance_scale=spec.guidance_scale,
            num_inference_steps=STEPS,
            use_clipped_model_output=True,
        ),
        Sharing(plan=method, warmup_steps=WARMUP_STEPS),
    )


def describe_mismatch(twin: Generated, rtl: Generated) -> str | None:
    """Where the same image differs on two backends: pixels, simulated time, energy; None if nowhere."""
    if not torch.equal(twin.latents, rtl.latents):
        wrong = int((twin.latents != rtl.latents).sum())
        return f"{wrong} of {twin.latents.numel()} pixels of the image of two devices differ"
    for device, made in twin.evaluations.items():
        for expected, got in zip(made, rtl.evaluations[device], strict=True):
            # Counters are equal; times and energies are sums of floats in another order.
            pairs = [*zip(expected.stage_s, got.stage_s, strict=True), (expected.energy_j, got.energy_j)]
            if not all(math.isclose(*pair, rel_tol=1e-9) for pair in pairs):
                return (
                    f"device {device} took {sum(got.stage_s)} s and {got.energy_j} J for step {got.step}, "
                    f"not {sum(expected.stage_s)} s and {expected.energy_j} J"
                )
    return None


def share_image(config: AcceleratorConfig, *, seed: int) -> SharedImage:
    """Draw one digit over two accelerators by several plans, one of them on RTL too.

    Parameters
    ----------
    config : AcceleratorConfig
        The larger accelerator.
    seed : int
        Seed of the noise.

    Raises
    ------
    brownout.host.errors.FleetError
        A simulator could not be built or was lost.
    """
    spec, devices = get_spec(MODEL), unequal(config)
    calibration = calibration_run(spec)
    with Fleet(devices, executor="inline").place(load_denoiser(MODEL), calibration) as placed:
        # The one to compare with is the first on both: how many DRAM rows are activated depends on those left open.
        twin = {
            method: _generate(placed, spec, method, seed) for method in sorted(METHODS, key=lambda each: each != ON_RTL)
        }
        twin = {method: twin[method] for method in METHODS}
    fleet = Fleet(devices, backend="rtl", patience_s=PATIENCE_S)
    with fleet.place(load_denoiser(MODEL), calibration) as placed:
        rtl = _generate(placed, spec, ON_RTL, seed)
    images = {name: to_unit_range((rtl if name == ON_RTL else made).latents)[0] for name, made in twin.items()}
    classifier, label = load_classifier(MODEL), torch.tensor([LABEL])
    return SharedImage(
        spec,
        devices,
        twin,
        rtl,
        images,
        {name: bool(recognised(image[None], label, classifier)) for name, image in images.items()},
        {name: psnr(image[None], images["single"][None]) for name, image in images.items()},
        describe_mismatch(twin[ON_RTL], rtl),
    )
