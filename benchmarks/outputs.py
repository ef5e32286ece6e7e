"""What do narrow outputs of layers save, and what do they cost in quality?

A denoising step of three full-size models on `SERVER_KEEP` with outputs of layers as int32 sums, as int16, as int8, and
mixed; images at an error rate, undervolted and overclocked; and clean images of shipped models with ``outputs="auto"``
against those of the float model. ``*_before_*`` is a step on `SERVER`, with neither attention unit nor kept activations
and with int32 sums, and ``step_energy_over_before_*`` that of mixed outputs over it. Run ``python
benchmarks/outputs.py``; writes ``build/results/outputs.json``. Bytes, time and nominal energy are exact.

Full-size models have no weights here that a calibration could see, so which of their outputs may be int8 is a rule:
with ``mixed`` those that are quantised at once, or after a pointwise function (queries, keys, values, the first layer
of a feed-forward network), all others int16. ``int8_share_mixed_*`` is the share of output elements of these;
``int8_layers_*`` the share of layers that ``"auto"`` makes int8 in shipped models.

``psnr_db_OUTPUTS_*`` is the mean over images; ``psnr_change_db_*`` that of the paired differences to int32, between
``psnr_change_lower_*`` and ``psnr_change_upper_*`` with 95 % confidence.
"""

from __future__ import annotations

from collections.abc import Callable
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
from brownout.host.offloading import OffloadedLayer, Outputs, restore
from brownout.host.quality import paired_bound
from brownout.host.workload.shaped import ShapedModel
from brownout.host.workload.trace import ModelProduct, Workload
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER, SERVER_KEEP
from denoisers.published import DENOISERS

CONFIG = SERVER_KEEP

SHIPPED = ("digits", "mnist", "mnist-patch2", "emoji")

SEEDS, LABELS, STEPS = tuple(range(4)), 10, 10
"""Of images for quality."""

QUANTISED_NEXT = ("to_q", "to_k", "to_v", "net.0.proj")
"""Ends of names of layers whose outputs are quantised at once, or after GELU."""


def mixed(product: ModelProduct) -> int:
    """Bits of the outputs of a layer of a full-size model."""
    return 8 if product.name.endswith(QUANTISED_NEXT) else 16


RULES: dict[str, Callable[[ModelProduct], int]] = {
    "int32": lambda _: 32,
    "int16": lambda _: 16,
    "int8": lambda _: 8,
    "mixed": mixed,
}


def step(workload: Workload, config: AcceleratorConfig = CONFIG) -> dict[str, float]:
    """One nominal evaluation."""
    with Accelerator(config, ShapeBackend(config)) as accelerator:
        ShapedModel(accelerator, workload).evaluate()
        stats = accelerator.stats
    return {
        "step_mj": stats["energy_j"] * 1e3,
        "step_ms": max(stats["time_s"], stats["memory_s"]) * 1e3,
        "memory_ms": stats["memory_s"] * 1e3,
        "dram_gb": stats["dram_bytes"] / 1e9,
        "host_gb": stats["interface_bytes"] / 1e9,
        "mac_utilisation": stats["macs"] / (config.rows * config.cols * stats["cycles"]),
    }


