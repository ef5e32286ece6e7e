"""The command ``brownout``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .drift.characterisation.profile import ResilienceProfile
    from .drift.characterisation.subject import Subject
    from .drift.policy.search import FoundPolicy, Trial
    from .drift.strategies import Strategy

GRIDS: dict[str, dict[str, list[int]]] = {
    "rollback": {"theta": [0, 6, 10], "attempts": [0, 2]},
    "drift": {"theta": [8, 10, 12], "interval": [1, 2, 5, 10]},
}
"""Parameters that `search --tune` tries."""

OLD_NAMES = {"ours": "rollback"}
"""Strategies by the names that they had before; still accepted."""

# What needs torch is imported by the commands, so that --help is quick.

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Diffusion models below their safe voltage.")

Model = Annotated[str, typer.Argument(help="digits, mnist, emoji, or a diffusers pipeline: folder or hub id")]
Call = Annotated[
    str, typer.Option(help='of a pipeline: arguments of its calls as JSON, lists in turn; {"class_labels": [1, 2]}')
]
Images = Annotated[int, typer.Option(help="most images of each measurement, a multiple of batch")]
Batch = Annotated[int, typer.Option(help="images drawn together")]
MemoryMib = Annotated[int, typer.Option(help="DRAM of the accelerator in MiB")]
StoreFile = Annotated[Path | None, typer.Option(help="file from which an interrupted run goes on")]
Threads = Annotated[int, typer.Option(help="torch threads; 0: torch's own choice")]


def _subject(
    model: str, strategy: Strategy, call: str, memory_mib: int, threads: int
) -> AbstractContextManager[Subject]:
    from dataclasses import replace

    import torch

    from .drift.characterisation.subject import CONFIG, pipeline, shipped
    from .models.spec import SPECS

    if threads:
        torch.set_num_threads(threads)
    config = replace(CONFIG, memory=replace(CONFIG.memory, size_bytes=memory_mib << 20))
    if model in SPECS:
        return shipped(model, strategy, config=config)
    try:
        arguments = json.loads(call)
    except ValueError as error:
        raise typer.BadParameter(f"--call must be JSON, not {call!r}: {error}") from None
    return pipeline(model, strategy, arguments, config=config)


def _print_profile(profile: ResilienceProfile) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("slice", *(each.label for each in profile.points), title=f"{profile.metrics[0]} damage (images)")
    for each in profile.slices:
        found = [profile.damage(each.name, index) for index in range(len(profile.points))]
        table.add_row(
            each.name, *(f"{one.mean:.3g} [{one.lower:.3g}, {one.upper:.3g}] ({one.images})" for one in found)
        )
    Console().print(table)


def _print_policy(policy: FoundPolicy) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "energy / image", "time / image", "damage")
    for name in ("nominal", "predicted", "measured"):
        each = getattr(policy, name)
        damage = "" if each.predicted_damage is None else f"{each.predicted_damage:.4g}"
        if each.damage is not None:
            damage = f"{each.damage.mean:.4g} [{each.damage.lower:.4g}, {each.damage.upper:.4g}] ({each.damage.images})"
        table.add_row(name, f"{each.energy_j:.4g} J", f"{each.time_s:.4g} s", damage)
    blocks = list(dict.fromkeys(block for _, block in policy.table.points))
    points = Table("step", *blocks, title="operating points")
    for step in sorted({evaluation for evaluation, _ in policy.table.points}):
        cells = [policy.table.points.get((step, block), policy.table.default).label for block in blocks]
        points.add_row(str(step), *cells)
    console = Console()
    console.print(points)
    console.print(table)
    console.print(f"saves {policy.saving:.1%} of the {policy.objective} at a damage of at most {policy.budget:g}")


def _print_trials(trials: list[Trial]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not trials:
        return
    table = Table("parameters", "energy / image", "time / image", "damage", "within budget")
    for each in trials:
        found = each.outcome.damage
        assert found is not None
        damage = f"{found.mean:.4g} [{found.lower:.4g}, {found.upper:.4g}] ({found.images})"
        parameters = ", ".join(f"{name} {value}" for name, value in each.parameters.items())
        costs = f"{each.outcome.energy_j:.4g} J", f"{each.outcome.time_s:.4g} s"
        table.add_row(parameters, *costs, damage, "yes" if each.within else "not shown")
    Console().print(table)


@app.command()
def characterise(
    model: Model,
    out: Annotated[Path, typer.Option(help="profile to write")] = Path("profile.json"),
    rate: Annotated[list[float] | None, typer.Option(help="errors per output; several times for several")] = None,
    bit: Annotated[list[int] | None, typer.Option(help="sweep these bits instead of steps and blocks")] = None,
    step_groups: Annotated[int, typer.Option(help="groups of evaluations")] = 3,
    block_groups: Annotated[int, typer.Option(help="groups of blocks")] = 3,
    attention: Annotated[bool, typer.Option(help="errors in attention and elsewhere too")] = False,
    images: Images = 100,
    batch: Batch = 20,
    call: Call = "{}",
    memory_mib: MemoryMib = 256,
    store: StoreFile = None,
    threads: Threads = 0,
) -> None:
    """Measure which bits, or which steps and blocks, damage the image most."""
    from .drift.characterisation.characterise import characterise as sweep
    from .drift.characterisation.slices import (
        Slice,
        bit_slices,
        block_slices,
        cross,
        evaluation_slices,
        layout_of,
        split,
    )
    from .drift.characterisation.stopping import Stopping
    from .drift.operating_point import OperatingPoint
    from .drift.strategies import Unprotected
    from .workload.product_site import BLOCK_LINEAR_KINDS

    kinds = None if attention else BLOCK_LINEAR_KINDS
    with _subject(model, Unprotected(), call, memory_mib, threads) as subject:
        base = Slice(name="", kinds=kinds)
        if bit:
            slices = bit_slices(bit, base)
        else:
            layout = layout_of(subject.module, subject.run, kinds=kinds)
            slices = cross(
                evaluation_slices(split(range(layout.evaluations), min(step_groups, layout.evaluations)), base),
                block_slices(split(layout.blocks, min(block_groups, len(layout.blocks)))),
            )
        profile = sweep(
            subject.module,
            subject.run,
            slices,
            [OperatingPoint(error_rate=each) for each in rate or [1e-4]],
            metrics=subject.metrics,
            stopping=Stopping(images=images, batch=batch),
            store=store,
        )
    profile.save(out)
    _print_profile(profile)
    print(out)


@app.command()
def search(
    model: Model,
    budget: Annotated[float, typer.Option(help="most mean damage of an image")],
    out: Annotated[Path, typer.Option(help="policy to write")] = Path("policy.json"),
    objective: Annotated[str, typer.Option(help="energy (undervolt) or time (overclock)")] = "energy",
    strategy: Annotated[
        str, typer.Option(help="what is done about errors: rollback, or drift (as published)")
    ] = "rollback",
    point: Annotated[
        list[float] | None,
        typer.Option(help="points to choose from: volts (energy) or GHz (time)"),
    ] = None,
    tune: Annotated[bool, typer.Option(help="then search theta and attempts, or theta and interval")] = False,
    step_groups: Annotated[int, typer.Option(help="groups of evaluations")] = 3,
    block_groups: Annotated[int, typer.Option(help="groups of blocks")] = 2,
    images: Images = 60,
    batch: Batch = 20,
    call: Call = "{}",
    memory_mib: MemoryMib = 256,
    store: StoreFile = None,
    threads: Threads = 0,
) -> None:
    """Find an operating point for each step and block: least energy, or time, within a budget of damage."""
    from .drift.characterisation.characterise import characterise as sweep
    from .drift.characterisation.slices import Slice, block_slices, cross, evaluation_slices, layout_of, split
    from .drift.characterisation.stopping import Stopping
    from .drift.policy.search import (
        FREQUENCIES_HZ,
        VOLTAGES_V,
        overclock_points,
        search_parameters,
        search_policy,
        undervolt_points,
    )
    from .drift.strategies import PublishedDrift, Rollback
    from .workload.product_site import BLOCK_LINEAR_KINDS

    builders: dict[str, Callable[..., Strategy]] = {"rollback": Rollback, "drift": PublishedDrift}
    strategy = OLD_NAMES.get(strategy, strategy)
    if strategy not in builders:
        raise typer.BadParameter(f"--strategy must be one of {', '.join(builders)}, not {strategy!r}")
    if objective not in ("energy", "time"):
        raise typer.BadParameter(f"--objective must be energy or time, not {objective!r}")
    chosen = builders[strategy]()
    if objective == "time":
        points = overclock_points([1e9 * each for each in point] if point else FREQUENCIES_HZ)
    else:
        points = undervolt_points(point or VOLTAGES_V)
    with _subject(model, chosen, call, memory_mib, threads) as subject:
        base = Slice(name="", kinds=BLOCK_LINEAR_KINDS)
        layout = layout_of(subject.module, subject.run, kinds=BLOCK_LINEAR_KINDS)
        # The first evaluation has nothing to go back to, and is always clean.
        slices = cross(
            evaluation_slices(split(range(1, layout.evaluations), min(step_groups, layout.evaluations - 1)), base),
            block_slices(split(layout.blocks, min(block_groups, len(layout.blocks)))),
        )
        stopping = Stopping(images=images, batch=batch, relative=0.3, absolute=budget / (4 * len(slices)))
        profile = sweep(
            subject.module,
            subject.run,
            slices,
            points,
            metrics=subject.metrics,
            strategy=chosen,
            stopping=stopping,
            store=store,
        )
        policy = search_policy(
            subject.module,
            subject.run,
            profile,
            budget,
            strategy=chosen,
            metrics=subject.metrics,
            objective=objective,
            stopping=stopping,
        )
        trials: list[Trial] = []
        if tune:
            trials, _ = search_parameters(
                subject.module,
                subject.run,
                builders[strategy],
                GRIDS[strategy],
                policy.table,
                budget,
                metrics=subject.metrics,
                objective=objective,
                stopping=stopping,
            )
    policy.save(out)
    _print_profile(profile)
    _print_policy(policy)
    _print_trials(trials)
    print(out)


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
