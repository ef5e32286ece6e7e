"""Where do timing errors hurt? Bits, steps, blocks and kinds of products of a shipped model, one at a time.

Run ``python benchmarks/characterise.py`` (a quarter of an hour; ``--model digits --images 20 --batch 10`` for a look).
It writes ``build/results/characterise.json``, its plots and profiles, and goes on where it was interrupted. Errors of
the published kind (one flipped bit of an output's sum, in the Linear layers of transformer blocks) hit one slice of the
run, unprotected; damage is the perceptual distance to the clean int8 image of the same noise, over that of unrelated
images:

- ``bitB_RATE``: errors in bit B alone, in all steps and blocks (with ``_lower``, ``_upper``, ``_images``);
- ``steps_early_RATE``, ``steps_middle_RATE``, ``steps_late_RATE``: all bits, a third of the steps;
  ``steps_early_minus_late_RATE`` with one-sided 95 % bounds of the paired difference, ``_samples`` pairs;
- ``blocks_...``: likewise, thirds of the blocks;
- ``step_order_RATE``, ``block_order_RATE``: 1 if early (first) ones are shown to be worse, -1 if late (last) ones are,
  0 if neither; ``order_change_rate_steps``, ``order_change_rate_blocks``: the rate at which that turns, if it does;
- ``kind_KIND``: one kind of product, attention and modulation too, and ``cell_STEPS_BLOCKS``: thirds of steps and
  blocks, both at ``--map-rate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer

from brownout.cosim.cache import results_root
from brownout.host import write_results
from brownout.host.drift.characterisation.characterise import characterise
from brownout.host.drift.characterisation.plots import damage_by_slice, damage_over_bit, damage_over_point, heat_map
from brownout.host.drift.characterisation.profile import ResilienceProfile
from brownout.host.drift.characterisation.slices import Slice, bit_slices, cross, kind_slices, layout_of, split
from brownout.host.drift.characterisation.stopping import DamageEstimate, Stopping
from brownout.host.drift.characterisation.subject import Subject, shipped
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.strategies import Unprotected
from brownout.host.workload.product_site import BLOCK_LINEAR_KINDS

BITS = (8, 10, 12, 14, 16, 20, 30)
BIT_RATES = (1e-6, 1e-4, 3e-2)
RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
PARTS = {"steps": ("early", "middle", "late"), "blocks": ("first", "middle", "last")}
LINEAR = Slice(name="linear", kinds=BLOCK_LINEAR_KINDS)


def watch(slice_: Slice, point: OperatingPoint, found: DamageEstimate) -> None:
    print(f"{slice_.name:24} {point.label:8} {found.mean:8.4f} [{found.lower:.4f}, {found.upper:.4f}] {found.images}")


class Sweeps:
    """Profiles of one model, kept in one folder."""

    def __init__(self, subject: Subject, folder: Path, images: int, batch: int) -> None:
        self.subject, self.folder, self.images, self.batch = subject, folder, images, batch
        layout = layout_of(subject.module, subject.run, kinds=BLOCK_LINEAR_KINDS)
        self.kinds = layout_of(subject.module, subject.run).kinds
        self.steps = [
            Slice(name=f"steps_{name}", evaluations=tuple(part), kinds=BLOCK_LINEAR_KINDS)
            for name, part in zip(PARTS["steps"], split(range(layout.evaluations), len(PARTS["steps"])), strict=True)
        ]
        self.blocks = [
            Slice(name=f"blocks_{name}", blocks=tuple(part), kinds=BLOCK_LINEAR_KINDS)
            for name, part in zip(PARTS["blocks"], split(layout.blocks, len(PARTS["blocks"])), strict=True)
        ]

    def profile(
        self, name: str, slices: Sequence[Slice], rates: Sequence[float], pairs: Sequence[tuple[str, str]] = ()
    ) -> ResilienceProfile:
        """Measure, and keep the profile."""
        profile = characterise(
            self.subject.module,
            self.subject.run,
            slices,
            [OperatingPoint(error_rate=rate) for rate in rates],
            metrics=self.subject.metrics,
            stopping=Stopping(images=self.images, batch=self.batch, absolute=0.02),
            pairs=pairs,
            store=self.folder / f"{name}.jsonl",
            watch=watch,
        )
        profile.save(self.folder / f"{name}.json")
        return profile


def damages(profile: ResilienceProfile) -> dict[str, float]:
    """All damages over that of unrelated images."""
    scale, metrics = profile.unrelated[profile.metrics[0]], dict[str, float]()
    for each in profile.slices:
        for index, point in enumerate(profile.points):
            name = each.name if len(profile.points) == 1 else f"{each.name}_{point.label}"
            found = profile.damage(each.name, index)
            metrics |= {
                name: found.mean / scale,
                f"{name}_lower": found.lower / scale,
                f"{name}_upper": found.upper / scale,
                f"{name}_images": found.images,
            }
    return metrics


def order(profile: ResilienceProfile, first: str, last: str, what: str) -> dict[str, float]:
    """Paired differences of two slices, and where their order turns."""
    scale, metrics = profile.unrelated[profile.metrics[0]], dict[str, float]()
    for index, point in enumerate(profile.points):
        bound = profile.difference(first, last, index)
        worse = profile.worse(first, last, index)
        name = f"{first}_minus_{last.rpartition('_')[2]}_{point.label}"
        metrics |= {
            name: bound.mean / scale,
            f"{name}_lower": bound.lower / scale,
            f"{name}_upper": bound.upper / scale,
            f"{name}_samples": bound.samples,
            f"{what}_order_{point.label}": 0 if worse is None else 1 if worse == first else -1,
        }
    changes = profile.order_changes(first, last)
    metrics[f"order_changes_{what}s"] = len(changes)
    if changes:
        metrics[f"order_change_rate_{what}s"] = changes[0].error_rate
    return metrics


def main(
    model: Annotated[str, typer.Option(help="digits or mnist")] = "mnist",
    images: Annotated[int, typer.Option(help="most images of each measurement")] = 100,
    batch: Annotated[int, typer.Option(help="images between looks at the result")] = 20,
    map_rate: Annotated[float, typer.Option(help="error rate of the map and of the kinds")] = 1e-4,
    threads: Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")] = 0,
) -> None:
    """Measure, print, plot and write the results."""
    if threads:
        torch.set_num_threads(threads)
    folder = results_root() / "results"
    plots = {}
    with shipped(model, Unprotected()) as subject:
        sweeps = Sweeps(subject, folder / "profiles" / model, images, batch)
        bits = sweeps.profile("bits", bit_slices(BITS, LINEAR), BIT_RATES)
        plots["bits"] = damage_over_bit(bits, bits.slices)
        pair = (sweeps.steps[0].name, sweeps.steps[-1].name)
        steps = sweeps.profile("steps", sweeps.steps, RATES, [pair])
        metrics = damages(bits) | damages(steps) | order(steps, *pair, "step")
        plots["steps"] = damage_over_point(steps)
        pair = (sweeps.blocks[0].name, sweeps.blocks[-1].name)
        blocks = sweeps.profile("blocks", sweeps.blocks, RATES, [pair])
        metrics |= damages(blocks) | order(blocks, *pair, "block")
        plots["blocks"] = damage_over_point(blocks)
        cells = sweeps.profile("map", cross(sweeps.steps, sweeps.blocks), [map_rate])
        plots["map"] = heat_map(cells, sweeps.steps, sweeps.blocks, 0)
        metrics |= {f"cell_{name.replace('/', '_')}": value for name, value in damages(cells).items()}
        kinds = sweeps.profile("kinds", kind_slices(sweeps.kinds), [map_rate])
        plots["kinds"] = damage_by_slice(kinds, 0)
        metrics |= {f"kind_{name}": value for name, value in damages(kinds).items()}
        metrics["unrelated"] = bits.unrelated[bits.metrics[0]]
    for name, figure in plots.items():
        figure.savefig(folder / f"characterise_{name}.png", dpi=120)
    settings = {"model": model, "images": images, "batch": batch, "map_rate": map_rate}
    path = write_results("characterise", metrics, config=settings)
    for key, value in metrics.items():
        if not key.endswith(("_lower", "_upper", "_images", "_samples")):
            print(f"{key:44} {value:.5g}")
    print(path)


if __name__ == "__main__":
    typer.run(main)
