"""Step caching and pruning, alone and together: ``python benchmarks/caching.py [digits|mnist]...``.

Every variant draws the same images from the same noise on the twin, without errors, and is compared with int8 without
cache and pruning: quality, simulated cycles and energy. Then it measures, on the sums of every product, how far a
rolled-back element is from its true value if it keeps the value of the evaluation before, and if it gets one that is
extrapolated from the two before (`ProductPredictor`); and what that is worth in images under timing errors.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
import typer

from brownout.host import (
    Accelerator,
    EnergyModel,
    Protection,
    calibrate,
    load_classifier,
    load_denoiser,
    offload,
    offloaded_model,
    restore,
    sample,
    write_results,
)
from brownout.host.caching import TaylorCache, Writes, logged_places, write_predictions
from brownout.host.caching.prediction import DAMPING
from brownout.host.models.evaluate import CALIBRATION_SEED, draw
from brownout.host.models.pruning import hidden_statistics, prune_mlp
from brownout.host.models.spec import ModelSpec, get_spec
from brownout.host.quality import compare
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

SUMS_IMAGES = 10

DAMPINGS = (0.25, 0.5, 0.75, 1.0)

KINDS = {
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out": "attention_out",
    "ff.net.0": "mlp_in",
    "ff.net.2": "mlp_out",
    "norm1": "modulation",
}
"""Kind of a product, by a part of its name; all others are ``other``."""

STRIDES = (1, 2, 3)
"""Evaluations between two that are full: a cache makes values older."""


@dataclass(frozen=True)
class Variant:
    """What is switched on; interval 1 is no cache."""

    interval: int = 1
    order: int = 1
    damping: float = 0.5
    granularity: str = "blocks"
    share: float = 0.0
    weighted: bool = True
    compensation: str | None = "least_squares"

    @property
    def name(self) -> str:
        parts = []
        if self.interval > 1:
            parts.append(f"interval_{self.interval}_order_{self.order}")
            if self.order:
                parts.append(f"damping_{self.damping * 100:.0f}")
            if self.granularity != "blocks":
                parts.append(self.granularity)
        if self.share:
            parts.append(f"pruned_{self.share * 100:.0f}")
            if not self.weighted:
                parts.append("by_weights")
            if self.compensation != "least_squares":
                parts.append(f"{self.compensation or 'no'}_compensation")
        return "_".join(parts) or "uncached"


def variants() -> Iterator[Variant]:
    for interval in (2, 3, 4):
        yield Variant(interval=interval, order=0)
        yield Variant(interval=interval, order=1, damping=0.5)
        yield Variant(interval=interval, order=1, damping=1.0)
        yield Variant(interval=interval, order=2, damping=0.5)
        yield Variant(interval=interval, granularity="branches")
    for share in (0.25, 0.5):
        yield Variant(share=share)
        yield Variant(share=share, compensation="mean")
        yield Variant(share=share, compensation=None)
        yield Variant(share=share, weighted=False, compensation=None)
        for interval in (2, 3):
            yield Variant(interval=interval, share=share)


class Bench:
    """A shipped model, its int8 reference, and variants of it."""

    def __init__(self, spec: ModelSpec, images: int, seed: int) -> None:
        self.spec, self.images, self.seed = spec, images, seed
        self.model, self.classifier = load_denoiser(spec.name), load_classifier(spec.name)
        self.statistics = hidden_statistics(self.model, self._calibrate)
        self.reference: torch.Tensor | None = None
        self.energy_j = self.cycles = self.macs = 0.0

    def _calibrate(self, model: torch.nn.Module) -> None:
        sample(model, self.spec, list(range(self.spec.num_classes)) * 2, seed=CALIBRATION_SEED)

    def compare(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        if self.reference is None:
            self.reference = images
        report = compare(images, self.reference, labels=labels, classifier=self.classifier)
        wanted = ("psnr_db", "perceptual_distance", "class_agreement", "class_agreement_difference_lower")
        return {name: value for name, value in report.to_dict().items() if name in wanted}

    def float32(self) -> dict[str, float]:
        """How far int8 itself is from float32: what other distances can be held against."""
        return self.compare(*draw(self.model, self.spec, self.images, seed=self.seed))

    def run(self, variant: Variant) -> dict[str, float]:
        model = self.model
        if variant.share:
            statistics = self.statistics if variant.weighted else None
            model = prune_mlp(model, variant.share, statistics=statistics, compensation=variant.compensation)
        cache = TaylorCache(
            interval=variant.interval,
            order=variant.order,
            damping=variant.damping,
            granularity=variant.granularity,
        )
        with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
            offload(model, accelerator, calibration=calibrate(model, self._calibrate, measure_error=False))
            try:
                with cache.attach(model) if variant.interval > 1 else nullcontext():
                    found = self.compare(*draw(model, self.spec, self.images, seed=self.seed))
                stats = accelerator.stats
            finally:
                restore(model)
        energy_j, cycles, macs = stats["energy_j"], stats["cycles"], stats["macs"]
        if not self.energy_j:
            self.energy_j, self.cycles, self.macs = energy_j, cycles, macs
        cache_energy_j = cache.traffic_bytes * EnergyModel().dram_byte_j
        return {
            **found,
            "cycles_per_image": cycles / self.images,
            "energy_per_image_j": energy_j / self.images,
            "cache_energy_per_image_j": cache_energy_j / self.images,
            "cache_held_bytes_per_image": cache.held_bytes / min(self.images, 100),
            "cycles_ratio": cycles / self.cycles,
            "macs_ratio": macs / self.macs,
            "energy_ratio": (energy_j + cache_energy_j) / self.energy_j,
        }


class Sums:
    """Errors of a stale and of extrapolated values, as shares of the true sums' power, summed over products."""

    def __init__(self, evaluations: int) -> None:
        self.evaluations = evaluations
        self.seen: dict[str, deque[torch.Tensor]] = defaultdict(lambda: deque(maxlen=2 * max(STRIDES) + 1))
        self.count: dict[str, int] = defaultdict(int)
        self.totals: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, name: str, sums: torch.Tensor) -> None:
        # Attention is not rolled back. The first block's embedding is evaluated twice in each evaluation of the model.
        if name.endswith((".qk", ".pv")) or ".emb." in name:
            return
        kind = next((kind for part, kind in KINDS.items() if part in name), "other")
        values, evaluation = self.seen[name], self.count[name]
        values.append(sums.double())
        self.count[name] += 1
        third = ("early", "middle", "late")[min(3 * evaluation // self.evaluations, 2)]
        for stride in STRIDES:
            if len(values) > 2 * stride:
                now, latest, earlier = (values[-1 - stride * age] for age in range(3))
                groups = (f"{kind}_{third}", f"{kind}_all", f"all_{third}", "all_all")
                for group in groups if stride == 1 else (f"stride_{stride}_all_all",):
                    self._add(self.totals[group], now, latest, earlier)

    @staticmethod
    def _add(total: dict[str, float], now: torch.Tensor, latest: torch.Tensor, earlier: torch.Tensor) -> None:
        power = now.square().mean().item()
        if not power:
            return
        change, missing = latest - earlier, now - latest
        total["samples"] += 1
        total["stale"] += missing.square().mean().item() / power
        total["dot"] += (change * missing).mean().item() / power
        total["change"] += change.square().mean().item() / power
        for damping in DAMPINGS:
            error = (missing - damping * change).square().mean().item() / power
            total[f"damping_{damping * 100:.0f}"] += error
        for bits in (16, 8):
            largest = (1 << bits - 1) - 1
            step = earlier.abs().max().item() / largest or 1.0
            coarse = latest - (earlier / step).round() * step
            total[f"history_int{bits}"] += (missing - 0.5 * coarse).square().mean().item() / power

    def metrics(self) -> dict[str, float]:
        """Root mean square errors: of the stale value over the sums, of others over that of the stale value."""
        result = {}
        for group, total in self.totals.items():
            result[f"{group}_stale_error"] = (total["stale"] / total["samples"]) ** 0.5
            result[f"{group}_best_damping"] = total["dot"] / total["change"]
            for name, value in total.items():
                if name.startswith(("damping", "history")):
                    result[f"{group}_{name}_ratio"] = (value / total["stale"]) ** 0.5
        return result


def measure_sums(bench: Bench) -> dict[str, float]:
    sums = Sums(bench.spec.num_inference_steps)
    calibration = calibrate(bench.model, bench._calibrate, measure_error=False)
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        offload(bench.model, accelerator, calibration=calibration, observer=sums.add)
        try:
            offloaded_model(bench.model).begin_run()
            sample(bench.model, bench.spec, torch.arange(SUMS_IMAGES) % bench.spec.num_classes, seed=bench.seed)
        finally:
            restore(bench.model)
    return sums.metrics()


ROLLBACKS = ("zero", "stale", "predicted")
"""What an element that is marked gets: zero, its value of the evaluation before, or an extrapolated one."""

SCHEMES = {
    "classic": ChecksumConfig(scheme="classic"),
    "residue": ChecksumConfig(scheme="residue"),
}
"""``classic`` marks whatever it detects, ``residue`` corrects most of it first."""

ROLLBACK_IMAGES = 20


def is_layer(layer: torch.nn.Module, _name: str) -> bool:
    return isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))


