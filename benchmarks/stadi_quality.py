"""How good are images that several devices make with displaced patches and strides?

Run ``python benchmarks/stadi_quality.py --images 100``; writes ``build/results/stadi_quality.json`` and, beside it,
a folder with what has been drawn, which is not drawn again.
The model is ``mnist-patch2`` (14 rows of 14 tokens), guidance 2, 50 steps of which 4 are synchronous, int8 on the twin.
Every setting makes the same images, from the same noise:

- ``single``: the undivided model, to which all others are compared; ``single_half``: it in half as many steps.
- ``uniform_N``, ``elastic_1to2``: every device in every step.
- ``stride2_1to2``: STADI's plan for 1:2, a fast device with 7 rows and one of stride 2 with 7; ``stride4_1to4``: the
  same with stride 4; ``mixed_N``: plans with strides for N devices.
- ``full_sync``: all steps synchronous, which must change nothing.

``psnr_SETTING_db`` is that of all images together, ``psnr_worst_SETTING_db`` of the worst one;
``perceptual_SETTING``: mean distance by the classifier's features; ``agreement_SETTING``: share of images that are
classified as what they were asked for; ``_drop``: less than the single device's. ``psnr_headroom_db`` is by how much
``stride2_1to2`` is better than ``single_half``.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from brownout.cosim.cache import results_root
from brownout.host import load_classifier, load_denoiser, write_results
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.load import WEIGHTS
from brownout.host.models.sampling import initial_latents
from brownout.host.models.spec import build_scheduler, get_spec
from brownout.host.quality import (
    class_agreement,
    perceptual_distance,
    psnr,
    psnr_per_image,
    to_unit_range,
)
from brownout.host.stadi.execute.fleet import Fleet, PlacedDenoiser
from brownout.host.stadi.execute.request import Sampling, Sharing
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.hw.config import AcceleratorConfig

MODEL = "mnist-patch2"
STEPS, WARMUP, BATCH = 50, 4, 20
CONFIG = AcceleratorConfig(rows=32, cols=32)
"""Of all devices: hardware has no influence on images."""


@dataclass(frozen=True)
class Division:
    """Rows and strides of devices.

    Attributes
    ----------
    rows, strides : tuple of int
        Of each device after warm-up.
    warmup_rows : tuple of int
        In warm-up.
    steps : int
        Evaluations of a device with stride 1.
    synchronous : bool
        Whether all steps are.
    """

    rows: tuple[int, ...]
    strides: tuple[int, ...]
    warmup_rows: tuple[int, ...]
    steps: int = STEPS
    synchronous: bool = False

    def plan(self) -> Plan:
        """As a plan for devices d0, d1, .."""
        shares, start, warm = [], 0, 0
        for index, (count, stride, first) in enumerate(zip(self.rows, self.strides, self.warmup_rows, strict=True)):
            share = Share(
                device=f"d{index}", stride=stride, rows=(start, start + count), warmup_rows=(warm, warm + first)
            )
            shares.append(share)
            start, warm = start + count, warm + first
        # As planners do: what is left can be divided into intervals.
        warmup = WARMUP + (self.steps - WARMUP) % max(self.strides) if len(self.rows) > 1 else 0
        return Plan(method="given", shares=tuple(shares), rows=sum(self.rows), steps=self.steps, warmup=warmup)


SETTINGS = {
    "single": Division((14,), (1,), (14,)),
    "single_half": Division((14,), (1,), (14,), steps=STEPS // 2),
    "full_sync": Division((9, 5), (1, 1), (9, 5), synchronous=True),
    "uniform_2": Division((7, 7), (1, 1), (7, 7)),
    "uniform_4": Division((4, 4, 3, 3), (1, 1, 1, 1), (4, 4, 3, 3)),
    "elastic_1to2": Division((9, 5), (1, 1), (9, 5)),
    "stride2_1to2": Division((7, 7), (1, 2), (9, 5)),
    "stride4_1to4": Division((7, 7), (1, 4), (11, 3)),
    "mixed_3": Division((5, 5, 4), (1, 1, 2), (6, 5, 3)),
    "mixed_4": Division((4, 4, 3, 3), (1, 1, 2, 2), (5, 5, 2, 2)),
}


class Bench:
    """Draws images in settings, and keeps them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = get_spec(MODEL)
        self.classifier = load_classifier(MODEL)
        names = [f"d{index}" for index in range(4)]
        fleet = Fleet([DeviceSpec(name=name, config=CONFIG) for name in names], executor="inline")
        self.placed: PlacedDenoiser = fleet.place(load_denoiser(MODEL), calibration_run(self.spec))
        self._weights = hashlib.sha256((WEIGHTS / f"{MODEL}-denoiser.safetensors").read_bytes()).hexdigest()[:12]

    def draw(self, name: str, division: Division, batch: int) -> torch.Tensor:
        """float32 (BATCH, 1, 28, 28) in [0, 1]."""
        key = hashlib.sha256(f"{self._weights} {asdict(division)} {batch} {BATCH}".encode()).hexdigest()[:12]
        path = self.folder / f"{name}-{batch}-{key}.safetensors"
        if path.is_file():
            return load_file(path)["images"]
        labels = torch.arange(BATCH) % self.spec.num_classes
        made = self.placed.generate(
            initial_latents(self.spec, BATCH, 1000 + batch),
            Sampling(
                scheduler=build_scheduler(),
                conditions={"class_labels": labels},
                unconditional={"class_labels": torch.full_like(labels, self.spec.null_label)},
                guidance_scale=self.spec.guidance_scale,
                num_inference_steps=division.steps,
                use_clipped_model_output=True,
            ),
            Sharing(plan=division.plan(), mode="full_sync" if division.synchronous else "displaced", replan=False),
        )
        images = to_unit_range(made.latents).contiguous()
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        save_file({"images": images}, partial)
        partial.replace(path)
        return images


