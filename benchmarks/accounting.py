"""Is what is priced from shapes what a model takes that runs with errors?

Run ``python benchmarks/accounting.py``; writes ``build/results/accounting.json``. The shipped models draw images on the
twin, with real errors and with a strategy, a policy and an accelerator; `protected_image` prices the same from shapes.
Each case runs with several seeds of errors.

``priced_over_executed_error_MODEL_CASE`` is the largest deviation of an energy, a time, or a count of bytes, cycles and
products: of the priced one from the mean of the executed ones, over that, for what is a thousandth of the whole or more
(energies: of all energy). ``beyond_interval_*`` is by how much of it the priced one lies outside the 95 % interval of
that mean. ``priced_over_executed_max_error`` is the largest of all, ``priced_over_executed_max_error_of_costs`` that of
energies, times, bytes, cycles and commands alone: how many elements are uncorrectable varies from run to run, and is
priced by whole segments, of which narrow products have fewer than their area says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Annotated

import torch
import typer
from drift_quality import VARIANTS, Variant

from brownout.host import Accelerator, DelayModel, load_denoiser, offload, restore, sample
from brownout.host.device.power.energy import PARTS
from brownout.host.drift.accounting.executed import ImageCost, protected_image
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import Rollback
from brownout.host.models.evaluate import calibration_run
from brownout.host.models.sampling import initial_latents
from brownout.host.models.spec import ModelSpec, get_spec
from brownout.host.quality.paired import student_t_quantile
from brownout.host.storage.results import write_results
from brownout.host.workload.trace import Workload, trace_workload
from brownout.hw.config import AcceleratorConfig, MemoryConfig

IMAGES, TRANSITION_S = 10, 10e-6

REPEATED = Variant(lambda: Rollback(VARIANTS["everything_s16p_v25"].make().checksum), 0.25, (0,), "everything")
"""Everything low, products of attention repeated where something is uncorrectable."""

CASES: dict[str, tuple[Variant, float]] = {
    "layers": (VARIANTS["layers_s16p_v25"], 2e-2),
    "everything": (VARIANTS["everything_s16p_v25"], 2.75e-2),
    "repeated": (REPEATED, 2e-2),
    "block_linears": (VARIANTS["ours_s16p_v25_e0"], 2.75e-2),
    "drift": (VARIANTS["drift"], 3e-3),
    "zeroing": (VARIANTS["zeroing"], 3e-3),
    "drop": (VARIANTS["drop"], 1e-2),
    "unprotected": (VARIANTS["unprotected"], 1e-2),
}

COUNTED = (
    *("cycles", "busy_cycles", "commands", "macs", "dram_bytes", "interface_bytes", "host_bytes"),
    *("checks", "detected", "corrected", "suppressed", "injected", "dropped", "recomputed_rows", "moves", "clean"),
)
"""Counters that are compared, as far as there are such: those of errors depend on sums only by chance."""

OF_ERRORS = {"detected", "corrected", "suppressed", "injected", "dropped", "recomputed_rows"}
"""What is counted of errors, and costs nothing by itself."""

NEGLIGIBLE = 1e-3

ARRAY = AcceleratorConfig(rows=32, cols=32, memory=MemoryConfig(bytes_per_cycle=32))


@dataclass(frozen=True)
class Error:
    """Of a figure: deviation of the priced one over the executed mean, and what of it is beyond the interval."""

    deviation: float
    beyond: float


def compare(priced: float, executed: list[float], whole: float) -> Error:
    """Of a figure that is compared with a whole, 0 where it is negligible."""
    center = mean(executed)
    if max(abs(center), abs(priced)) < NEGLIGIBLE * whole or not center:
        return Error(abs(priced - center) / whole if whole else 0.0, 0.0)
    spread = stdev(executed) / math.sqrt(len(executed)) if len(executed) > 1 else 0.0
    interval = student_t_quantile(0.975, max(1, len(executed) - 1)) * spread
    deviation = abs(priced - center)
    return Error(deviation / center, max(0.0, deviation - interval) / center)


def figures(cost: ImageCost) -> dict[str, float]:
    """All that is compared of an image."""
    parts = {f"energy_{part}_j": cost.parts_j[part] for part in PARTS}
    counted = {name: cost.counters[name] for name in COUNTED if name in cost.counters}
    return {"energy_j": cost.energy_j, "time_s": cost.time_s, **parts, **counted}


class Subject:
    """A shipped model that draws images."""

    def __init__(self, name: str, steps: int) -> None:
        self.spec: ModelSpec = get_spec(name)
        self.steps, self.model = steps, load_denoiser(name)
        self.calibration = calibration_run(self.spec)
        self.labels = [image % self.spec.num_classes for image in range(IMAGES)]

    def _evaluation(self, model: Callable[..., object]) -> None:
        latents = initial_latents(self.spec, IMAGES, 0)
        guided = self.spec.guidance_scale != 1
        labels = torch.tensor(self.labels * (2 if guided else 1))
        batch = torch.cat([latents, latents]) if guided else latents
        model(batch, timestep=torch.full((len(batch),), 500), class_labels=labels)

    def workload(self) -> Workload:
        """Products of an evaluation."""
        return trace_workload(self.model, self._evaluation)

    def execute(self, variant: Variant, low: OperatingPoint, seed: int) -> ImageCost:
        """Draw images with the errors of a seed."""
        strategy, found = variant.make(), list[Mapping[str, float]]()
        with Accelerator(strategy.hardware(replace(ARRAY, timing_model="flip")), backend="twin") as accelerator:
            offload(self.model, accelerator, calibration=self.calibration)
            self._evaluation(self.model)  # weights are placed once, whatever is drawn
            NOMINAL.apply(accelerator, seed=seed, transition_s=TRANSITION_S)

            def keep(step: int, timestep: int, latents: torch.Tensor) -> None:
                found.append(dict(accelerator.stats))
                accelerator.reset_stats()

            try:
                with protect(self.model, strategy, variant.policy(low), seed=seed, transition_s=TRANSITION_S):
                    accelerator.reset_stats()
                    sample(self.model, self.spec, self.labels, seed=0, num_inference_steps=self.steps, callback=keep)
            finally:
                restore(self.model)
        return ImageCost.of(found)


def main(
    models: Annotated[str, typer.Option(help="shipped models, comma-separated")] = "digits,mnist",
    steps: Annotated[int, typer.Option(help="evaluations of an image")] = 12,
    seeds: Annotated[int, typer.Option(help="runs of each case, with errors of their own")] = 4,
    cases: Annotated[str, typer.Option(help="comma-separated")] = ",".join(CASES),
) -> None:
    """Run, price, compare, and write the results."""
    torch.set_num_threads(1)
    metrics: dict[str, float] = {"seeds": seeds, "steps": steps}
    worst, of_costs = Error(0.0, 0.0), 0.0
    law = DelayModel()
    for model in models.split(","):
        subject = Subject(model, steps)
        workload = subject.workload()
        for case in cases.split(","):
            variant, rate = CASES[case]
            low = variant.low(law.voltage_at_rate(rate))
            priced = figures(protected_image(ARRAY, workload, variant.make(), variant.policy(low), steps=steps))
            runs = [figures(subject.execute(variant, low, seed)) for seed in range(1, seeds + 1)]
            errors = {
                name: compare(
                    priced[name],
                    [run[name] for run in runs],
                    priced["energy_j"] if name.startswith("energy") else priced[name],
                )
                for name in priced
            }
            name, largest = max(errors.items(), key=lambda item: item[1].deviation)
            beyond = max(error.beyond for error in errors.values())
            metrics[f"priced_over_executed_error_{model}_{case}"] = largest.deviation
            metrics[f"beyond_interval_{model}_{case}"] = beyond
            costs = max(error.deviation for figure, error in errors.items() if figure not in OF_ERRORS)
            of_costs = max(of_costs, costs)
            worst = Error(max(worst.deviation, largest.deviation), max(worst.beyond, beyond))
            print(
                f"{model:8} {case:14} {largest.deviation:.2e} ({name}), of costs {costs:.2e}, beyond {beyond:.2e}",
                flush=True,
            )
    metrics["priced_over_executed_max_error"] = worst.deviation
    metrics["priced_over_executed_max_error_of_costs"] = of_costs
    metrics["beyond_interval_max"] = worst.beyond
    path = write_results("accounting", metrics, config=ARRAY.to_dict())
    print(f"priced_over_executed_max_error {worst.deviation:.3g}\n{path}")


if __name__ == "__main__":
    typer.run(main)
