"""What may undervolting save where errors are late carries, which the elements notice themselves?

Run ``python benchmarks/drift_carry.py`` (hours from nothing; points that were drawn before are kept); writes
``build/results/drift_carry.json``. In `carry`, the physical model, a carry that is not settled in time changes the high
bits of a sum: residues hardly locate it, and rollback costs more than it saves. Elements with a Razor flip-flop notice
it and drop the product instead (`Drop`, as in ThUnderVolt), with no checks at all: nothing has to be kept, so no
evaluation is nominal, and nothing is at the guard band, attention included.

1. Quality: the lowest voltage of `VOLTAGES` down to which images, in 50 steps, are no worse than those of DRIFT as
   published with flips at its rate of 3e-3 (one-sided 95 % bound of the paired differences of distances):
   ``carry_voltage_v_VARIANT_MODEL``.
2. Price at the larger of the models' voltages: ``carry_array_saving`` of array and checks alone, Razor in it, without
   losses of a converter; ``whole_saving_avg_carry`` of whole models on `SERVER`, executed as in
   benchmarks/drift_costs.py; ``carry_saving_at_VOLTAGE`` of both for each voltage, whatever its quality.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Annotated

import torch
import typer
from drift_costs import MODELS
from drift_quality import BATCH, REFERENCE_RATE, VARIANTS, Bench, Store, Variant, points_of

from brownout.cosim.cache import results_root
from brownout.host.device.power.energy import EnergyModel
from brownout.host.device.power.regulators import IDEAL
from brownout.host.device.power.technologies import REFERENCE
from brownout.host.drift.accounting.executed import nominal_image, protected_image
from brownout.host.drift.accounting.published import PUBLISHED
from brownout.host.quality import PairedBound, paired_bound
from brownout.host.storage.results import write_results
from brownout.hw.configurations import SERVER
from denoisers.published import DENOISERS

VOLTAGES = (0.86, 0.84, 0.83, 0.82, 0.81, 0.80, 0.785, 0.77, 0.755)
SEARCHED = ("drop_all",)


class Search:
    """Images of a model with late carries, beside those of DRIFT with flips."""

    def __init__(self, model: str, steps: int) -> None:
        root = results_root() / "results" / "drift_quality"
        self.flips, self.carries = Bench(model, "flip", steps), Bench(model, "carry", steps)
        self._of_flips = Store(root / f"{model}_flip_{self.flips.steps}.jsonl")
        self._of_carries = Store(root / f"{model}_carry_{self.carries.steps}.jsonl")

    def reference(self, images: int) -> list[float]:
        """Distances of DRIFT as published."""
        points = points_of(self.flips, self._of_flips, "drift", self.flips.voltage_at(REFERENCE_RATE), images)
        return [x for point in points for x in point["distance"]]

    def difference(self, variant: str, voltage_v: float, images: int) -> tuple[float, PairedBound]:
        """Mean distance, and how much worse than DRIFT."""
        points = points_of(self.carries, self._of_carries, variant, voltage_v, images)
        distances = [x for point in points for x in point["distance"]]
        return mean(distances), paired_bound(distances, self.reference(images))


def lowest(search: Search, variant: str, images: int, metrics: dict[str, float], down_to: float) -> float | None:
    """Lowest voltage down to which images are no worse; None if they are worse at the first.

    Distances are measured down to the first voltage at which they are worse, and to `down_to` at least.
    """
    found, worse = None, False
    for voltage in VOLTAGES:
        if worse and voltage < down_to:
            break
        distance, bound = search.difference(variant, voltage, images)
        metrics[f"carry_distance_{variant}_{search.carries.spec.name}_{voltage:g}"] = distance
        worse = worse or bound.upper > 0
        if not worse:
            found = voltage
    return found


def priced(variant: Variant, voltage_v: float, model: EnergyModel) -> tuple[float, float]:
    """Savings of array with checks, and of whole models: means over the published ones.

    What errors do costs nothing here: a dropped product takes as long as any, so they are not drawn.
    """
    strategy = variant.make()
    assert not strategy.reads_values
    assert strategy.checksum_for(SERVER) is None
    savings = []
    for key, name in MODELS.items():
        workload, steps = DENOISERS[name].workload(), PUBLISHED[key].steps
        plain = nominal_image(SERVER, workload, steps=steps, energy_model=model)
        policy = variant.policy(variant.low(voltage_v))
        cost = protected_image(SERVER, workload, strategy, policy, steps=steps, settled=2, energy_model=model)
        array = [sum(each.parts_j[part] for part in ("mac", "check")) for each in (cost, plain)]
        savings.append((1 - array[0] / array[1], 1 - cost.energy_j / plain.energy_j))
    array_savings, whole_savings = zip(*savings, strict=True)
    return mean(array_savings), mean(whole_savings)


def main(
    images: Annotated[int, typer.Option(help="of each point, in hundreds")] = 500,
    models: Annotated[str, typer.Option(help="comma-separated")] = "digits,mnist",
    steps: Annotated[int, typer.Option(help="of DDIM; DRIFT's are 50")] = 50,
    variants: Annotated[str, typer.Option(help="of drift_quality.VARIANTS, comma-separated")] = ",".join(SEARCHED),
    down_to: Annotated[float, typer.Option(help="volts to which distances are measured in any case")] = VOLTAGES[0],
) -> None:
    """Search, price, print and write the results."""
    if images < BATCH or images % BATCH:
        raise typer.BadParameter(f"--images must be a multiple of {BATCH}, not {images}")
    torch.set_num_threads(1)
    metrics: dict[str, float] = {"images": images, "steps": steps}
    ideal = replace(REFERENCE, regulator=IDEAL)
    best: tuple[float, str, float] | None = None
    searches = [Search(name, steps) for name in models.split(",")]
    for variant in variants.split(","):
        price = partial(priced, VARIANTS[variant])
        for voltage in VOLTAGES:
            metrics[f"carry_array_saving_{variant}_at_{voltage:g}"] = price(voltage, ideal)[0]
            metrics[f"carry_whole_saving_{variant}_at_{voltage:g}"] = price(voltage, REFERENCE)[1]
        found = [lowest(search, variant, images, metrics, down_to) for search in searches]
        for search, voltage_v in zip(searches, found, strict=True):
            if voltage_v is not None:
                metrics[f"carry_voltage_v_{variant}_{search.carries.spec.name}"] = voltage_v
        allowed = [voltage for voltage in found if voltage is not None]
        if len(allowed) == len(searches):
            saving = metrics[f"carry_array_saving_{variant}_at_{max(allowed):g}"]
            if best is None or saving > best[0]:
                best = saving, variant, max(allowed)
    if best is not None:
        saving, variant, voltage = best
        metrics["carry_array_saving"], metrics["carry_voltage_v"] = saving, voltage
        metrics["whole_saving_avg_carry"] = metrics[f"carry_whole_saving_{variant}_at_{voltage:g}"]
    path = write_results("drift_carry", metrics, config={"server": SERVER.to_dict(), "variant": best and best[1]})
    for name, value in metrics.items():
        print(f"{name:48} {value:.5g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
