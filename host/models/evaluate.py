"""Measure the shipped models: ``python -m brownout.host.models.evaluate digits`` writes the model card.

Class agreement is the share of generated images that the classifier assigns to the class they were asked for.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

import torch
from safetensors import safe_open
from torch import nn

from brownout.hw.config import AcceleratorConfig

from ..device.accelerator import Accelerator
from ..offloading import Calibration, calibrate, offload, restore
from ..quality import class_agreement
from ..storage.decoding import parse
from .data import load_dataset
from .load import WEIGHTS, load_classifier, load_denoiser
from .sampling import sample
from .spec import ModelSpec, get_spec

CALIBRATION_SEED = 1_000_003
"""Noise of calibration runs: not the noise of any picture that is judged."""

BATCH = 100

BATCH_SEED_STRIDE = 1_000_000
"""Seeds of batches are far apart, so that neighbouring seeds of runs share no noise."""


def calibration_run(spec: ModelSpec, images_per_class: int = 2) -> Calibration:
    """Scales of all layers of a shipped model, calibrated on a sampling run of its own.

    Raises
    ------
    WeightsNotFoundError
        The denoiser is not trained.
    """
    labels = list(range(spec.num_classes)) * images_per_class
    return calibrate(load_denoiser(spec.name), lambda model: sample(model, spec, labels, seed=CALIBRATION_SEED))


def draw(
    model: nn.Module,
    spec: ModelSpec,
    count: int,
    *,
    seed: int,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate images of all classes in turn, in batches.

    Parameters
    ----------
    model : nn.Module
        The denoiser, offloaded or not.
    spec : ModelSpec
        What `model` was built from.
    count : int
        Images.
    seed : int
        Seed of the noise; all images differ in it, and runs with neighbouring seeds share none.
    num_inference_steps, guidance_scale : optional
        Arguments of `sample`.

    Returns
    -------
    images, labels : torch.Tensor
        float32 (count, C, H, W) in [0, 1] and int64 (count,).
    """
    labels = torch.arange(count) % spec.num_classes
    images = [
        sample(
            model,
            spec,
            part,
            seed=seed + index * BATCH_SEED_STRIDE,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
        )
        for index, part in enumerate(labels.split(BATCH))
    ]
    return torch.cat(images), labels


def evaluate(
    name: str,
    *,
    images_per_class: int = 100,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    int8: bool = False,
) -> float:
    """Class agreement of a shipped model.

    Parameters
    ----------
    name : str
        One of `SPECS`.
    images_per_class : int
        Images generated of each class; all differ in their noise.
    num_inference_steps, guidance_scale : optional
        Arguments of `sample`.
    seed : int
        Seed of the noise.
    int8 : bool
        Run all layers and attention in int8, on the twin, instead of float32.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    WeightsNotFoundError
        The denoiser or the classifier is not trained.
    """
    spec = get_spec(name)
    classifier, model = load_classifier(name), load_denoiser(name)
    run = partial(
        draw,
        model,
        spec,
        images_per_class * spec.num_classes,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    if not int8:
        return class_agreement(*run(), classifier)
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        offload(model, accelerator, calibration=calibration_run(spec))
        try:
            return class_agreement(*run(), classifier)
        finally:
            restore(model)


def model_card(name: str, *, images_per_class: int = 200) -> dict[str, object]:
    """What is shipped, how it was trained and how good it is; every figure is measured by this call.

    Raises
    ------
    WeightsNotFoundError
        The denoiser or the classifier is not trained.
    """
    spec = get_spec(name)
    data = load_dataset(spec.dataset)
    model, classifier = load_denoiser(name), load_classifier(name)
    path = WEIGHTS / f"{name}-denoiser.safetensors"
    with safe_open(path, framework="pt") as file:
        recipe = parse((file.metadata() or {}).get("recipe", "{}"), path)
    return {
        "model": name,
        "data": {
            "train_images": len(data.train_images),
            "held_out_images": len(data.test_images),
            "image_size_px": spec.image_size,
        },
        "denoiser": {"parameters": sum(p.numel() for p in model.parameters()), "recipe": recipe},
        "classifier": {
            "parameters": sum(p.numel() for p in classifier.parameters()),
            "held_out_accuracy": round(class_agreement(data.test_images, data.test_labels, classifier), 4),
        },
        "sampling": {
            "scheduler": "DDIM",
            "num_inference_steps": spec.num_inference_steps,
            "guidance_scale": spec.guidance_scale,
        },
        "class_agreement": {
            "images": images_per_class * spec.num_classes,
            "float32": round(evaluate(name, images_per_class=images_per_class), 4),
            "int8": round(evaluate(name, images_per_class=images_per_class, int8=True), 4),
        },
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a shipped model and write its card.")
    parser.add_argument("model", help="one of the shipped models")
    parser.add_argument("--images-per-class", type=int, default=200)
    arguments = parser.parse_args()
    text = json.dumps(model_card(arguments.model, images_per_class=arguments.images_per_class), indent=2)
    (WEIGHTS / f"{arguments.model}.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
