"""DRIFT reproduced, and rollback beside it: how low, how fast, at which quality, on RTL too.

Run ``python benchmarks/drift.py`` (hours from nothing, and what has been drawn before is kept; ``--images 100
--models digits --no-measured`` for a look); writes ``build/results/drift.json`` and ``drift.html``.

1. Costs (benchmarks/drift_costs.py has all of them): ``paper_model_*``, ``drift_saving_avg``, ``guardband_saving``, and
   with ``--measured`` the ``whole_*`` figures of whole models, executed on the exact cycle model.
2. Quality (benchmarks/drift_quality.py): ``quality_rate_SCHEME_MODEL`` is the largest error rate at which our images
   are no worse than DRIFT's at 3e-3: the one-sided 95 % bound of the mean paired difference of distances is not above
   0. The means of 100 images say where to begin, the bounds of ``--images`` decide from there down. Images take 50
   steps, as published: with fewer, a checkpoint of ten steps ago is worth less, and DRIFT is easier to beat.
3. Both together: ``whole_saving_avg`` is that of the variant with more than block Linears low that saves most of whole
   models, at the largest rate that it keeps quality at on all models; ``headline_gap`` is how much more the published
   ratios promise. ``ours_saving_avg`` is that of the scheme with block Linears low that saves most at the largest rate
   that it keeps quality at on all models, by the published ratios of energies; ``ours_speedup_avg`` likewise, with
   checks at the array's voltage.
   ``quality_rate_ours`` and ``quality_rate_ratio`` are those of the scheme that saves most.
4. RTL: one undervolted, protected run of each model on simulated RTL and on the twin, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import drift_costs
import torch
import typer
from drift_quality import BATCH, VARIANTS, Bench, Store, points_of

from brownout.cosim.cache import results_root
from brownout.host import Accelerator, DelayModel, load_denoiser, offload, restore, sample
from brownout.host.drift.accounting.costs import ROLLBACK_SCHEMES, SchemePoint, saving_at_rate, speedup_at_rate
from brownout.host.drift.accounting.published import ERROR_RATE, PUBLISHED, PublishedModel
from brownout.host.drift.operating_point import GUARD_BAND_V, OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import Rollback
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.spec import get_spec
from brownout.host.quality import PairedBound, paired_bound
from brownout.host.storage.results import write_results
from brownout.hw.config import AcceleratorConfig
from pages.drift import write_page

RATES = (5e-3, 1e-2, 1.25e-2, 1.5e-2, 1.75e-2, 2e-2, 2.25e-2, 2.5e-2, 2.75e-2, 3e-2, 3.5e-2, 4e-2, 4.6e-2)
"""Of the search; the last one ends the published table."""

RTL_LABELS = {"digits": (2, 7), "mnist": (4,)}
RTL_VOLTAGE_V = 0.65


def scheme_of(variant: str) -> str:
    """Name in `costs.ROLLBACK_SCHEMES` of a variant of `drift_quality.VARIANTS`; double errors cost no cycles."""
    _, segment, voltage = variant.removesuffix("_e0").split("_")
    return f"residue x1 S{segment.strip('sp')} V{int(voltage.removeprefix('v')) / 100:g}"


def models_of(variant: str) -> dict[str, PublishedModel]:
    """The published architectures with the nominal steps of a variant."""
    steps = VARIANTS[variant].nominal
    return {
        name: model if steps == (0, 1) else replace(model, nominal_steps=steps) for name, model in PUBLISHED.items()
    }


SEARCHED = ("ours_s16p_v25_e0", "ours_s16p_v0_e0", drift_costs.WHOLE_VARIANT)
"""The scheme that saves most at kept quality and the fastest, with block Linears low as published, and the one for
whole models; the others cost hours."""


@dataclass
class Search:
    """Looks for the largest error rates at which images are no worse than DRIFT's."""

    bench: Bench
    store: Store
    delay_model: DelayModel

    def distances(self, variant: str, rate: float, images: int) -> list[float]:
        """Perceptual distance of each image to the clean one."""
        points = points_of(self.bench, self.store, variant, self.delay_model.voltage_at_rate(rate), images)
        return [x for point in points for x in point["distance"]]

    def differences(self, variant: str, rate: float, images: int) -> PairedBound:
        """Rollback minus DRIFT at its published rate."""
        return paired_bound(self.distances(variant, rate, images), self.distances("drift", ERROR_RATE, images))

    def largest_rate(self, variant: str, images: int) -> float:
        """Largest rate of `RATES` at which images are no worse; 0 if they are worse at the first.

        The mean of a few images says by bisection where to begin, the bound of all of them decides from there down.
        """
        explored, beyond = 0, len(RATES) + 1
        while beyond - explored > 1:
            middle = (explored + beyond) // 2
            if self.differences(variant, RATES[middle - 1], BATCH).mean <= 0:
                explored = middle
            else:
                beyond = middle
        while explored and self.differences(variant, RATES[explored - 1], images).upper > 0:
            explored -= 1
        return RATES[explored - 1] if explored else 0.0