def measure(count: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Metrics of all settings, and the first ten images of each."""
    bench = Bench(results_root() / "results" / "stadi_quality")
    batches = -(-count // BATCH)
    drawn: dict[str, torch.Tensor] = {}
    try:
        for name, division in SETTINGS.items():
            parts = [bench.draw(name, division, batch) for batch in tqdm(range(batches), desc=name)]
            drawn[name] = torch.cat(parts)[:count]
    finally:
        bench.placed.close()
    labels = (torch.arange(BATCH) % bench.spec.num_classes).repeat(batches)[:count]
    single = drawn["single"]
    metrics: dict[str, float] = {"images": count, "bit_exact_full_sync": torch.equal(drawn["full_sync"], single)}
    agreement = class_agreement(single, labels, bench.classifier)
    for name, images in drawn.items():
        own = class_agreement(images, labels, bench.classifier)
        metrics[f"agreement_{name}"] = own
        if name in ("single", "full_sync"):
            continue
        metrics[f"psnr_{name}_db"] = psnr(images, single)
        metrics[f"psnr_mean_{name}_db"] = psnr_per_image(images, single).mean().item()
        metrics[f"psnr_worst_{name}_db"] = psnr_per_image(images, single).min().item()
        metrics[f"perceptual_{name}"] = perceptual_distance(images, single, bench.classifier)
        metrics[f"agreement_drop_{name}"] = agreement - own
    metrics["psnr_headroom_db"] = metrics["psnr_stride2_1to2_db"] - metrics["psnr_single_half_db"]
    return metrics, {name: images[:10] for name, images in drawn.items()}


def main(
    images: Annotated[int, typer.Option(help="of each setting")] = 100,
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
) -> None:
    """Draw, compare, write the result file."""
    torch.set_num_threads(threads)
    metrics, _ = measure(images)
    settings = {name: asdict(division) for name, division in SETTINGS.items()}
    print(write_results("stadi_quality", metrics, config={"model": MODEL, "settings": settings}))
    for name, value in metrics.items():
        print(f"{name:40} {value:.4f}")


if __name__ == "__main__":
    typer.run(main)
