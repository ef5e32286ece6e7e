"""What do undervolting and overclocking save, by the published cost model and by our own count?

Run ``python benchmarks/drift_costs.py``; writes ``build/results/drift_costs.json``. No image is made: quality decides
which error rate is allowed, and everything here is a function of that rate. Conventions are in docs/drift.md.

- ``paper_model_*``: the published arithmetic on the three published architectures, without check energy;
  ``paper_gap_*``: that minus what is published. ``paper_checked_*``: with check energy.
- ``drift_*_avg``: DRIFT at its published rate, with its checks priced like rollback.
- ``ours_saving_SCHEME_at_RATE``, ``ours_speedup_at_RATE``: our schemes under the same model; ``rate_for_*``: the error
  rate from which on a target is met.
- ``conventions_*``: what of the difference between DRIFT and rollback is protection, and what is how each is counted
  (nominal evaluations, traffic of going back, energy of checks): DRIFT under our conventions, rollback under DRIFT's.
- ``whole_*``: whole models on `SERVER`, by running strategy and policy on the exact cycle model, with all bytes of
  accelerator and host: savings of energy, speed, joules of an image; ``whole_saving_TECHNOLOGY`` in each of
  `TECHNOLOGIES`, ``whole_saving_delay_*`` at the voltage that has the rate by each curve of delay, and by policy and by
  strategy beside it.
- ``map_*``: single products over arithmetic intensity; all points are in ``config.map``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from statistics import mean
from typing import Annotated, Any

import typer
from drift_quality import VARIANTS, Variant
from tqdm import tqdm

from brownout.host import DelayModel, write_results
from brownout.host.device.power.technologies import TECHNOLOGIES
from brownout.host.device.product.operands import GemmShape
from brownout.host.drift.accounting.costs import (
    DRIFT,
    NONE,
    ROLLBACK_SCHEMES,
    Scheme,
    best_saving,
    saving_at_rate,
    speedup_at_rate,
)
from brownout.host.drift.accounting.executed import ImageCost, nominal_image, protected_image
from brownout.host.drift.accounting.intensity import IntensityPoint, saving_over_intensity, square_array
from brownout.host.drift.accounting.published import (
    CHECK_ENERGY,
    ERROR_RATE,
    PUBLISHED,
    TILE,
    published_saving,
    published_voltage_v,
)
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.strategies import PublishedDrift
from brownout.host.drift.strategies.checksums import classic
from brownout.host.workload.trace import Workload
from brownout.hw.config import AcceleratorConfig
from brownout.hw.configurations import SERVER
from denoisers.published import DENOISERS

PAIRS_RATE = 2.75e-2
"""At which S16 with double errors located keeps quality with block Linears low, by benchmarks/drift.py."""

RATES = (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 4.6e-2)
"""The last one ends the published table."""

SAVING_TARGETS, SPEEDUP_TARGETS = (0.38, 0.43), (1.85, 2.0)

SCHEME = "residue x1 S32 V0"
"""The cheapest of rollback: for measured images."""

CLASSIC_NETLIST = 0.100
"""Check energy of `CLASSIC_32` by netlists, its rows of digits among it: ``energy_overhead`` of benchmarks/abft.py."""

MODELS = {"dit": "dit_xl_2_512", "pixart": "pixart_alpha_512", "sd15": "sd_1_5"}
"""Published architecture, and what is counted for it."""

WHOLE_VARIANT, WHOLE_RATE = "everything_s16p_v25_a10", 2e-2
"""Of whole models: everything low but adaptive norms, attention at a tenth of the rate of layers, which is the one that
benchmarks/drift.py finds."""

BESIDE = ("drift", "drift_e0", "ours_s16p_v25_e0", "layers_s16p_v25", "everything_s16p_v25")
"""Priced for comparison: DRIFT at its own rate, also with as many nominal evaluations as rollback, and rollback with
block Linears low, with all layers low, and with attention as low as they."""

DELAYS = {
    "table": DelayModel(),
    "alpha_power": DelayModel(delay="alpha-power"),
    "transistors": DelayModel(delay="transistors"),
}
"""Delay over voltage: what the published table says, what a law fitted to it says, what transistors do."""

SETTLED = 4

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
    tiles = classic(TILE)
    digits = tiles.digits / tiles.group_rows
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


def conventions(scheme: Scheme, rate: float) -> dict[str, float]:
    """DRIFT and a scheme at a rate, each as counted by itself and as counted by the other.

    From DRIFT as published one thing after the other becomes ours: one nominal evaluation, no traffic of going back,
    checks by netlists, which are conventions; then the checks themselves, and the rate.
    """
    ours = {name: replace(model, nominal_steps=(0,)) for name, model in PUBLISHED.items()}
    by_netlist = replace(DRIFT, energy=CLASSIC_NETLIST, memory=1.0)
    steps = {
        "published": saving_at_rate(DRIFT, ERROR_RATE),
        "nominal": saving_at_rate(DRIFT, ERROR_RATE, models=ours),
        "memory": saving_at_rate(replace(DRIFT, memory=1.0), ERROR_RATE, models=ours),
        "netlist": saving_at_rate(by_netlist, ERROR_RATE, models=ours),
        "checks": saving_at_rate(scheme, ERROR_RATE, models=ours),
        "rate": saving_at_rate(scheme, rate, models=ours),
    }
    metrics = {f"conventions_then_{name}_avg": point.average for name, point in steps.items()}
    # Rollback as DRIFT would count it: two nominal evaluations, its traffic, checks at 1 / B a row check (half of 2/B).
    theirs = replace(scheme, energy=1 / int(scheme.name.split(" S")[1].split()[0]), memory=None)
    counted_by_drift = saving_at_rate(theirs, rate).average
    return {
        **metrics,
        "conventions_drift_as_ours_avg": steps["netlist"].average,
        "conventions_ours_as_drift_avg": counted_by_drift,
        "conventions_gain": steps["netlist"].average - steps["published"].average,
        "conventions_protection_gain": steps["rate"].average - steps["netlist"].average,
        "conventions_protection_gain_as_drift": counted_by_drift - steps["published"].average,
    }


def priced(
    workload: Workload,
    variant: Variant,
    rate: float,
    steps: int,
    *,
    delay: DelayModel | None = None,
    config: AcceleratorConfig = SERVER,
    **options: Any,
) -> ImageCost:
    """An image of a variant at the lowest voltage with an error rate, by a curve of delay."""
    law = DELAYS["table"] if delay is None else delay
    low = variant.low(law.voltage_at_rate(rate))
    # From the third evaluation on, rollback does the same in each; checkpoints come every so many.
    strategy = variant.make()
    period = strategy.interval if isinstance(strategy, PublishedDrift) else 1
    return protected_image(
        *(config, workload, strategy, variant.policy(low, law=law)),
        **{"steps": steps, "settled": SETTLED - 1 + period, "period": period, "delay_model": law, **options},
    )


def whole_saving(variant_name: str, rate: float) -> float:
    """Mean saving of whole models in the reference technology."""
    savings = []
    for key, name in MODELS.items():
        workload, steps = DENOISERS[name].workload(), PUBLISHED[key].steps
        cost = priced(workload, VARIANTS[variant_name], rate, steps)
        savings.append(1 - cost.energy_j / nominal_image(SERVER, workload, steps=steps).energy_j)
    return mean(savings)


def whole(variant_name: str, rate: float, *, only: Collection[str] = tuple(MODELS)) -> dict[str, float]:
    """Whole models with a variant of `drift_quality.VARIANTS` at a rate, in every technology, and DRIFT beside it.

    Names end with the model, ``_avg`` is the mean over models.
    """
    variant, metrics = VARIANTS[variant_name], dict[str, float]()
    law = DelayModel()
    fast = OperatingPoint(frequency_hz=law.frequency_at_rate(rate))
    safe = OperatingPoint(frequency_hz=law.frequency_at_rate(0))
    for key in tqdm(only, desc="whole models", unit="model", leave=False):
        workload, steps = DENOISERS[MODELS[key]].workload(), PUBLISHED[key].steps
        metrics[f"macs_{key}"] = workload.macs
        for name, technology in TECHNOLOGIES.items():
            plain = nominal_image(SERVER, workload, steps=steps, energy_model=technology)
            low = priced(workload, variant, rate, steps, energy_model=technology)
            metrics[f"whole_saving_{name}_{key}"] = 1 - low.energy_j / plain.energy_j
            if name != "reference":
                continue
            quick = protected_image(
                *(SERVER, workload, variant.make(), variant.policy(fast, safe)), steps=steps, settled=SETTLED
            )
            metrics |= {
                f"whole_saving_{key}": 1 - low.energy_j / plain.energy_j,
                f"whole_speedup_{key}": plain.time_s / quick.time_s,
                f"joule_per_image_{key}": low.energy_j,
                f"nominal_joule_per_image_{key}": plain.energy_j,
                f"nominal_step_ms_{key}": 1e3 * plain.time_s / steps,
                f"dram_gb_per_step_{key}": 1e-9 * plain.dram_bytes / steps,
                f"host_gb_per_step_{key}": 1e-9 * plain.interface_bytes / steps,
            }
            metrics |= {f"nominal_{part}_j_{key}": joules for part, joules in plain.parts_j.items()}
            metrics |= {f"protected_{part}_j_{key}": joules for part, joules in low.parts_j.items()}
            for curve, delay in DELAYS.items():
                metrics[f"whole_voltage_v_delay_{curve}"] = delay.voltage_at_rate(rate)
                cost = low if curve == "table" else priced(workload, variant, rate, steps, delay=delay)
                metrics[f"whole_saving_delay_{curve}_{key}"] = 1 - cost.energy_j / plain.energy_j
            for other in BESIDE:
                at = ERROR_RATE if other.startswith("drift") else rate
                cost = priced(workload, VARIANTS[other], at, steps)
                metrics[f"whole_saving_{other}_{key}"] = 1 - cost.energy_j / plain.energy_j
    for stem in {name.removesuffix(f"_{key}") for key in only for name in metrics if name.endswith(f"_{key}")}:
        if "saving" in stem or "speedup" in stem:
            metrics[f"{stem}_avg"] = mean(metrics[f"{stem}_{key}"] for key in only)
    return metrics


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
    variant: Annotated[str, typer.Option(help="of drift_quality.VARIANTS, for whole models")] = WHOLE_VARIANT,
    rate: Annotated[float, typer.Option(help="errors per output, for whole models")] = WHOLE_RATE,
) -> None:
    """Compute, count, print and write the results."""
    metrics: dict[str, float] = {**paper(), **baselines(), **rollback()}
    metrics |= conventions(ROLLBACK_SCHEMES["residue x1 S16 V0.25"], PAIRS_RATE)
    metrics |= whole(variant, rate, only=only or tuple(MODELS))
    found, points = intensity_map()
    metrics |= found
    config = {
        "server": SERVER.to_dict(),
        "schemes": {name: asdict(scheme) for name, scheme in ROLLBACK_SCHEMES.items()},
        "whole": {"variant": variant, "rate": rate},
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
