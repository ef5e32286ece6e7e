"""What does it save to keep the scores of attention on the chip?

A denoising step of three full-size models on `SERVER` and on `SERVER_ATTENTION`, with all bytes that the host moves:
bytes, time (at least the memory's) and energy, nominal; images by a variant of `drift_quality.VARIANTS` at a rate, on
the machine with the unit, whose quality under errors is that of ``drift_quality.py --attention``; and how far clean
images of shipped models are from those of the float model. Run ``python benchmarks/attention.py``; writes
``build/results/attention.json``. Bytes, time and nominal energy are exact.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Annotated

import torch
import typer
from drift_costs import MODELS, SETTLED, VARIANTS, WHOLE_RATE, WHOLE_VARIANT, priced

from brownout.host import Accelerator, DelayModel, calibrate, offload, write_results
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.drift.accounting.executed import nominal_image, protected_image
from brownout.host.drift.accounting.published import PUBLISHED
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.models.load import load_denoiser
from brownout.host.models.sampling import sample
from brownout.host.models.spec import get_spec
from brownout.host.offloading import restore
from brownout.host.workload.shaped import ShapedModel
from brownout.host.workload.trace import Workload
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER, SERVER_ATTENTION
from denoisers.published import DENOISERS

SEEDS, LABELS, STEPS = (0, 1), 20, 10
"""Of images for quality."""

MACHINES = {"before": SERVER, "after": SERVER_ATTENTION}


def step(config: AcceleratorConfig, workload: Workload) -> dict[str, float]:
    """One nominal evaluation."""
    with Accelerator(config, ShapeBackend(config)) as accelerator:
        ShapedModel(accelerator, workload).evaluate()
        stats = accelerator.stats
    return {
        "step_mj": stats["energy_j"] * 1e3,
        "step_ms": max(stats["time_s"], stats["memory_s"]) * 1e3,
        "dram_gb": stats["dram_bytes"] / 1e9,
        "host_gb": stats["interface_bytes"] / 1e9,
        "mac_utilisation": stats["macs"] / (config.rows * config.cols * stats["cycles"]),
    }


def steps() -> dict[str, float]:
    """Metrics of nominal steps, by model and machine, and their ratios."""
    metrics: dict[str, float] = {}
    ratios: dict[str, list[float]] = {"step_mj": [], "step_ms": [], "dram_gb": [], "host_gb": []}
    for key, name in MODELS.items():
        workload = DENOISERS[name].workload()
        found = {machine: step(config, workload) for machine, config in MACHINES.items()}
        metrics |= {
            f"{metric}_{machine}_{key}": value for machine, each in found.items() for metric, value in each.items()
        }
        for metric, values in ratios.items():
            values.append(found["after"][metric] / found["before"][metric])
    metrics |= {f"{metric}_over_before": mean(values) for metric, values in ratios.items()}
    metrics["mac_utilisation_min"] = min(metrics[f"mac_utilisation_after_{key}"] for key in MODELS)
    return metrics


def whole(variant: str, rate: float) -> dict[str, float]:
    """Metrics of images at an error rate, on the machine with the unit; savings against its nominal run."""
    chosen, law, metrics = VARIANTS[variant], DelayModel(), dict[str, float]()
    fast = OperatingPoint(frequency_hz=law.frequency_at_rate(rate))
    safe = OperatingPoint(frequency_hz=law.frequency_at_rate(0))
    for key, name in MODELS.items():
        workload, count = DENOISERS[name].workload(), PUBLISHED[key].steps
        plain = nominal_image(SERVER_ATTENTION, workload, steps=count)
        low = priced(workload, chosen, rate, count, config=SERVER_ATTENTION)
        quick = protected_image(
            *(SERVER_ATTENTION, workload, chosen.make(), chosen.policy(fast, safe)), steps=count, settled=SETTLED
        )
        metrics |= {
            f"whole_saving_{key}": 1 - low.energy_j / plain.energy_j,
            f"whole_speedup_{key}": plain.time_s / quick.time_s,
            f"joule_per_image_{key}": low.energy_j,
            f"nominal_joule_per_image_{key}": plain.energy_j,
        }
    for metric in ("whole_saving", "whole_speedup"):
        metrics[f"{metric}_avg"] = mean(metrics[f"{metric}_{key}"] for key in MODELS)
    return metrics


def quality(name: str) -> dict[str, float]:
    """Mean PSNR of clean int8 images to those of the float model, of a shipped model with and without the unit."""
    spec = get_spec(name)
    plain = AcceleratorConfig(rows=16, cols=16, block_rows=512, block_col_tiles=16, slab_bytes=256)
    labels = [label % spec.num_classes for label in range(LABELS)]

    def draw(model: torch.nn.Module, seed: int) -> torch.Tensor:
        return sample(model, spec, labels, seed=seed, num_inference_steps=STEPS)

    exact = [draw(load_denoiser(name), seed) for seed in SEEDS]
    model = load_denoiser(name)
    calibration = calibrate(model, lambda m: sample(m, spec, range(8), seed=100, num_inference_steps=STEPS))
    metrics = {}
    for machine, config in (("before", plain), ("after", replace(plain, attention=True))):
        with Accelerator(config, "twin") as accelerator:
            offload(model, accelerator, calibration=calibration)
            errors = [
                ((draw(model, seed) - wanted) / 2).square().flatten(1).mean(1)
                for seed, wanted in zip(SEEDS, exact, strict=True)
            ]
            restore(model)
        metrics[f"psnr_db_{machine}_{name}"] = float(-10 * torch.cat(errors).log10().mean())
    return metrics


def main(
    variant: Annotated[str, typer.Option(help="of drift_quality.VARIANTS")] = WHOLE_VARIANT,
    rate: Annotated[float, typer.Option(help="errors per output")] = WHOLE_RATE,
) -> None:
    """Count, print and write the results."""
    metrics = steps() | whole(variant, rate)
    for name in ("digits", "mnist"):
        metrics |= quality(name)
    machines = {"before": SERVER.to_dict(), "after": SERVER_ATTENTION.to_dict()}
    config = {**machines, "variant": variant, "rate": rate, "seeds": SEEDS, "steps": STEPS, "labels": LABELS}
    path = write_results("attention", metrics, config=config)
    for name, value in metrics.items():
        print(f"{name:44} {value:.5g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
