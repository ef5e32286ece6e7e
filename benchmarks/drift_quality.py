"""Image quality over error rate, for every strategy under identical errors, on the shipped models.

Run ``python benchmarks/drift_quality.py mnist`` (``--rates all``: hours); writes
``build/results/drift_quality_MODEL_TIMING.json``. Each point is one strategy at one voltage of a 32 x 32 array: block
Linear layers err, evaluations 0 and 1 and all other layers are nominal, as DRIFT publishes it; images have the noise of
the clean int8 run. Points are kept in ``build/results/drift_quality/`` as they are done, so a run that was stopped goes
on, and further rates or images cost only themselves.

``--timing flip``: the voltage is the one at which the published table has the rate. ``carry``: the one at which this
share of the outputs of the model's own products errs; ``output_error_rate_*`` is what was measured there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import numpy as np
import torch
import typer

from brownout.cosim.cache import results_root
from brownout.host import Accelerator, DelayModel, load_classifier, load_denoiser, offload, offloaded_model, restore
from brownout.host.drift.operating_point import GUARD_BAND, GUARD_BAND_V, NOMINAL, OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy, published, whole
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import (
    Dmr,
    Drop,
    GuardBand,
    PublishedDrift,
    RangeRestriction,
    RecomputeAbft,
    Rollback,
    Strategy,
    Unprotected,
    ZeroingAbft,
)
from brownout.host.models.data import load_dataset
from brownout.host.models.evaluate import calibration_run, draw
from brownout.host.models.spec import get_spec
from brownout.host.offloading import Outputs
from brownout.host.offloading.execution import Execution, ProductCall
from brownout.host.quality import (
    extract_features,
    frechet_distance,
    mean_squared_error,
    paired_bound,
    perceptual_distance_per_image,
    psnr,
    recognised,
)
from brownout.host.storage.files import digest_of
from brownout.host.storage.results import write_results
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

RATES = (*(digit * 10.0**decade for decade in (-4, -3, -2) for digit in (1, 1.5, 2, 3)), 5e-4, 5e-3, 4.6e-2)
"""1, 1.5, 2, 3, 5 per decade; the last one ends the published table instead."""

FEW_RATES = (1e-3, 3e-3, 1e-2, 3e-2)

CARRY_VOLTAGES = tuple(0.8 + 0.005 * step for step in range(21))
"""At which output error rates of ``carry`` are measured; voltages between them are interpolated."""

REFERENCE_RATE = 3e-3
"""Of DRIFT as published."""

ZEROING_THETA = 14
"""Threshold of zeroing that leaves the least on `digits` at 1e-2; the published one is 10."""

BATCH = 100
SEED = 0
FRECHET_IMAGES = 320
"""Fewer than that give no stable covariance of 64 features."""


@dataclass(frozen=True)
class Variant:
    """A strategy, where the voltage of its checks lies (0 the array's, 1 the guard band's), what is nominal, what low.

    `lowers` is one of ``block linears`` (as published), ``layers`` (attention is at the guard band), ``everything``
    (but adaptive norms) and ``all``, where nothing is at the guard band. With ``everything`` products of attention err
    `attention` times as often as layers do, at a voltage or clock of their own: with nothing to go back to they hurt
    more.
    """

    make: Callable[[], Strategy]
    check_voltage: float = 0.0
    nominal: tuple[int, ...] = (0, 1)
    lowers: str = "block linears"
    attention: float = 1.0

    def low(self, voltage_v: float) -> OperatingPoint:
        """Point of the array at a voltage, with its checks."""
        check_v = voltage_v + self.check_voltage * max(0.0, GUARD_BAND_V - voltage_v)
        return OperatingPoint(voltage_v=voltage_v, check_voltage_v=check_v)

    def policy(
        self, low: OperatingPoint, safe: OperatingPoint = GUARD_BAND, law: DelayModel | None = None
    ) -> SelectivePolicy:
        """Points of all products: the object by which images are drawn, and by which whole models are priced.

        What is not low in ``layers`` and ``everything`` is at `safe`, in evaluations that are not nominal. `law` says
        at which point attention errs as it may; by default the published table.
        """
        if self.lowers == "block linears":
            return published(low, evaluations=self.nominal)
        if self.lowers == "all":
            return SelectivePolicy(low=low, first=len(self.nominal))
        attention = self._for_attention(low, law or DelayModel()) if self.lowers == "everything" else safe
        return whole(low, attention=attention, modulation=safe, first=len(self.nominal))

    def _for_attention(self, low: OperatingPoint, law: DelayModel) -> OperatingPoint:
        """Where products of attention err as often as they may while layers are at `low`."""
        if self.attention == 1:
            return low
        rate = self.attention * law.error_rate(low.voltage_v, low.frequency_hz)
        if low.frequency_hz == NOMINAL.frequency_hz:
            return self.low(law.voltage_at_rate(rate))
        return replace(low, frequency_hz=law.frequency_at_rate(rate, low.voltage_v))


def _residue(segment: int, *, pairs: bool = False) -> ChecksumConfig:
    return ChecksumConfig(scheme="residue", segment_cols=segment, column_checks=False, pairs=pairs)


VARIANTS = {
    "guardband": Variant(GuardBand),
    "unprotected": Variant(Unprotected),
    "drop": Variant(Drop),
    "drop_all": Variant(Drop, nominal=(), lowers="all"),
    "zeroing": Variant(partial(ZeroingAbft, ZEROING_THETA)),
    "recompute": Variant(RecomputeAbft),
    "range_keep": Variant(RangeRestriction),
    "range_zero": Variant(partial(RangeRestriction, "zero")),
    "dmr": Variant(Dmr),
    "drift": Variant(PublishedDrift),
    "drift_e0": Variant(PublishedDrift, nominal=(0,)),
    **{
        f"ours_s{segment}_v{round(100 * voltage)}": Variant(partial(Rollback, _residue(segment)), voltage)
        for segment in (32, 16, 8)
        for voltage in (0.0, 0.25, 0.5)
    },
    "ours_s16_v25_e0": Variant(partial(Rollback, _residue(16)), 0.25, (0,)),
    "ours_s8_v0_e0": Variant(partial(Rollback, _residue(8)), 0.0, (0,)),
    **{
        f"ours_s{segment}p_v{round(100 * voltage)}_e0": Variant(
            partial(Rollback, _residue(segment, pairs=True)), voltage, (0,)
        )
        for segment, voltage in ((32, 0.25), (16, 0.25), (16, 0.0), (8, 0.0))
    },
    **{
        f"{lowers}_s16p_v{round(100 * voltage)}": Variant(
            partial(Rollback, _residue(16, pairs=True), attempts=0), voltage, (0,), lowers
        )
        for lowers in ("layers", "everything")
        for voltage in (0.25, 0.0)
    },
    **{
        f"everything_s16p_v25_a{round(1 / attention)}": Variant(
            partial(Rollback, _residue(16, pairs=True), attempts=0), 0.25, (0,), "everything", attention
        )
        for attention in (1 / 5, 1 / 10, 1 / 20)
    },
}
"""Names of rollback, which begin with ``ours``: columns of a segment, with ``p`` if double errors are located too, and
per cent of the way from the array's voltage to the guard band's; with ``_e0`` only evaluation 0 is nominal, which has
nothing to go back to, and not evaluation 1 as DRIFT has it. ``layers`` and ``everything`` are rollback too, named by
what is low, with ``_a10`` if attention errs a tenth as often."""

BASELINES = ("guardband", "unprotected", "drop", "zeroing", "range_keep", "range_zero", "recompute", "dmr", "drift")
COMPARED = (*BASELINES, "ours_s16_v25_e0", "ours_s16p_v25_e0")
"""Each strategy once, rollback without and with double errors located."""


class Store:
    """Results of points, one JSON document a line; a line that a kill has cut short is computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.points: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    point = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self.points[point["key"]] = point

    def add(self, key: str, point: dict[str, Any]) -> None:
        """Keep a point, on disk before this returns."""
        self.points[key] = {"key": key, **point}
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(self.points[key]))
            file.flush()
            os.fsync(file.fileno())


