"""What do undervolting and overclocking save, by the published cost model and by our own count?

Run ``python benchmarks/drift_costs.py``; writes ``build/results/drift_costs.json``. No image is made: quality decides
which error rate is allowed, and everything here is a function of that rate. Conventions are in docs/drift.md.

- ``paper_model_*``: the published arithmetic on the three published architectures, without check energy;
  ``paper_gap_*``: that minus what is published. ``paper_checked_*``: with check energy.
- ``drift_*_avg``: DRIFT at its published rate, with its checks priced like rollback.
- ``ours_saving_SCHEME_at_RATE``, ``ours_speedup_at_RATE``: our schemes under the same model; ``rate_for_*``: the error
  rate from which on a target is met.
- ``measured_*``: whole models on `SERVER`, all traffic counted; ``_int8`` with requantised outputs of Linear and
  Conv2d, ``_int8_layers`` also without the products of attention, ``_netlist`` with the check energy of the netlists
  instead of the `EnergyModel`'s.
- ``map_*``: single products over arithmetic intensity; all points are in ``config.map``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import mean
from typing import Annotated, Any

import typer
from tqdm import tqdm

from brownout.host import DelayModel, write_results
from brownout.host.device.power.energy import EnergyModel, check_column_share
from brownout.host.device.product.operands import GemmShape
from brownout.host.drift.accounting.costs import (
    CHECK_SHARES,
    DRIFT,
    NONE,
    ROLLBACK_SCHEMES,
    Scheme,
    best_saving,
    saving_at_rate,
    speedup_at_rate,
)
from brownout.host.drift.accounting.intensity import IntensityPoint, saving_over_intensity, square_array
from brownout.host.drift.accounting.measured import CHECKPOINTING, CLASSIC_32, RESIDUE_32, Cost, ImageCounter
from brownout.host.drift.accounting.published import (
    CHECK_ENERGY,
    ERROR_RATE,
    PUBLISHED,
    PublishedModel,
    published_saving,
    published_voltage_v,
)
from brownout.hw.configurations import SERVER
from denoisers.published import DENOISERS

RATES = (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 4.6e-2)
"""The last one ends the published table."""

MEASURED_RATES = (3e-3, 1e-2, 3e-2)

SAVING_TARGETS, SPEEDUP_TARGETS = (0.38, 0.43), (1.85, 2.0)

SCHEME = "residue x1 S32 V0"
"""The cheapest of rollback: for measured images."""

CLASSIC_NETLIST = 0.100
"""Check energy of `CLASSIC_32` by netlists, its rows of digits among it: ``energy_overhead`` of benchmarks/abft.py."""

MODELS = {"dit": "dit_xl_2_512", "pixart": "pixart_alpha_512", "sd15": "sd_1_5"}
"""Published architecture, and what is counted for it."""

LARGE_PIXART = "pixart_alpha_1024"

CHECKPOINT_STEPS = {"dit": 10, "pixart": 8, "sd15": 10}
"""As published."""

WIDTH = 1152
ROWS = (1, 16, 64, 256, 1024)
MAP_SHAPES = (
    *(GemmShape(1, rows, WIDTH, WIDTH) for rows in ROWS),
    GemmShape(1, 1024, 4 * WIDTH, 4 * WIDTH),
    GemmShape(32, 512, 1024, 72),
)
"""Linear layers of DiT-XL/2 from one token to an image, a large one, and queries by keys of attention."""

SIDES, BANDWIDTHS = (8, 16, 32, 64, 128), (4, 16, 64)
MAP_RATE = 1e-2


def paper() -> dict[str, float]:
    """The published model, reproduced."""
    voltage = published_voltage_v()
    metrics = {"paper_voltage_v": voltage}
    plain = {name: published_saving(model, voltage) for name, model in PUBLISHED.items()}
    checked = {name: published_saving(model, voltage, check_energy=CHECK_ENERGY) for name, model in PUBLISHED.items()}
    for name, model in PUBLISHED.items():
        metrics[f"paper_model_{name}"] = plain[name]
        metrics[f"paper_published_{name}"] = model.saving
        metrics[f"paper_gap_{name}"] = plain[name] - model.saving
        metrics[f"paper_checked_{name}"] = checked[name]
        metrics[f"paper_implied_voltage_v_{name}"] = model.implied_voltage_v
    metrics["paper_model_mean"] = mean(plain.values())
    metrics["paper_published_mean"] = mean(model.saving for model in PUBLISHED.values())
    metrics["paper_gap_mean"] = metrics["paper_model_mean"] - metrics["paper_published_mean"]
    metrics["paper_checked_mean"] = mean(checked.values())
    return metrics


def baselines() -> dict[str, float]:
    """DRIFT priced like rollback, and the guard band alone."""
    # Without errors no step has to be nominal.
    free = {name: replace(model, nominal_steps=()) for name, model in PUBLISHED.items()}
    digits = CLASSIC_32.digits / CLASSIC_32.group_rows
    return {
        "drift_saving_avg": saving_at_rate(DRIFT, ERROR_RATE).average,
        "drift_saving_netlist_avg": saving_at_rate(replace(DRIFT, energy=CLASSIC_NETLIST), ERROR_RATE).average,
        "drift_speedup_avg": speedup_at_rate(DRIFT, ERROR_RATE).average,
        "drift_speedup_unpriced_avg": speedup_at_rate(NONE, ERROR_RATE).average,
        "drift_speedup_digits_avg": speedup_at_rate(replace(DRIFT, cycles=digits), ERROR_RATE).average,
        "guardband_saving": saving_at_rate(NONE, 0.0, models=free).average,
        "guardband_speedup": speedup_at_rate(NONE, 0.0, models=free).average,
    }


def _label(scheme: Scheme) -> str:
    return scheme.name.removeprefix("residue x1 ").replace(" ", "_")


def rate_for(value: Callable[[float], float], target: float) -> float | None:
    """Lowest error rate of the published table at which an increasing function reaches a target, by bisection."""
    low, high = 1e-6, RATES[-1]
    if value(high) < target:
        return None
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if value(middle) < target else (low, middle)
    return high


def rollback() -> dict[str, float]:
    """Our schemes over the error rate."""
    metrics: dict[str, float] = {}
    for rate in RATES:
        for scheme in ROLLBACK_SCHEMES.values():
            metrics[f"ours_saving_{_label(scheme)}_at_{rate:g}"] = saving_at_rate(scheme, rate).average
        metrics[f"ours_speedup_at_{rate:g}"] = speedup_at_rate(ROLLBACK_SCHEMES[SCHEME], rate).average
        # What would be left if our way back took as much traffic as the published one.
        heavy = replace(ROLLBACK_SCHEMES[SCHEME], memory=None)
        metrics[f"ours_saving_published_memory_at_{rate:g}"] = saving_at_rate(heavy, rate).average
    for target in SAVING_TARGETS:
        for scheme in ROLLBACK_SCHEMES.values():
            found = rate_for(lambda rate, scheme=scheme: saving_at_rate(scheme, rate).average, target)  # type: ignore[misc]
            if found is not None:
                metrics[f"rate_for_saving_{target:g}_{_label(scheme)}"] = found
    for target in SPEEDUP_TARGETS:
        found = rate_for(lambda rate: speedup_at_rate(ROLLBACK_SCHEMES[SCHEME], rate).average, target)
        if found is not None:
            metrics[f"rate_for_speedup_{target:g}"] = found
    same = best_saving(dict.fromkeys(ROLLBACK_SCHEMES, ERROR_RATE))
    metrics["ours_saving_at_published_rate"] = same.average
    return metrics


def _with_netlist_checks(cost: Cost) -> float:
    """Energy of a `RESIDUE_32` image, its checks weighed by their transistors."""
    share = CHECK_SHARES[RESIDUE_32.segment_cols] / check_column_share(RESIDUE_32)
    return cost.energy_j - cost.parts_j["check"] * (1 - share)


def measured(key: str, denoiser: str, model: PublishedModel, interval: int) -> dict[str, float]:
    """One model, counted: names end with `key`."""
    workload = DENOISERS[denoiser].workload()
    delay_model, energy = DelayModel(), EnergyModel()
    weight_bytes = sum(batch * k * n for batch, k, n in workload.weights.values())
    metrics = {
        "macs": workload.macs,
        "transformer_linear_macs": sum(each.shape.macs for each in workload.products if each.in_transformer),
        # As the paper seems to count: weights are all that is read.
        "weights_compute_ratio": workload.macs * energy.mac_j / (weight_bytes * energy.dram_byte_j),
    }
    # What the accelerator would be asked for if attention were done elsewhere, as in the published experiments.
    layers = replace(workload, products=tuple(each for each in workload.products if each.kind != "attention"))
    variants = (("", workload, False), ("_int8", workload, True), ("_int8_layers", layers, True))
    for suffix, part, requantise in variants:
        counter = ImageCounter.of_published(SERVER, part, model, requantise=requantise)
        plain = counter.plain
        metrics[f"compute_ratio{suffix}"] = plain.parts_j["mac"] / plain.parts_j["dram"]
        metrics[f"dram_bytes{suffix}"] = plain.dram_bytes / model.steps
        metrics[f"time_s{suffix}"], metrics[f"energy_j{suffix}"] = plain.time_s, plain.energy_j
        for rate in MEASURED_RATES:
            low = counter.image(delay_model.voltage_at_rate(rate))
            fast = counter.image(0.9, delay_model.frequency_at_rate(rate))
            metrics |= {
                f"saving{suffix}_at_{rate:g}": 1 - low.energy_j / plain.energy_j,
                f"saving{suffix}_netlist_at_{rate:g}": 1 - _with_netlist_checks(low) / plain.energy_j,
                f"saving{suffix}_published_terms_at_{rate:g}": 1 - low.published_energy_j / plain.published_energy_j,
                f"extra_traffic{suffix}_at_{rate:g}": low.dram_bytes / plain.dram_bytes - 1,
                f"speedup{suffix}_at_{rate:g}": plain.time_s / fast.time_s,
            }
        classic = ImageCounter.of_published(SERVER, part, model, CLASSIC_32, requantise=requantise)
        options: dict[str, Any] = {"protection": CHECKPOINTING, "checkpoint_interval": interval}
        low = classic.image(delay_model.voltage_at_rate(ERROR_RATE), **options)
        fast = classic.image(0.9, delay_model.frequency_at_rate(ERROR_RATE), **options)
        metrics |= {
            f"drift_saving{suffix}": 1 - low.energy_j / plain.energy_j,
            f"drift_saving{suffix}_published_terms": 1 - low.published_energy_j / plain.published_energy_j,
            f"drift_extra_traffic{suffix}": low.dram_bytes / plain.dram_bytes - 1,
            f"drift_speedup{suffix}": plain.time_s / fast.time_s,
        }
    return {f"measured_{name}_{key}": value for name, value in metrics.items()}


def measured_means(metrics: dict[str, float]) -> dict[str, float]:
    """Means over the three published architectures of what is a saving, a speed or a share."""
    means = {}
    first, *others = MODELS
    for name in list(metrics):
        stem = name.removesuffix(f"_{first}")
        if name.startswith("measured_") and stem != name and ("saving" in name or "speedup" in name or "extra" in name):
            means[f"{stem}_avg"] = mean(metrics[f"{stem}_{key}"] for key in (first, *others))
    return means


def intensity_map() -> tuple[dict[str, float], list[IntensityPoint]]:
    """Single products on many accelerators, and what they say."""
    configs = [square_array(side, bandwidth) for side in SIDES for bandwidth in BANDWIDTHS]
    count = len(configs) * len(MAP_SHAPES)
    points = list(
        tqdm(saving_over_intensity(MAP_SHAPES, configs, MAP_RATE), desc="map", unit="product", total=count, leave=False)
    )
    bound = [point for point in points if point.intensity < point.balance]
    free = [point for point in points if point.intensity >= 2 * point.balance]
    return {
        "map_points": len(points),
        "map_least_saving": min(point.saving for point in points),
        "map_most_saving": max(point.saving for point in points),
        "map_no_speedup": sum(point.speedup < 1.05 for point in points),
        "map_speedup_memory_bound_avg": mean(point.speedup for point in bound),
        "map_speedup_array_bound_avg": mean(point.speedup for point in free),
    }, points


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"count {', '.join(MODELS)} only; may be repeated")] = None,
    large: Annotated[bool, typer.Option(help="count PixArt-alpha at 1024 x 1024 too (minutes)")] = False,
) -> None:
    """Compute, count, print and write the results."""
    metrics: dict[str, float] = {**paper(), **baselines(), **rollback()}
    for key in only or MODELS:
        metrics |= measured(key, MODELS[key], PUBLISHED[key], CHECKPOINT_STEPS[key])
        print(f"counted {PUBLISHED[key].title}", flush=True)
    if large:
        metrics |= measured("pixart1024", LARGE_PIXART, PUBLISHED["pixart"], CHECKPOINT_STEPS["pixart"])
    if not only:
        metrics |= measured_means(metrics)
    found, points = intensity_map()
    metrics |= found
    config = {
        "server": SERVER.to_dict(),
        "schemes": {name: asdict(scheme) for name, scheme in ROLLBACK_SCHEMES.items()},
        "map_rate": MAP_RATE,
        "map": [asdict(point) for point in points],
    }
    path = write_results("drift_costs", metrics, config=config)
    for name, value in metrics.items():
        print(f"{name:56} {value:.5g}")
    print(f"{'side':>4} {'B/cycle':>7} {'M':>5} {'N':>5} {'K':>5} {'batch':>5} {'MAC/B':>7} {'busy':>5} saving speed")
    for point in points:
        shape = point.shape
        print(
            f"{point.side:4} {point.bytes_per_cycle:7} {shape.m:5} {shape.n:5} {shape.k:5} {shape.batch:5} "
            f"{point.intensity:7.1f} {point.utilisation:5.2f} {point.saving:6.3f} {point.speedup:5.2f}"
        )
    print(path)


if __name__ == "__main__":
    typer.run(main)