class Rollback:
    """Gives marked elements predictions, seen from outside: as observer of an offloaded model.

    It keeps copies of what `ProductPredictor` has in two slots.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.history: dict[str, deque[torch.Tensor]] = defaultdict(lambda: deque(maxlen=2))
        self.writes = Writes()

    def __call__(self, name: str, sums: torch.Tensor) -> None:
        if ".emb." in name:
            # The first block's is evaluated twice in each evaluation of the model.
            return
        values = self.history[name]
        if len(values) == 2:
            places = logged_places(self.accelerator.last_log)
            self.writes += write_predictions(sums, values[1], values[0], places, factor=DAMPING)
        values.append(sums.clone())


def measure_rollback(bench: Bench, scheme: str, rate: float, interval: int) -> dict[str, float]:
    """Distance to the images without errors, of the same cache, for each of `ROLLBACKS`.

    The first evaluation is without errors, as published, because there is nothing yet to go back to; and attention is
    not offloaded, because its products are not rolled back.
    """
    spec = bench.spec
    metrics: dict[str, float] = {}
    config = AcceleratorConfig(timing_model="flip", checksum=SCHEMES[scheme])
    calibration = calibrate(bench.model, bench._calibrate, filter_fn=is_layer, measure_error=False)
    labels = torch.arange(ROLLBACK_IMAGES) % spec.num_classes
    reference: torch.Tensor | None = None
    for rollback in ("clean", *ROLLBACKS):
        protection = Protection(on_uncorrectable="zero" if rollback == "zero" else "suppress", log_records=1 << 20)
        with Accelerator(config, backend="twin", protection=protection) as accelerator:
            predictor = Rollback(accelerator)
            observer = predictor if rollback == "predicted" else None
            offload(bench.model, accelerator, calibration=calibration, filter_fn=is_layer, observer=observer)
            evaluation = count()

            def begin(*_: object, device: Accelerator = accelerator, evaluation: Iterator[int] = evaluation) -> None:
                device.set_error_rate(rate if next(evaluation) else 0.0, seed=7)

            handle = None if rollback == "clean" else bench.model.register_forward_pre_hook(begin)
            try:
                with TaylorCache(interval=interval).attach(bench.model):
                    images = sample(bench.model, spec, labels, seed=bench.seed)
                stats = accelerator.stats
            finally:
                if handle is not None:
                    handle.remove()
                restore(bench.model)
        if reference is None:
            reference = images
            continue
        found = compare(images, reference, labels=labels, classifier=bench.classifier).to_dict()
        metrics |= {f"{rollback}_{key}": found[key] for key in ("psnr_db", "perceptual_distance", "class_agreement")}
        if rollback == "predicted":
            metrics["marked"] = stats["suppressed"]
            metrics["predicted_written"] = predictor.writes.elements
            metrics["predicted_traffic_share"] = predictor.writes.bytes / stats["dram_bytes"]
    return metrics


def main(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="digits, mnist; by default both")
    ] = None,
    images: Annotated[int, typer.Option(help="Images of each variant.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    metrics: dict[str, float] = {"images": images}
    for name in models or ("digits", "mnist"):
        bench = Bench(get_spec(name), images, seed)
        metrics |= {f"{name}_sums_{key}": value for key, value in measure_sums(bench).items()}
        for variant in (Variant(), *variants()):
            began = time.monotonic()
            found = bench.run(variant)
            metrics |= {f"{name}_{variant.name}_{key}": value for key, value in found.items()}
            text = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{name} {variant.name}: {text} ({time.monotonic() - began:.0f} s)", flush=True)
        found = bench.float32()
        metrics |= {f"{name}_float32_{key}": value for key, value in found.items()}
        print(f"{name} float32: {found}", flush=True)
        for scheme, rate in (("classic", 1e-3), ("residue", 1e-2)):
            for interval in (1, 2):
                found = measure_rollback(bench, scheme, rate, interval)
                title = f"{name}_rollback_{scheme}_rate_{rate:.0e}_interval_{interval}"
                print(f"{title}: {found}", flush=True)
                metrics |= {f"{title}_{key}": value for key, value in found.items()}
        # After each, so that a run that is cut short leaves what it has.
        path = write_results("caching", metrics, config=AcceleratorConfig())
    print(path)


if __name__ == "__main__":
    typer.run(main)