class Capture(Execution):
    """Keeps operands of block Linear layers, to measure how often their outputs err."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def layer(self, call: ProductCall) -> torch.Tensor:
        if ".to_q" in call.product.name or ".ff.net" in call.product.name:
            weights = call.product.weights
            assert weights is not None
            self.calls.append((call.a[:512].clone(), weights.values[0]))
        return super().layer(call)


class Bench:
    """Draws images of a shipped model with a strategy at a voltage."""

    BASE = AcceleratorConfig(rows=32, cols=32, memory=MemoryConfig(bytes_per_cycle=32))

    def __init__(
        self, name: str, timing: str, steps: int | None, *, attention: bool = False, outputs: Outputs = "int32"
    ) -> None:
        self.attention, self.outputs = attention, outputs
        self.spec = get_spec(name)
        self.timing, self.steps = timing, self.spec.num_inference_steps if steps is None else steps
        self.model, self.classifier = load_denoiser(name), load_classifier(name)
        self.calibration = calibration_run(self.spec)
        self.held_out = extract_features(load_dataset(self.spec.dataset).test_images, self.classifier)
        self.base = replace(self.BASE, timing_model=timing)
        self._clean: dict[tuple[int, bool], torch.Tensor] = {}

    def identity(self, name: str) -> str:
        """Digest of what a point depends on beside its key: hardware, weights, scales, strategy, noise."""
        variant = VARIANTS[name]
        strategy = variant.make()
        facts = {
            "hardware": self.hardware(strategy).to_dict(),
            "strategy": strategy.describe(),
            "variant": [variant.check_voltage, list(variant.nominal)],
            **({} if variant.lowers == "block linears" else {"lowers": variant.lowers}),
            **({} if variant.attention == 1 else {"attention": variant.attention}),
            **({} if self.outputs == "int32" else {"outputs": self.outputs}),
            "noise": [SEED, BATCH],
            "guidance": self.spec.guidance_scale,
            "scales": {layer: each.scales.tolist() for layer, each in self.calibration.layers.items()},
        }
        return digest_of(self.model.state_dict(), facts)[:12]

    def hardware(self, strategy: Strategy) -> AcceleratorConfig:
        """Accelerator for a strategy; with an attention unit, if it is wanted and of use."""
        unit = self.attention and strategy.attention_protection() is not None
        return strategy.hardware(self.with_unit if unit else self.base)

    @property
    def with_unit(self) -> AcceleratorConfig:
        """Accelerator with an attention unit, and room for heads and scores of the shipped models."""
        return replace(self.base, attention=True, block_col_tiles=8, slab_bytes=128)

    def clean(self, batch: int, *, unit: bool = False) -> torch.Tensor:
        """Images of the clean int8 run, of a machine with or without an attention unit."""
        if (batch, unit) not in self._clean:
            config = self.with_unit if unit else self.base
            self._clean[batch, unit] = self._draw(config, Unprotected(), published(NOMINAL), batch)[0]
        return self._clean[batch, unit]

    def _draw(
        self, config: AcceleratorConfig, strategy: Strategy, policy: SelectivePolicy, batch: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        with Accelerator(config, backend="twin") as accelerator:
            offload(self.model, accelerator, calibration=self.calibration, outputs=self.outputs)
            try:
                with protect(self.model, strategy, policy, seed=batch + 1) as run:
                    # Keys of errors begin anew in every batch, so every batch has a seed.
                    images, _ = draw(
                        self.model, self.spec, BATCH, seed=SEED + 7 * batch, num_inference_steps=self.steps
                    )
                    counted = {"moves": run.moves, "clean": run.clean, "recomputed_rows": run.recomputed_rows}
                return images, {**accelerator.stats, **counted}
            finally:
                restore(self.model)

    @cached_property
    def operands(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Operands of block Linear layers of some evaluations."""
        with Accelerator(self.base, backend="twin") as accelerator:
            offload(self.model, accelerator, calibration=self.calibration)
            try:
                capture = offloaded_model(self.model).execution = Capture()
                draw(self.model, self.spec, 10, seed=SEED, num_inference_steps=3)
                return capture.calls
            finally:
                restore(self.model)

    def output_error_rate(self, voltage_v: float) -> float:
        """Share of the outputs of block Linear layers that err at a voltage."""
        with Accelerator(self.base, backend="twin") as accelerator:
            wrong = total = 0
            for a, w in self.operands:
                accelerator.set_operating_point(voltage_v=0.9)
                right = accelerator.gemm(a, w)
                accelerator.set_operating_point(voltage_v=voltage_v)
                wrong += int((accelerator.gemm(a, w) != right).sum())
                total += right.numel()
            return wrong / total

    @cached_property
    def measured_rates(self) -> list[float]:
        """Rates at `CARRY_VOLTAGES`."""
        return [self.output_error_rate(voltage) for voltage in CARRY_VOLTAGES]

    def voltage_at(self, rate: float) -> float:
        """Voltage at which outputs err at a rate: by the published table, or on lines between measured logarithms."""
        if self.timing == "flip":
            return DelayModel().voltage_at_rate(rate)
        measured = [max(found, 1e-9) for found in self.measured_rates]
        if not min(measured) <= rate <= max(measured):
            raise ValueError(f"rate must be in {min(measured):g}..{max(measured):g}, as measured, not {rate!r}")
        # Rates fall as voltages rise.
        return float(np.interp(-math.log(rate), [-math.log(value) for value in measured], CARRY_VOLTAGES))

    def point(self, variant: Variant, voltage_v: float, batch: int) -> dict[str, Any]:
        """Quality and cost of a batch."""
        strategy = variant.make()
        config = self.hardware(strategy)
        images, stats = self._draw(config, strategy, variant.policy(variant.low(voltage_v)), batch)
        clean = self.clean(batch, unit=config.attention)
        labels = torch.arange(BATCH) % self.spec.num_classes
        return {
            "distance": [round(x, 7) for x in perceptual_distance_per_image(images, clean, self.classifier).tolist()],
            "mse": mean_squared_error(images, clean),
            "psnr_db": min(psnr(images, clean), 120.0),
            "recognised": recognised(images, labels, self.classifier).int().tolist(),
            "recognised_clean": recognised(clean, labels, self.classifier).int().tolist(),
            "features": [[round(x, 4) for x in row] for row in extract_features(images, self.classifier).tolist()],
            "stats": stats,
        }


