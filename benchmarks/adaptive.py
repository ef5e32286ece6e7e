"""Does the controller hold a quality budget when delays shift in mid-run, and what does it save?

Run ``python benchmarks/adaptive.py`` (minutes; needs ``brownout[bench]``); writes ``build/results/adaptive.json`` and
``adaptive.png``, with ``--timing-model carry`` ``adaptive_carry.*``. The shipped `mnist` model, block Linear layers at
low voltage after two evaluations, `Rollback` with residues of 16 columns, check voltage half way up to 0.85 V.

First the chip is characterised while it is cool: at some voltages, the rate that the checks show and the perceptual
distance to the clean run. From these comes the rate that the budget allows. Then batch after batch of images is
drawn. In the middle of the first one all delays grow by a factor, which nobody tells the programs; in the middle of the
last one they go back:

- ``static``: the voltage that was right for the cool chip;
- ``adaptive``: the controller, which knows nothing but what the checks show;
- ``worst_case``: the voltage that is right for the slowest chip that the controller is prepared for, all the time;
- ``guard_band``: the lowest voltage at which nothing errs even then, without checks;
- ``static_theta``, ``adaptive_theta``: as ``static`` and ``adaptive``, with theta following the rate; the staleness
  that it is chosen for is measured in the clean run (``staleness``);
- ``drift_interval10``, ``drift_interval``: DRIFT at ``--drift-rate`` of the cool chip, with a checkpoint every 10
  evaluations, and with an interval that follows what is rolled back (the voltage stays).

``NAME_distance`` is the perceptual distance to the clean run (``_median``: that of the median image, ``_warm``: of the
batches in between, which are drawn warm from their first evaluation on), ``NAME_energy_j`` all energy,
``NAME_dram_bytes`` traffic, ``NAME_compute_energy_j`` energy of the array and the checks, which is all that the voltage
changes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import matplotlib as mpl
import torch
import typer
from torch import nn

from brownout.cosim.cache import results_root
from brownout.host import (
    Accelerator,
    DelayModel,
    load_classifier,
    load_denoiser,
    offload,
    offloaded_model,
    restore,
    write_results,
)
from brownout.host.device.power.timing import NOMINAL_FREQUENCY_HZ, SAFE_DELAY
from brownout.host.drift.adaptive.controller import RateController, voltage_ladder
from brownout.host.drift.adaptive.estimate import PUBLISHED_CURVE, RateCurve, estimate_rate, measured_curve
from brownout.host.drift.adaptive.policy import AdaptivePolicy
from brownout.host.drift.adaptive.rules import rate_within_budget
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.power_policy import BLOCK_LINEAR_KINDS, PowerPolicy, SelectivePolicy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import GuardBand, PublishedDrift, Rollback, Strategy
from brownout.host.drift.strategies.base import DriftRun
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.sampling import sample
from brownout.host.models.spec import MNIST
from brownout.host.offloading import Calibration
from brownout.host.offloading.execution import ProductCall
from brownout.host.quality.perceptual import perceptual_distance_per_image
from brownout.hw.config import AcceleratorConfig, MemoryConfig

mpl.use("Agg")

CLEAN_EVALUATIONS = 2


@dataclass(frozen=True)
class Plan:
    """What is different between the models of timing errors.

    Attributes
    ----------
    delay_model : DelayModel
        Of the cool chip.
    highest_v, lowest_v, step_v : float
        Candidates.
    characterised_v : tuple of float
        Where the cool chip is characterised, falling.
    factor : float
        Of delays while it is warm.
    worst_factor : float
        What the controller is prepared for.
    """

    delay_model: DelayModel
    highest_v: float
    lowest_v: float
    step_v: float
    characterised_v: tuple[float, ...]
    factor: float
    worst_factor: float


PLANS = {
    "flip": Plan(DelayModel(), 0.8, 0.62, 0.005, (0.68, 0.665, 0.65, 0.64), 1.08, 1.1),
    # Slow elements use up part of the guard band, and the nominal point must be safe in the worst case.
    "carry": Plan(DelayModel(variation=0.01), 0.89, 0.84, 0.0025, (0.86, 0.855, 0.85, 0.845), 1.04, 1.08),
}


class Staleness(Rollback):
    """Measures by how much the sums of block Linear layers change from one evaluation to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.squares, self.sums = 0.0, 0

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        out, valid = run.history(call)
        before = out.double()
        result = super().layer(run, call, point)
        if valid and run.site(call.product).kind in BLOCK_LINEAR_KINDS:
            self.squares += (result.double() - before).square().sum().item()
            self.sums += result.numel()
        return result

    @property
    def rms(self) -> float:
        """Root mean square of the changes."""
        return (self.squares / self.sums) ** 0.5