def on_rtl(name: str, metrics: dict[str, float]) -> None:
    """Draw the same images on RTL and on the twin, undervolted with rollback."""
    spec, model = get_spec(name), load_denoiser(name)
    calibration = calibration_run(spec)
    strategy = Rollback()
    config = strategy.hardware(AcceleratorConfig(timing_model="flip"))
    check_v = RTL_VOLTAGE_V + (GUARD_BAND_V - RTL_VOLTAGE_V) / 4
    policy = SelectivePolicy(low=OperatingPoint(voltage_v=RTL_VOLTAGE_V, check_voltage_v=check_v), first=1)
    images, stats = [], []
    for backend in ("twin", "rtl"):
        with Accelerator(config, backend=backend) as accelerator:
            offload(model, accelerator, calibration=calibration)
            try:
                with protect(model, strategy, policy, seed=1):
                    images.append(sample(model, spec, RTL_LABELS[name], seed=0))
                stats.append(dict(accelerator.stats))
            finally:
                restore(model)
    metrics[f"rtl_identical_{name}"] = torch.equal(*images) and stats[0] == stats[1]
    for figure in ("cycles", "injected", "corrected", "suppressed", "energy_j"):
        metrics[f"rtl_{figure}_{name}"] = stats[1][figure]


def report_choice(kind: str, choice: SchemePoint, metrics: dict[str, float]) -> None:
    """Flat figures of the best scheme of one kind."""
    metrics[f"ours_{kind}_avg"] = choice.average
    metrics |= {f"ours_{kind}_{key}": value for key, value in choice.by_model.items()}
    metrics[f"ours_{kind}_rate"] = choice.error_rate
    metrics[f"ours_{kind}_voltage_v"] = choice.voltage_v
    metrics[f"ours_{kind}_frequency_hz"] = choice.frequency_hz


def main(
    images: Annotated[int, typer.Option(help="that confirm a rate, in hundreds")] = 500,
    models: Annotated[str, typer.Option(help="comma-separated")] = "digits,mnist",
    steps: Annotated[int, typer.Option(help="of DDIM; DRIFT's are 50")] = 50,
    variants: Annotated[str, typer.Option(help="of rollback, comma-separated")] = ",".join(SEARCHED),
    measured: Annotated[bool, typer.Option(help="count whole models too (minutes)")] = True,
    rtl: Annotated[bool, typer.Option(help="run on RTL")] = True,
) -> None:
    """Search, count, compare, and write results and report."""
    if images < BATCH or images % BATCH:
        raise typer.BadParameter(f"--images must be a multiple of {BATCH}, not {images}")
    torch.set_num_threads(1)
    metrics: dict[str, float] = {**drift_costs.paper(), **drift_costs.baselines(), "images": images, "steps": steps}
    found: dict[str, float] = {}
    for name in models.split(","):
        bench = Bench(name, "flip", steps)
        store = Store(results_root() / "results" / "drift_quality" / f"{name}_flip_{bench.steps}.jsonl")
        search = Search(bench, store, DelayModel())
        for variant in variants.split(","):
            rate = search.largest_rate(variant, images)
            metrics[f"quality_rate_{variant}_{name}"] = rate
            found[variant] = min(found.get(variant, 1.0), rate)
            print(f"{name} {variant}: no worse than DRIFT up to {rate:g}", flush=True)
    # A scheme of which not even the first rate will do is no choice.
    rates = {variant: rate for variant, rate in found.items() if rate}
    best: dict[str, tuple[str, SchemePoint]] = {}
    wholes: dict[str, float] = {}
    for variant, rate in rates.items():
        if VARIANTS[variant].lowers != "block linears":
            wholes[variant] = rate
            continue
        scheme, priced = ROLLBACK_SCHEMES[scheme_of(variant)], models_of(variant)
        choices = {"saving": saving_at_rate(scheme, rate, models=priced)}
        if not scheme.check_voltage:
            choices["speedup"] = speedup_at_rate(scheme, rate, models=priced)
        for kind, choice in choices.items():
            metrics[f"{kind}_avg_{variant}"] = choice.average
            if kind not in best or choice.average > best[kind][1].average:
                best[kind] = variant, choice
    for kind, (_, choice) in best.items():
        report_choice(kind, choice, metrics)
    if "saving" in best:
        metrics["quality_rate_ours"] = best["saving"][1].error_rate
        metrics["quality_rate_ratio"] = best["saving"][1].error_rate / ERROR_RATE
        metrics |= drift_costs.conventions(best["saving"][1].scheme, best["saving"][1].error_rate)
    chosen = None
    if measured and wholes:
        chosen = max(wholes, key=lambda variant: drift_costs.whole_saving(variant, wholes[variant]))
        metrics |= drift_costs.whole(chosen, wholes[chosen])
        metrics["whole_rate"] = wholes[chosen]
        if "saving" in best:
            metrics["headline_gap"] = metrics["ours_saving_avg"] - metrics["whole_saving_avg"]
    if rtl:
        for name in models.split(","):
            on_rtl(name, metrics)
            print(f"{name} on RTL: identical {metrics[f'rtl_identical_{name}']}", flush=True)
    settings = {
        "models": models.split(","),
        "search_rates": list(RATES),
        "rates": rates,
        **{f"{kind}_scheme": variant for kind, (variant, _) in best.items()},
        **({"whole_variant": chosen} if chosen else {}),
        "array": replace(Bench.BASE, timing_model="flip").to_dict(),
    }
    path = write_results("drift", metrics, config=settings)
    page = write_page(path.parent)
    for figure in (
        "whole_saving_avg",
        "whole_speedup_avg",
        "joule_per_image_dit",
        "paper_model_mean",
        "drift_saving_avg",
        "ours_saving_avg",
        "ours_speedup_avg",
        "quality_rate_ratio",
    ):
        if figure in metrics:
            print(f"{figure} {metrics[figure]:.4g}")
    print(f"{path}\n{page}")


if __name__ == "__main__":
    typer.run(main)