def points_of(bench: Bench, store: Store, name: str, voltage_v: float, images: int) -> Iterator[dict[str, Any]]:
    """Points of all batches of a variant at a voltage, from the store or computed."""
    for batch in range(images // BATCH):
        key = f"{bench.identity(name)} {bench.spec.name} {bench.timing} {bench.steps} {name} {voltage_v:.6f} {batch}"
        if key not in store.points:
            store.add(key, bench.point(VARIANTS[name], voltage_v, batch))
            distances = store.points[key]["distance"]
            print(f"{key}: distance {sum(distances) / len(distances):.4f}", flush=True)
        yield store.points[key]


def summarise(bench: Bench, points: list[dict[str, Any]]) -> dict[str, float]:
    """Flat figures of a variant at a voltage."""
    distances = [x for point in points for x in point["distance"]]
    stats = {name: sum(point["stats"][name] for point in points) for name in points[0]["stats"]}
    mse = sum(point["mse"] for point in points) / len(points)
    recognised_share = [x for point in points for x in point["recognised"]]
    clean_share = [x for point in points for x in point["recognised_clean"]]
    figures = {
        "distance": sum(distances) / len(distances),
        "psnr_db": min(-10 * math.log10(mse), 120.0) if mse else 120.0,
        "agreement": sum(recognised_share) / len(recognised_share),
        "agreement_drop": (sum(clean_share) - sum(recognised_share)) / len(clean_share),
        "energy_j": stats["energy_j"],
        "energy_compute_j": stats["energy_mac_j"] + stats["energy_check_j"],
        "time_s": stats["time_s"],
        "dram_bytes": stats["dram_bytes"],
    }
    if len(distances) >= FRECHET_IMAGES:
        features = torch.tensor([row for point in points for row in point["features"]], dtype=torch.float64)
        figures["frechet"] = frechet_distance(features, bench.held_out)
    return figures


def quality_rates(
    distances: dict[tuple[str, float], list[float]], reference: list[float], rates: list[float]
) -> dict[str, float]:
    """Largest rate of each variant at which, and below which, its images are no worse than the reference's.

    No worse: the one-sided 95 % bound of the mean of paired differences is not above 0. 0 if no rate qualifies.
    """
    found = {}
    for name in dict.fromkeys(variant for variant, _ in distances):
        found[name] = 0.0
        for rate in sorted(rates):
            values = distances.get((name, rate))
            if values is None:
                continue
            count = min(len(values), len(reference))
            if paired_bound(values[:count], reference[:count]).upper > 0:
                break
            found[name] = rate
    return found


def main(
    model: Annotated[str, typer.Argument(help="digits or mnist")] = "mnist",
    timing: Annotated[str, typer.Option(help="flip or carry")] = "flip",
    images: Annotated[int, typer.Option(help="at each point, in hundreds")] = 100,
    steps: Annotated[int | None, typer.Option(help="of DDIM; by default the model's")] = None,
    variants: Annotated[str, typer.Option(help="comma-separated; by default each strategy")] = ",".join(COMPARED),
    rates: Annotated[str, typer.Option(help="comma-separated, or all")] = ",".join(map(str, FEW_RATES)),
    attention: Annotated[bool, typer.Option("--attention", help="with an attention unit, where it is of use")] = False,
    outputs: Annotated[str, typer.Option(help="of layers, as offload has them: int32, int16, int8 or auto")] = "int32",
) -> None:
    """Draw what is missing, and write the figures."""
    if images < BATCH or images % BATCH:
        raise typer.BadParameter(f"--images must be a multiple of {BATCH}, not {images}")
    names = variants.split(",")
    if unknown := sorted(set(names) - set(VARIANTS)):
        raise typer.BadParameter(f"unknown variants {', '.join(unknown)}; choose of {', '.join(VARIANTS)}")
    torch.set_num_threads(1)
    if outputs not in get_args(Outputs):
        raise typer.BadParameter(f"--outputs must be one of {', '.join(get_args(Outputs))}, not {outputs}")
    bench = Bench(model, timing, steps, attention=attention, outputs=cast(Outputs, outputs))
    store = Store(results_root() / "results" / "drift_quality" / f"{model}_{timing}_{bench.steps}.jsonl")
    points = sorted(RATES) if rates == "all" else [float(text) for text in rates.split(",")]
    metrics: dict[str, float] = {"images": images, "steps": bench.steps}
    distances: dict[tuple[str, float], list[float]] = {}
    for rate in points:
        voltage = bench.voltage_at(rate)
        metrics[f"voltage_v_{rate:.3g}"] = voltage
        if timing == "carry":
            metrics[f"output_error_rate_{rate:.3g}"] = bench.output_error_rate(voltage)
        for name in names:
            drawn = list(points_of(bench, store, name, voltage, images))
            distances[name, rate] = [x for point in drawn for x in point["distance"]]
            for figure, value in summarise(bench, drawn).items():
                metrics[f"{figure}_{name}_{rate:.3g}"] = value
    if "drift" in names:
        reference = min(points, key=lambda rate: abs(math.log(rate / REFERENCE_RATE)))
        metrics["reference_rate"] = reference
        for name, rate in quality_rates(distances, distances["drift", reference], points).items():
            metrics[f"quality_rate_{name}"] = rate
            metrics[f"quality_rate_ratio_{name}"] = rate / reference
    settings = {**bench.base.to_dict(), "model": model, "timing": timing, "steps": bench.steps, "variants": names}
    ending = ("_attention" if attention else "") + ("" if outputs == "int32" else f"_{outputs}")
    path = write_results(f"drift_quality_{model}_{timing}{ending}", metrics, config=settings)
    for name, value in metrics.items():
        if name.startswith("quality_rate"):
            print(f"{name} {value:.4g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
