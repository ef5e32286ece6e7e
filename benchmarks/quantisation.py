"""What int8 costs the shipped models in quality: ``python benchmarks/quantisation.py [digits|mnist]``.

Every variant draws the same images from the same noise, on the twin without errors, and is compared with float32: PSNR
of the pooled error of images in [0, 1], and how much less often the classifier sees the class that was asked for.
Calibration runs use noise of their own.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch import nn

from brownout.host import (
    Accelerator,
    calibrate,
    load_classifier,
    load_denoiser,
    offload,
    report,
    restore,
    sample,
    write_results,
)
from brownout.host.models.classifier import Classifier
from brownout.host.models.evaluate import CALIBRATION_SEED
from brownout.host.models.spec import ModelSpec, get_spec
from brownout.hw.config import AcceleratorConfig

BATCH = 100

CALIBRATION_IMAGES_PER_CLASS = 2


@dataclass(frozen=True)
class Drawn:
    """Images (N, C, H, W) in [0, 1] and whether each is classified as its label (N,)."""

    images: torch.Tensor
    right: torch.Tensor


def linear_only(layer: nn.Module, _: str) -> bool:
    return isinstance(layer, nn.Linear)


VARIANTS: dict[str, dict[str, Any]] = {
    "linear_mse": {"filter_fn": linear_only, "method": "mse"},
    "all_mse": {"method": "mse"},
    "all_absmax": {"method": "absmax"},
    "all_percentile_99_9": {"method": "percentile", "percentile": 99.9},
    "all_percentile_99_99": {"method": "percentile", "percentile": 99.99},
    "all_mse_groups_5": {"method": "mse", "timestep_groups": 5},
    "all_mse_smoothing_0_5": {"method": "mse", "smoothing": 0.5},
    "all_mse_groups_5_smoothing_0_5": {"method": "mse", "timestep_groups": 5, "smoothing": 0.5},
}


def draw(model: nn.Module, classifier: Classifier, spec: ModelSpec, count: int, seed: int) -> Drawn:
    labels = torch.arange(count) % spec.num_classes
    images, right = [], []
    for index, part in enumerate(labels.split(BATCH)):
        images.append(sample(model, spec, part, seed=seed + index * 1_000_000))
        with torch.no_grad():
            right.append(classifier(images[-1]).argmax(1) == part)
    return Drawn(torch.cat(images), torch.cat(right))


def compare(drawn: Drawn, reference: Drawn) -> dict[str, float]:
    mse = (drawn.images - reference.images).double().square().mean().item()
    lost = reference.right.double() - drawn.right.double()
    return {
        "psnr_db": 10 * math.log10(1 / mse),
        "class_agreement": drawn.right.double().mean().item(),
        "class_agreement_drop": lost.mean().item(),
        "class_agreement_drop_standard_error": lost.std().item() / math.sqrt(len(lost)),
    }


def main(
    model_name: Annotated[str, typer.Argument(metavar="MODEL", help="digits or mnist")] = "mnist",
    images: Annotated[int, typer.Option(help="Images of each variant.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    only: Annotated[list[str] | None, typer.Option(help="Variants to draw; by default all.")] = None,
) -> None:
    spec = get_spec(model_name)
    model, classifier = load_denoiser(spec.name), load_classifier(spec.name)
    reference = draw(model, classifier, spec, images, seed)
    metrics: dict[str, float] = {
        "images": images,
        "float32_class_agreement": reference.right.double().mean().item(),
    }
    labels = list(range(spec.num_classes)) * CALIBRATION_IMAGES_PER_CLASS
    config = AcceleratorConfig()
    for name in only or VARIANTS:
        began = time.monotonic()
        calibration = calibrate(model, lambda m: sample(m, spec, labels, seed=CALIBRATION_SEED), **VARIANTS[name])
        with Accelerator(config, backend="twin") as accelerator:
            offload(model, accelerator, calibration=calibration, filter_fn=VARIANTS[name].get("filter_fn"))
            try:
                found = compare(draw(model, classifier, spec, images, seed), reference)
                layers = report(model)
            finally:
                restore(model)
        found["least_sqnr_db"] = min(layer.sqnr_db for layer in layers if layer.sqnr_db is not None)
        metrics |= {f"{name}_{key}": value for key, value in found.items()}
        text = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(f"{name}: {text} ({time.monotonic() - began:.0f} s)", flush=True)
        # After each, so that a run that is cut short leaves what it has.
        path = write_results("quantisation", metrics, config=config)
    print(path)


if __name__ == "__main__":
    typer.run(main)