def costs(variant: str, rate: float) -> dict[str, float]:
    """Metrics of steps and images, by rule and model."""
    chosen, law, metrics = VARIANTS[variant], DelayModel(), dict[str, float]()
    fast = OperatingPoint(frequency_hz=law.frequency_at_rate(rate))
    safe = OperatingPoint(frequency_hz=law.frequency_at_rate(0))
    for key, name in MODELS.items():
        before = step(DENOISERS[name].workload(), SERVER)
        metrics |= {f"{metric}_before_{key}": value for metric, value in before.items()}
        for rule, bits in RULES.items():
            workload, count = DENOISERS[name].workload().with_outputs(bits), PUBLISHED[key].steps
            metrics |= {f"{metric}_{rule}_{key}": value for metric, value in step(workload).items()}
            plain = nominal_image(CONFIG, workload, steps=count)
            low = priced(workload, chosen, rate, count, config=CONFIG)
            metrics |= {
                f"whole_saving_{rule}_{key}": 1 - low.energy_j / plain.energy_j,
                f"joule_per_image_{rule}_{key}": low.energy_j,
            }
            if rule != "mixed":
                continue
            quick = protected_image(
                *(CONFIG, workload, chosen.make(), chosen.policy(fast, safe)), steps=count, settled=SETTLED
            )
            metrics[f"whole_speedup_{rule}_{key}"] = plain.time_s / quick.time_s
        metrics[f"step_energy_over_before_{key}"] = metrics[f"step_mj_mixed_{key}"] / before["step_mj"]
        layers = [each for each in workload.products if not each.is_of_attention]
        sizes = {each.name: each.shape.m * each.shape.n for each in layers}
        narrow = sum(sizes[each.name] for each in layers if mixed(each) == 8)
        metrics[f"int8_share_mixed_{key}"] = narrow / sum(sizes[each.name] for each in layers)
    for rule in RULES:
        metrics[f"whole_saving_{rule}_avg"] = mean(metrics[f"whole_saving_{rule}_{key}"] for key in MODELS)
    metrics["whole_speedup_mixed_avg"] = mean(metrics[f"whole_speedup_mixed_{key}"] for key in MODELS)
    metrics["step_energy_over_before_avg"] = mean(metrics[f"step_energy_over_before_{key}"] for key in MODELS)
    metrics["mac_utilisation_min"] = min(metrics[f"mac_utilisation_mixed_{key}"] for key in MODELS)
    return metrics


def quality(name: str) -> dict[str, float]:
    """PSNR of clean images to those of the float model, image by image, and how narrow outputs are."""
    spec = get_spec(name)
    config = AcceleratorConfig(rows=16, cols=16, block_rows=512, block_col_tiles=16, slab_bytes=256, attention=True)
    labels = [label % spec.num_classes for label in range(LABELS)]

    def draw(model: torch.nn.Module, seed: int) -> torch.Tensor:
        return sample(model, spec, labels, seed=seed, num_inference_steps=STEPS)

    exact = [draw(load_denoiser(name), seed) for seed in SEEDS]
    model = load_denoiser(name)
    calibration = calibrate(model, lambda m: sample(m, spec, range(8), seed=100, num_inference_steps=STEPS))
    found: dict[Outputs, list[float]] = {}
    metrics: dict[str, float] = {}
    for outputs in ("int32", "auto"):
        chosen: Outputs = outputs
        with Accelerator(config, "twin") as accelerator:
            offload(model, accelerator, calibration=calibration, outputs=chosen)
            formats = {each.product.name: each.format for each in model.modules() if isinstance(each, OffloadedLayer)}
            errors = [
                ((draw(model, seed) - wanted) / 2).square().flatten(1).mean(1)
                for seed, wanted in zip(SEEDS, exact, strict=True)
            ]
            stats = accelerator.stats
            restore(model)
        found[chosen] = (-10 * torch.cat(errors).log10()).tolist()
        metrics |= {
            f"psnr_db_{chosen}_{name}": mean(found[chosen]),
            f"dram_mb_{chosen}_{name}": stats["dram_bytes"] / 1e6,
            f"energy_mj_{chosen}_{name}": stats["energy_j"] * 1e3,
        }
    change = [after - before for before, after in zip(found["int32"], found["auto"], strict=True)]
    bound = paired_bound(found["auto"], found["int32"], confidence=0.975)
    metrics |= {
        f"psnr_change_db_{name}": mean(change),
        f"psnr_change_lower_{name}": bound.lower,
        f"psnr_change_upper_{name}": bound.upper,
        f"int8_layers_{name}": sum(each is not None and each.bits == 8 for each in formats.values()) / len(formats),
    }
    return metrics


def main(
    variant: Annotated[str, typer.Option(help="of drift_quality.VARIANTS")] = WHOLE_VARIANT,
    rate: Annotated[float, typer.Option(help="errors per output")] = WHOLE_RATE,
    models: Annotated[str, typer.Option(help="shipped ones for quality, comma-separated")] = ",".join(SHIPPED),
) -> None:
    """Count, print and write the results."""
    metrics = costs(variant, rate)
    for name in models.split(","):
        metrics |= quality(name)
    config = {"machine": CONFIG.to_dict(), "variant": variant, "rate": rate, "seeds": SEEDS, "steps": STEPS}
    path = write_results("outputs", metrics, config={**config, "labels": LABELS})
    for metric, value in metrics.items():
        print(f"{metric:44} {value:.5g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