class Bench:
    """Runs of the same images under different policies.

    Parameters
    ----------
    plan : Plan
    timing_model : str
    batches, images, steps : int
        Batches of a run, images of a batch, and DDIM steps.
    """

    def __init__(self, plan: Plan, timing_model: str, batches: int, images: int, steps: int) -> None:
        self.plan, self.batches, self.images, self.steps = plan, batches, images, steps
        self.strategy = Rollback()
        memory = MemoryConfig(bytes_per_cycle=32)
        self.base = AcceleratorConfig(rows=32, cols=32, timing_model=timing_model, memory=memory)
        self.config = self.strategy.hardware(self.base)
        self.model: nn.Module = load_denoiser(MNIST.name)
        self.calibration: Calibration = calibration_run(MNIST)
        self.classifier = load_classifier(MNIST.name)
        self.warm = steps // 2, (batches - 1) * steps + steps // 2
        self.reference: torch.Tensor | None = None
        self.detail: dict[str, Any] = {}

    def factor(self, evaluation: int) -> float:
        """Delays over those of the cool chip, in an evaluation, counted over all batches."""
        return self.plan.factor if self.warm[0] <= evaluation < self.warm[1] else 1.0

    def run(self, name: str, strategy: Strategy, policy: PowerPolicy, *, shifts: bool = True) -> dict[str, float]:
        """Draw the images under a policy; figures by their names, without the policy's."""
        plan = self.plan
        # Nothing errs in the guard band, on the same chip as rollback.
        config = self.config if isinstance(strategy, GuardBand) else strategy.hardware(self.base)
        labels = torch.arange(self.images) % MNIST.num_classes
        with Accelerator(config, backend="twin", delay_model=plan.delay_model) as accelerator:

            def warm(step: int, timestep: int, latents: torch.Tensor) -> None:
                done = batch * self.steps + step
                factor = self.factor(done + 1)
                if shifts and factor != self.factor(done):
                    accelerator.set_delay_model(dataclasses.replace(plan.delay_model, delay_factor=factor))

            offload(self.model, accelerator, calibration=self.calibration)
            try:
                parts = []
                with protect(self.model, strategy, policy) as execution:
                    for batch in range(self.batches):
                        offloaded_model(self.model).begin_run()
                        execution.seed = batch
                        parts.append(
                            sample(self.model, MNIST, labels, seed=batch, num_inference_steps=self.steps, callback=warm)
                        )
            finally:
                restore(self.model)
            stats = accelerator.stats
        images = torch.cat(parts)
        if self.reference is None:
            self.reference = images
        distances = perceptual_distance_per_image(images, self.reference, self.classifier)
        found = {
            "distance": distances.mean().item(),
            "distance_median": distances.median().item(),
            "distance_warm": distances.view(self.batches, -1)[1:-1].mean().item(),
            "energy_j": stats["energy_j"],
            "compute_energy_j": stats["energy_mac_j"] + stats["energy_check_j"],
            "time_s": stats["time_s"],
            "dram_bytes": stats["dram_bytes"],
            "transition_cycles": stats.get("transition_cycles", 0),
            **{key: stats[key] for key in ("checks", "detected", "corrected", "suppressed", "missed", "wrong")},
        }
        self.detail[name] = found
        print(f"{name:16}", *(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
        return found

    def policy(self, point: OperatingPoint) -> SelectivePolicy:
        """Block Linear layers at a point after the first evaluations."""
        return SelectivePolicy(low=point, first=CLEAN_EVALUATIONS, kinds=BLOCK_LINEAR_KINDS)

    def at(self, voltage_v: float) -> OperatingPoint:
        """The candidate of a voltage."""
        return voltage_ladder(voltage_v, voltage_v)[0]


def characterise(bench: Bench, timing_model: str) -> tuple[RateCurve, list[float], list[float]]:
    """Errors over delay, and rates and distances of the cool chip."""
    delay_model, config = bench.plan.delay_model, bench.config
    delays, rates, distances = [], [], []
    for voltage in bench.plan.characterised_v:
        point = bench.at(voltage)
        found = bench.run(f"{voltage:g} V", bench.strategy, bench.policy(point), shifts=False)
        assert point.check_voltage_v is not None
        check_rate = 0.0
        if timing_model == "flip":
            check_rate = delay_model.error_rate(point.check_voltage_v, NOMINAL_FREQUENCY_HZ)
        # The widths of these layers are multiples of 16.
        checks = {16: found["checks"]}
        rates.append(estimate_rate(config, checks, found["detected"], check_rate=check_rate).value)
        delays.append(delay_model.relative_delay(voltage, NOMINAL_FREQUENCY_HZ))
        distances.append(found["distance"])
    # No image is worse than it looks: a distance of 0 would have no logarithm.
    distances = [max(distance, 1e-9) for distance in distances]
    return PUBLISHED_CURVE if timing_model == "flip" else measured_curve(delays, rates), rates, distances


def lowest(bench: Bench, allowed: Callable[[float], bool]) -> float:
    """Lowest voltage in steps of the ladder whose relative delay is allowed."""
    plan = bench.plan
    count = round((0.9 - plan.lowest_v) / plan.step_v)
    voltages = [round(plan.lowest_v + index * plan.step_v, 6) for index in range(count + 1)]
    return next(v for v in voltages if allowed(plan.delay_model.relative_delay(v, NOMINAL_FREQUENCY_HZ)))


def one_voltage(bench: Bench, config: AcceleratorConfig, point: OperatingPoint, curve: RateCurve) -> RateController:
    """A controller that observes, and has nothing to choose from."""
    worst = bench.plan.worst_factor
    limit = 1.0
    return RateController(
        config, bench.plan.delay_model, [point], limit / 2, hard_limit=limit, worst_factor=worst, curve=curve
    )


def with_checkpoints(bench: Bench, rate: float, curve: RateCurve) -> dict[str, dict[str, float]]:
    """DRIFT with a fixed interval between checkpoints, and with one that follows; both at the same voltage."""
    largest = curve.largest_delay(rate)
    voltage = lowest(bench, lambda delay: delay <= largest)
    point = OperatingPoint(voltage_v=voltage)
    fixed = PublishedDrift()
    cool = bench.run("drift_cool", fixed, bench.policy(point), shifts=False)
    results = {"drift_interval10": bench.run("drift_interval10", fixed, bench.policy(point))}
    strategy = PublishedDrift()
    config = strategy.hardware(bench.base)
    assert config.checksum is not None
    controller = one_voltage(bench, config, point, curve)
    # The widths of these layers are multiples of a tile's.
    share = cool["suppressed"] / (cool["checks"] * config.checksum.segment_cols)
    policy = AdaptivePolicy(bench.policy(point), controller, design_share=share)
    results["drift_interval"] = bench.run("drift_interval", strategy, policy)
    print("intervals", policy.intervals, flush=True)
    return results


def plot(bench: Bench, controller: RateController, static_v: float, worst_v: float, path: str) -> None:
    """Voltage and rates over evaluations."""
    from matplotlib import pyplot as plt

    records, curve, plan = controller.records, controller.estimator.curve, bench.plan
    steps = [each.evaluation for each in records]
    estimated = [each.rate for each in records]

    def true_rate(voltage_v: float, step: int) -> float:
        return curve.rate(bench.factor(step) * plan.delay_model.relative_delay(voltage_v, NOMINAL_FREQUENCY_HZ))

    figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(8, 6), layout="constrained")
    upper.step(steps, [each.voltage_v for each in records], where="mid", label="adaptive")
    upper.axhline(static_v, color="tab:red", linestyle="--", label="static")
    upper.axhline(worst_v, color="tab:gray", linestyle="--", label="static for the worst case")
    upper.set_ylabel("voltage of low products, V")
    lower.semilogy(steps, [rate or float("nan") for rate in estimated], "o", label="estimated after the evaluation")
    lower.step(steps, [true_rate(r.voltage_v, r.evaluation) for r in records], where="mid", label="adaptive, true")
    lower.step(steps, [true_rate(static_v, s) for s in steps], where="mid", color="tab:red", label="static, true")
    lower.axhline(controller.target_rate, color="black", linewidth=0.8, label="target")
    lower.set_ylabel("errors per output")
    lower.set_xlabel("evaluation")
    for axes in (upper, lower):
        axes.axvspan(bench.warm[0] - 0.5, bench.warm[1] - 0.5, color="tab:orange", alpha=0.15)
        axes.legend(fontsize="small")
    figure.suptitle(f"delays x {plan.factor:g} in the shaded evaluations")
    figure.savefig(path, dpi=120)


def main(
    timing_model: Annotated[str, typer.Option(help="flip or carry")] = "flip",
    batches: Annotated[int, typer.Option(help="batches of a run", min=3)] = 3,
    images: Annotated[int, typer.Option(help="images of a batch")] = 24,
    steps: Annotated[int, typer.Option(help="DDIM steps")] = 15,
    budget: Annotated[float, typer.Option(help="perceptual distance to the clean run that is allowed")] = 0.012,
    drift_rate: Annotated[float, typer.Option(help="errors per output of DRIFT on the cool chip")] = 3e-3,
) -> None:
    """Measure, print and write the results."""
    plan = PLANS[timing_model]
    bench = Bench(plan, timing_model, batches, images, steps)
    staleness = Staleness()
    bench.run("clean", staleness, lambda site: OperatingPoint(), shifts=False)
    curve, rates, distances = characterise(bench, timing_model)
    target = rate_within_budget(rates, distances, budget)
    largest = curve.largest_delay(target)
    static_v = lowest(bench, lambda delay: delay <= largest)
    worst_v = lowest(bench, lambda delay: delay * plan.worst_factor <= largest)
    slowest = 1.0
    if timing_model == "carry":
        slowest = float(torch.tensor(3 * plan.delay_model.variation).exp())
    guard_v = lowest(bench, lambda delay: delay * plan.worst_factor * slowest <= SAFE_DELAY)
    print(f"target rate {target:.3g}: {static_v:g} V, {worst_v:g} V, {guard_v:g} V", flush=True)

    def new_controller() -> RateController:
        ladder = voltage_ladder(plan.lowest_v, plan.highest_v, step_v=plan.step_v)
        return RateController(
            bench.config, plan.delay_model, ladder, target, worst_factor=plan.worst_factor, curve=curve
        )

    controller = new_controller()
    adaptive = AdaptivePolicy(bench.policy(controller.candidate), controller)
    results = {
        "static": bench.run("static", bench.strategy, bench.policy(bench.at(static_v))),
        "adaptive": bench.run("adaptive", bench.strategy, adaptive),
        "worst_case": bench.run("worst_case", bench.strategy, bench.policy(bench.at(worst_v))),
        "guard_band": bench.run(
            "guard_band", GuardBand(OperatingPoint(voltage_v=guard_v)), bench.policy(OperatingPoint())
        ),
    }
    following = new_controller()
    theta = AdaptivePolicy(bench.policy(following.candidate), following, staleness=staleness.rms)
    results["adaptive_theta"] = bench.run("adaptive_theta", Rollback(), theta)
    one = one_voltage(bench, bench.config, bench.at(static_v), curve)
    theta = AdaptivePolicy(bench.policy(bench.at(static_v)), one, staleness=staleness.rms)
    results["static_theta"] = bench.run("static_theta", Rollback(), theta)
    results |= with_checkpoints(bench, drift_rate, curve)
    metrics: dict[str, float] = {
        "budget": budget,
        "target_rate": target,
        "static_v": static_v,
        "worst_case_v": worst_v,
        "guard_band_v": guard_v,
        "staleness": staleness.rms,
        "emergencies": sum(each.emergency for each in controller.records),
        "evaluations_above_target": sum(
            curve.rate(bench.factor(each.evaluation) * controller.estimator.delay(bench.at(each.voltage_v))) > target
            for each in controller.records
            if each.checks
        ),
    }
    for name, found in results.items():
        metrics |= {
            f"{name}_{key}": found[key]
            for key in (
                "distance",
                "distance_warm",
                "distance_median",
                "energy_j",
                "compute_energy_j",
                "time_s",
                "dram_bytes",
            )
        }
    name = "adaptive" if timing_model == "flip" else f"adaptive_{timing_model}"
    config = {
        "timing_model": timing_model,
        "batches": batches,
        "images": images,
        "steps": steps,
        "plan": dataclasses.asdict(plan),
        "accelerator": bench.config.to_dict(),
        "characterised": {"rates": rates, "distances": distances},
        "records": [dataclasses.asdict(each) for each in controller.records],
        "runs": bench.detail,
    }
    path = write_results(name, metrics, config=config)
    plot(bench, controller, static_v, worst_v, str(results_root() / "results" / f"{name}.png"))
    print(json.dumps(metrics, indent=2))
    print(path)


if __name__ == "__main__":
    typer.run(main)
