"""How far apart are two runs that should be equally good? The floors of the quality metrics on the shipped models.

Run ``python benchmarks/quality.py`` (minutes; ``--count 100`` for a look); writes ``build/results/quality.json``. For
each model, two seeds, in float32 and in int8 on the twin, without errors:

- ``frechet_floor``: Frechet distance between the two float32 runs, with its bootstrap interval: what is closer
  cannot be told apart;
- ``frechet_float32``, ``frechet_int8``: to the held-out images; ``frechet_train``: of as many training images;
  ``frechet_int8_to_float32``: of int8 to float32 with the same noise;
- ``agreement_float32``, ``agreement_int8`` and the paired difference over both seeds, with one-sided 95 % bounds;
- ``perceptual_int8``, ``psnr_int8_db``, ``ssim_int8``: int8 against float32 with the same noise, over both seeds.

``--efficientnet`` repeats the Frechet and perceptual distances on EfficientNet-Lite0 (``brownout[quality]``; 0.13 s an
image on one core, and more than 320 images a run).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import typer

from brownout.host import Accelerator, load_classifier, load_denoiser, offload, restore, write_results
from brownout.host.models.data import load_dataset
from brownout.host.models.evaluate import calibration_run, draw
from brownout.host.models.spec import DIGITS, MNIST, ModelSpec
from brownout.host.quality import (
    FeatureNetwork,
    FrechetResult,
    agreement_difference,
    extract_features,
    frechet_distance,
    frechet_with_interval,
    load_efficientnet,
    perceptual_distance,
    psnr,
    recognised,
    ssim,
)
from brownout.hw.config import AcceleratorConfig

SEEDS = (0, 1)


def runs(spec: ModelSpec, count: int) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Images of each seed in float32 and in int8, and the labels of one run."""
    model = load_denoiser(spec.name)
    labels = torch.arange(count) % spec.num_classes
    float32 = [draw(model, spec, count, seed=seed)[0] for seed in SEEDS]
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        offload(model, accelerator, calibration=calibration_run(spec))
        int8 = [draw(model, spec, count, seed=seed)[0] for seed in SEEDS]
        restore(model)
    return float32, int8, labels


def _flat(name: str, result: FrechetResult) -> dict[str, float]:
    return {name: result.distance, f"{name}_low": result.low, f"{name}_high": result.high, f"{name}_bias": result.bias}


def distances(
    float32: list[torch.Tensor], int8: list[torch.Tensor], labels: torch.Tensor, name: str, network: FeatureNetwork
) -> dict[str, float]:
    """Frechet and perceptual distances on one network."""
    data = load_dataset(name)
    counts = labels.bincount().tolist()
    shuffled = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))
    # As many of each class as in a run.
    chosen = torch.cat([shuffled[data.train_labels[shuffled] == label][:size] for label, size in enumerate(counts)])
    held_out, train, first, second, quantised = (
        extract_features(images, network)
        for images in (data.test_images, data.train_images[chosen], float32[0], float32[1], int8[0])
    )
    to_held_out = partial(frechet_with_interval, features_b=held_out, labels_b=data.test_labels)
    return {
        **_flat("frechet_floor", frechet_with_interval(first, second, labels_a=labels, labels_b=labels)),
        **_flat("frechet_float32", to_held_out(first, labels_a=labels)),
        **_flat("frechet_int8", to_held_out(quantised, labels_a=labels)),
        # Without an interval: the two are paired by their noise, and the bootstrap is not.
        "frechet_int8_to_float32": frechet_distance(quantised, first),
        **_flat("frechet_train", to_held_out(train, labels_a=data.train_labels[chosen])),
        "perceptual_int8": perceptual_distance(torch.cat(int8), torch.cat(float32), network),
    }


def measure(spec: ModelSpec, count: int, efficientnet: bool) -> dict[str, float]:
    """All figures of one model."""
    float32, int8, labels = runs(spec, count)
    classifier = load_classifier(spec.name)
    both = labels.repeat(len(SEEDS))
    agreement = agreement_difference(
        recognised(torch.cat(int8), both, classifier), recognised(torch.cat(float32), both, classifier)
    )
    metrics = {
        "images": agreement.samples,
        "agreement_float32": agreement.b,
        "agreement_int8": agreement.a,
        "agreement_difference": agreement.difference,
        "agreement_difference_lower": agreement.lower,
        "agreement_difference_upper": agreement.upper,
        "psnr_int8_db": psnr(torch.cat(int8), torch.cat(float32)),
        "ssim_int8": ssim(torch.cat(int8), torch.cat(float32)),
        **distances(float32, int8, labels, spec.dataset, classifier),
    }
    if efficientnet:
        found = distances(float32, int8, labels, spec.dataset, load_efficientnet())
        metrics |= {f"efficientnet_{name}": value for name, value in found.items()}
    return metrics


def main(
    count: Annotated[int, typer.Option(help="images of each run")] = 1000,
    efficientnet: Annotated[bool, typer.Option(help="repeat distances on EfficientNet-Lite0")] = False,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
) -> None:
    """Measure, print and write the results."""
    if threads:
        torch.set_num_threads(threads)
    metrics: dict[str, float] = {}
    for spec in (DIGITS, MNIST):
        metrics |= {f"{spec.name}_{key}": value for key, value in measure(spec, count, efficientnet).items()}
    path = write_results("quality", metrics, config={"count": count, "seeds": list(SEEDS)})
    for key, value in metrics.items():
        print(f"{key:44} {value:.5g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
