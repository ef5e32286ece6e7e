"""Do undervolting with rollback, step caching and pruning add up? ``python benchmarks/combined.py [digits|mnist]...``.

Each combination of a step cache (interval 2), pruned MLPs (25 and 50 %) and the operating point (nominal, or
undervolted with rollback: block Linear layers at ``--rate``, checks a quarter of the way up, evaluation 0 clean) draws
the same images from the same noise on the twin. Writes ``build/results/combined.json``:

- ``energy_ratio_*``, ``compute_ratio_*`` (MACs and checks only) and ``time_ratio_*``: over the nominal run without
  cache and pruning; ``*_gap_*``: the ratio of a combination with undervolting minus the product of its parts' ratios:
  what is lost because savings share what they save. 0: they multiply.
- ``distance_*``: perceptual distance to that run; ``distance_excess_*``: the combination's minus the sum of its parts'.
  Below 0: damages overlap. ``resilience_*``: distance between the undervolted run and the nominal one of the same cache
  and pruning: how well what is left stands errors.
- ``predicted_*``: with `PredictedRollback` in place of `Rollback`.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product
from typing import Annotated

import torch
import typer

from brownout.host import (
    Accelerator,
    DelayModel,
    EnergyModel,
    calibrate,
    load_classifier,
    load_denoiser,
    offload,
    restore,
    sample,
    write_results,
)
from brownout.host.caching import TaylorCache
from brownout.host.drift.operating_point import GUARD_BAND_V, NOMINAL, OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import PredictedRollback, Rollback, Strategy
from brownout.host.models.evaluate import CALIBRATION_SEED, draw
from brownout.host.models.pruning import hidden_statistics, prune_mlp
from brownout.host.models.spec import get_spec
from brownout.host.quality import class_agreement, perceptual_distance
from brownout.host.workload.product_site import BLOCK_LINEAR_KINDS
from brownout.hw.config import AcceleratorConfig, MemoryConfig

INTERVALS, SHARES = (1, 2), (0.0, 0.25, 0.5)

CHECK_VOLTAGE = 0.25
"""Of the way from the array's voltage to the guard band."""

ARRAY = AcceleratorConfig(rows=32, cols=32, timing_model="flip", memory=MemoryConfig(bytes_per_cycle=32))


def label(interval: int, share: float) -> str:
    """Name of a cache and a pruning in metrics."""
    parts = [f"cache{interval}"] * (interval > 1) + [f"pruned{share * 100:.0f}"] * (share > 0)
    return "_".join(parts) or "whole"


class Bench:
    """A shipped model and its combinations."""

    def __init__(self, name: str, images: int, rate: float) -> None:
        self.spec, self.images = get_spec(name), images
        self.classifier = load_classifier(name)
        voltage = DelayModel().voltage_at_rate(rate)
        check = voltage + CHECK_VOLTAGE * (GUARD_BAND_V - voltage)
        self.low = OperatingPoint(voltage_v=voltage, check_voltage_v=check)
        model = load_denoiser(name)
        statistics = hidden_statistics(model, self._calibrate)
        self.models = {
            share: prune_mlp(model, share, statistics=statistics, compensation="least_squares") if share else model
            for share in SHARES
        }
        self.calibrations = {
            share: calibrate(each, self._calibrate, measure_error=False) for share, each in self.models.items()
        }

    def _calibrate(self, model: torch.nn.Module) -> None:
        sample(model, self.spec, list(range(self.spec.num_classes)) * 2, seed=CALIBRATION_SEED)

    def run(
        self, interval: int, share: float, point: OperatingPoint, strategy: Strategy
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Images and what they took."""
        model = self.models[share]
        cache = TaylorCache(interval=interval, order=1, damping=0.5)
        with Accelerator(strategy.hardware(ARRAY), backend="twin") as accelerator:
            offload(model, accelerator, calibration=self.calibrations[share])
            try:
                policy = SelectivePolicy(low=point, first=1, kinds=BLOCK_LINEAR_KINDS)
                with cache.attach(model) if interval > 1 else nullcontext(), protect(model, strategy, policy, seed=1):
                    images, _ = draw(model, self.spec, self.images, seed=0)
                stats = accelerator.stats
                # What the cache holds lies in memory, and is written and read there.
                cache_j = cache.traffic_bytes * EnergyModel().dram_byte_j
                figures = {
                    "energy": stats["energy_j"] + cache_j,
                    "compute": stats["energy_mac_j"] + stats["energy_check_j"],
                    "time": stats["time_s"],
                }
                return images, figures
            finally:
                restore(model)


def measure(bench: Bench) -> dict[str, float]:
    """Flat figures of a model."""
    metrics: dict[str, float] = {}
    whole, base = bench.run(1, 0.0, NOMINAL, Rollback())
    labels = torch.arange(bench.images) % bench.spec.num_classes
    distances: dict[tuple[str, bool], float] = {}
    ratios: dict[tuple[str, bool], dict[str, float]] = {}
    for interval, share in product(INTERVALS, SHARES):
        name = label(interval, share)
        nominal, figures = bench.run(interval, share, NOMINAL, Rollback())
        low, low_figures = bench.run(interval, share, bench.low, Rollback())
        for images, found, undervolted in ((nominal, figures, False), (low, low_figures, True)):
            key = f"{name}_undervolted" if undervolted else name
            ratios[name, undervolted] = {each: found[each] / base[each] for each in found}
            distances[name, undervolted] = perceptual_distance(images, whole, bench.classifier)
            metrics[f"distance_{key}"] = distances[name, undervolted]
            metrics[f"class_agreement_{key}"] = class_agreement(images, labels, bench.classifier)
            metrics |= {f"{each}_ratio_{key}": value for each, value in ratios[name, undervolted].items()}
        metrics[f"resilience_{name}"] = perceptual_distance(low, nominal, bench.classifier)
        print(f"{bench.spec.name} {name}: {distances[name, False]:.4f} {distances[name, True]:.4f}", flush=True)
        if share == 0:
            predicted, found = bench.run(interval, share, bench.low, PredictedRollback())
            metrics[f"predicted_resilience_{name}"] = perceptual_distance(predicted, nominal, bench.classifier)
            metrics[f"predicted_energy_ratio_{name}"] = found["energy"] / base["energy"]
    for interval, share in product(INTERVALS, SHARES):
        name = label(interval, share)
        if name == "whole":
            continue
        for each in ("energy", "compute", "time"):
            separate = ratios[name, False][each] * ratios["whole", True][each]
            metrics[f"{each}_gap_{name}"] = ratios[name, True][each] - separate
        parts = distances[name, False] + distances["whole", True]
        metrics[f"distance_excess_{name}"] = distances[name, True] - parts
    return metrics


def main(
    models: Annotated[list[str] | None, typer.Argument(help="digits, mnist; by default both")] = None,
    images: Annotated[int, typer.Option(help="of each combination")] = 100,
    rate: Annotated[float, typer.Option(help="errors per output")] = 1e-2,
) -> None:
    """Measure, print and write the results."""
    torch.set_num_threads(1)
    metrics: dict[str, float] = {"rate": rate, "images": images}
    for name in models or ("digits", "mnist"):
        bench = Bench(name, images, rate)
        metrics |= {f"{name}_{key}": value for key, value in measure(bench).items()}
    path = write_results("combined", metrics, config=ARRAY)
    for name, value in metrics.items():
        print(f"{name:48} {value:.4g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
