"""Search operating points, and parameters of strategies, for the least energy or time within a budget of damage."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...offloading import offloaded_model
from ...storage.decoding import NotNegative, Positive, decode_format, read_text
from ...storage.files import write_text
from ..characterisation.characterise import Bench, Metric
from ..characterisation.profile import ResilienceProfile
from ..characterisation.slices import Run, Slice
from ..characterisation.stopping import DamageEstimate, Stopping
from ..operating_point import NOMINAL, OperatingPoint
from ..power_policy import PowerPolicy, TableDocument, TablePolicy, constant
from ..strategies import Strategy, Unprotected
from .assignment import Assignment, Problem, assign
from .stage_costs import OBJECTIVES, Stage, measure_moves, measure_stages

FORMAT = "brownout policy 1"

VOLTAGES_V = (0.84, 0.80, 0.76, 0.72, 0.68, 0.64, 0.60)
FREQUENCIES_HZ = (2.25e9, 2.6e9, 3.0e9, 3.4e9, 3.8e9, 4.1e9, 4.37e9)


def undervolt_points(voltages_v: Sequence[float] = VOLTAGES_V) -> list[OperatingPoint]:
    """Points at 2 GHz; the checksum units are half-way to nominal, where they hardly err."""
    return [OperatingPoint(voltage_v=v, check_voltage_v=round((v + NOMINAL.voltage_v) / 2, 4)) for v in voltages_v]


def overclock_points(frequencies_hz: Sequence[float] = FREQUENCIES_HZ) -> list[OperatingPoint]:
    """Points at 0.9 V."""
    return [OperatingPoint(frequency_hz=f) for f in frequencies_hz]


@dataclass(frozen=True)
class PolicyOutcome:
    """What a power policy costs and does, per image.

    Attributes
    ----------
    energy_j, time_s : float
    damage : DamageEstimate or None
        None where it is only predicted, and then in `predicted_damage`.
    predicted_damage : float or None
    """

    energy_j: NotNegative
    time_s: NotNegative
    damage: DamageEstimate | None = None
    predicted_damage: float | None = None


@dataclass(frozen=True)
class _Document:
    """A policy that was found, by the names in files, without its format."""

    objective: Literal["energy", "time"]
    budget: Positive
    bound: float
    rounds: list[dict[str, int | float]]
    nominal: PolicyOutcome
    predicted: PolicyOutcome
    measured: PolicyOutcome
    table: TableDocument


@dataclass(frozen=True)
class FoundPolicy:
    """A table of operating points that a search has found, and what it is worth.

    Attributes
    ----------
    table : TablePolicy
        Power policy that `protect` takes.
    objective : str
        ``"energy"`` or ``"time"``, which was minimised.
    budget : float
        Largest mean damage that was allowed.
    nominal, predicted, measured : PolicyOutcome
        Everything at the default, without a strategy; what profile and costs say of the table; what was measured.
    bound : float
        Lower bound: by the profile and the costs no table within the budget that was searched with needs less of the
        objective.
    rounds : list of dict
        Each table that was measured: budget it was made for, predicted and measured damage, objective.
    """

    table: TablePolicy
    objective: str
    budget: float
    nominal: PolicyOutcome
    predicted: PolicyOutcome
    measured: PolicyOutcome
    bound: float
    rounds: list[dict[str, float]] = field(default_factory=list)

    @property
    def saving(self) -> float:
        """Measured share of the objective that the table saves."""
        name = OBJECTIVES[self.objective]
        return 1 - getattr(self.measured, name) / getattr(self.nominal, name)

    def to_json(self) -> str:
        """All of it."""
        parts = {name: asdict(getattr(self, name)) for name in ("nominal", "predicted", "measured")}
        plain = {name: getattr(self, name) for name in ("objective", "budget", "bound", "rounds")}
        document = {"format": FORMAT, **plain, **parts, "table": self.table.to_dict()}
        return json.dumps(document, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: Path | str = "this") -> FoundPolicy:
        """Undo `to_json`.

        Parameters
        ----------
        text : str
            JSON that `to_json` gave.
        source : Path or str
            Where it was read: for messages.

        Raises
        ------
        FileRefusedError
            It is something else, or has values that cannot be.
        """
        data = decode_format(text, FORMAT, "policy", _Document, source)
        return cls(
            table=data.table.table,
            objective=data.objective,
            budget=data.budget,
            nominal=data.nominal,
            predicted=data.predicted,
            measured=data.measured,
            bound=data.bound,
            rounds=data.rounds,
        )

    def save(self, path: Path | str) -> None:
        """Write `to_json` to a file, whole or not at all; raises `FileUnwrittenError`."""
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> FoundPolicy:
        """Read what `save` wrote; errors as `from_json`."""
        return cls.from_json(read_text(Path(path)), Path(path))


def make_problem(
    stages: Sequence[Stage],
    moves: Mapping[str, np.ndarray],
    damage: np.ndarray,
    objective: str,
) -> Problem:
    """The optimisation problem of stages whose damage (stages, points) is known.

    Raises
    ------
    ValueError
        There is no such objective.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(map(repr, OBJECTIVES))}, not {objective!r}")
    move = moves[objective]
    points = len(move)
    cost = np.array([stage.costs[objective] for stage in stages])
    entry, leave = np.zeros((2, len(stages), points), np.int64)
    for row, stage in enumerate(stages):
        inner = sum(one != other for one, other in itertools.pairwise(stage.governed))
        # Runs alternate between the stage's point and the default, so moves go to and fro.
        down = (inner + (not stage.governed[0])) // 2
        cost[row] += down * move[0] + (inner - down) * move[:, 0]
        cost[row, ~stage.allowed] = math.inf
        own = np.arange(points)
        entry[row] = own if stage.governed[0] else 0
        leave[row] = own if stage.governed[-1] else 0
    return Problem(cost, damage, entry, leave, move)


def _slice_of(stage: Stage, slices: Sequence[Slice]) -> Slice | None:
    found = [
        each
        for each in slices
        if (each.evaluations is None or stage.evaluation in each.evaluations)
        and (each.blocks is None or stage.block in each.blocks)
    ]
    if len(found) > 1:
        raise ValueError(
            f"slices {found[0].name!r} and {found[1].name!r} of the profile overlap in evaluation {stage.evaluation}, "
            f"block {stage.block!r}; a search needs slices that do not"
        )
    return found[0] if found else None


def spread_damage(profile: ResilienceProfile, stages: Sequence[Stage]) -> np.ndarray:
    """Damage of each stage at each point (stages, 1 + points), 0 at the default.

    The damage of a slice is shared equally by its stages. Stages outside of all slices are forbidden all but the
    default, in place.

    Raises
    ------
    ValueError
        Slices overlap.
    """
    homes = [_slice_of(stage, profile.slices) for stage in stages]
    free = [home for home, stage in zip(homes, stages, strict=True) if home and stage.allowed[1:].any()]
    damage = np.zeros((len(stages), 1 + len(profile.points)))
    for row, (stage, home) in enumerate(zip(stages, homes, strict=True)):
        if home is None:
            stage.allowed[1:] = False
        elif stage.allowed[1:].any():
            shares = free.count(home)
            damage[row, 1:] = [profile.damage(home.name, index).mean / shares for index in range(len(profile.points))]
    return damage


class PolicyMeter:
    """Measures cost and damage of power policies.

    Parameters
    ----------
    bench : Bench
        Which draws and compares.
    budget : float
        Damage that the question is about.
    stopping : Stopping
        Its threshold becomes the budget; `relative` and `absolute` are not used.
    """

    def __init__(self, bench: Bench, budget: float, stopping: Stopping) -> None:
        self.bench = bench
        self.stopping = replace(stopping, threshold=budget, relative=0.0, absolute=0.0)
        self.metric = next(iter(bench.metrics))
        self.unrelated: list[float] = []

    def batch(
        self, policy: PowerPolicy, batch: int, strategy: Strategy | None = None
    ) -> tuple[list[float], PolicyOutcome]:
        """Damage of each image of a batch, and what the batch has cost per image, moves included."""
        bench = self.bench
        clean = bench.clean(batch)
        if batch == len(self.unrelated):
            self.unrelated.append(float(torch.tensor(bench.describe_clean(batch)["unrelated"][self.metric]).mean()))
        accelerator = offloaded_model(bench.module).accelerator
        before = dict(accelerator.stats)
        images = bench.images(policy, batch, strategy)
        after = accelerator.stats
        energy_j, time_s = ((after[name] - before[name]) / bench.batch for name in ("energy_j", "time_s"))
        return bench.compare(images, clean)[self.metric], PolicyOutcome(energy_j, time_s)

    def measure(
        self,
        policy: PowerPolicy,
        strategy: Strategy | None = None,
        known: tuple[list[float], PolicyOutcome] | None = None,
    ) -> PolicyOutcome:
        """Cost of the first batch, and damage, from as many batches as it takes to know whether it is in the budget."""
        values, cost = self.batch(policy, 0, strategy) if known is None else known
        values = list(values)
        while not self.stopping.enough(values, self.unrelated[0]):
            values += self.batch(policy, len(values) // self.bench.batch, strategy)[0]
        return replace(cost, damage=self.stopping.estimate(values, self.unrelated[0]))


def search_policy(
    module: nn.Module,
    run: Run,
    profile: ResilienceProfile,
    budget: float,
    *,
    strategy: Strategy,
    metrics: Mapping[str, Metric],
    objective: str = "energy",
    stopping: Stopping | None = None,
    default: OperatingPoint = NOMINAL,
    seed: int = 1000,
    rounds: int = 6,
) -> FoundPolicy:
    """Choose an operating point for each block of each evaluation.

    Damages of stages are taken to add up; what that leaves out is corrected by measuring the table that was found and
    searching again with a smaller budget, or a larger one, by bisection. The result is the cheapest table whose
    measured damage is shown to be within the budget.

    Parameters
    ----------
    module, run, metrics
        Arguments of `characterise`; damage is by the first metric.
    profile : ResilienceProfile
        Measured with `strategy`; its operating points are those to choose from, and its slices groups of evaluations
        and blocks, all of the same kinds of products, that do not overlap.
    budget : float
        Most mean damage of an image.
    strategy : Strategy
        What is done about errors.
    objective : {"energy", "time"}
        Quantity that is minimised.
    stopping : Stopping, optional
        Rule by which measuring a table stops.
    default : OperatingPoint
        Point of everything that the profile does not cover.
    seed : int
        Seed of noise and errors: others than the profile's, so that a table is not judged by the images it was made
        from.
    rounds : int
        Most tables to measure.

    Raises
    ------
    ValueError
        The budget is not positive, or the profile does not fit: its slices overlap or differ in kinds, or choose bits;
        it was measured with another strategy; its operating points have no voltages.
    """
    if not budget > 0:
        raise ValueError(f"budget must be positive, not {budget!r}")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds!r}")
    kinds = {each.kinds for each in profile.slices}
    if len(kinds) > 1 or any(each.bits is not None for each in profile.slices):
        raise ValueError("slices of the profile must all be of the same kinds of products, and of all bits")
    measured_with = profile.about.get("strategy", {}).get("name")
    if measured_with not in (None, strategy.stored_name):
        raise ValueError(f"the profile was measured with strategy {measured_with!r}, not {strategy.stored_name!r}")
    stopping = Stopping() if stopping is None else stopping
    points = [default, *profile.points]
    chosen_kinds = next(iter(kinds))
    stages = measure_stages(
        module, run, points, strategy=strategy, kinds=chosen_kinds, safe=default, count=stopping.batch
    )
    moves = {
        name: each / stopping.batch for name, each in measure_moves(offloaded_model(module).accelerator, points).items()
    }
    damage = spread_damage(profile, stages)
    problem = make_problem(stages, moves, damage, objective)
    other = make_problem(stages, moves, damage, "time" if objective == "energy" else "energy")
    bench = Bench(module, run, metrics, strategy=strategy, safe=default, seed=seed, batch=stopping.batch)
    meter = PolicyMeter(bench, budget, stopping)
    nominal = meter.batch(constant(default), 0, Unprotected())[1]

    def predict(found: Assignment) -> PolicyOutcome:
        totals = {objective: found.cost, "time" if objective == "energy" else "energy": other.total_cost(found.choice)}
        return PolicyOutcome(totals["energy"], totals["time"], predicted_damage=found.damage)

    def make_policy(found: Assignment, measured: PolicyOutcome) -> FoundPolicy:
        chosen = {stage.key: points[point] for stage, point in zip(stages, found.choice.tolist(), strict=True) if point}
        return FoundPolicy(
            TablePolicy(chosen, default=default, kinds=chosen_kinds),
            objective,
            budget,
            nominal,
            predict(found),
            measured,
            found.bound,
            log,
        )

    log: list[dict[str, float]] = []
    nothing = Assignment(np.zeros(len(stages), np.int64), 0.0, 0.0, 0.0)
    nothing = replace(nothing, cost=problem.total_cost(nothing.choice))
    without = meter.batch(constant(default), 0)[1]
    best = make_policy(nothing, replace(without, damage=DamageEstimate(0.0, 0.0, 0.0, stopping.batch)))
    low: float | None = None
    high: float | None = None
    aim, seen = budget, set[bytes]()
    for _ in range(rounds):
        found = assign(problem, aim)
        if found.choice.tobytes() in seen:
            break
        seen.add(found.choice.tobytes())
        candidate = make_policy(found, nominal)
        outcome = meter.measure(candidate.table)
        candidate = replace(candidate, measured=outcome)
        assert outcome.damage is not None
        name = OBJECTIVES[objective]
        log.append(
            {
                "aim": aim,
                "predicted_damage": found.damage,
                "damage": outcome.damage.mean,
                "damage_upper": outcome.damage.upper,
                "images": outcome.damage.images,
                name: getattr(outcome, name),
            }
        )
        if outcome.damage.upper <= budget:
            low = found.damage if low is None else max(low, found.damage)
            if getattr(outcome, name) < getattr(best.measured, name):
                best = candidate
        else:
            high = found.damage if high is None else min(high, found.damage)
        if high is None:
            aim = max(aim, found.damage) * 2
        elif low is None:
            # What was measured says by how much the sum was wrong.
            aim = min(high / 2, high * budget / max(outcome.damage.upper, budget) / 1.1)
        else:
            aim = math.sqrt(max(low, high / 100) * high)
    return best


@dataclass(frozen=True)
class Trial:
    """One combination of parameters.

    Attributes
    ----------
    parameters : dict
    outcome : PolicyOutcome
        Costs per image, and damage; from one batch if the search ended before its turn.
    within : bool
        Whether its damage is shown to be within the budget.
    """

    parameters: dict[str, Any]
    outcome: PolicyOutcome
    within: bool


def search_parameters(
    module: nn.Module,
    run: Run,
    build: Callable[..., Strategy],
    grid: Mapping[str, Sequence[Any]],
    policy: PowerPolicy,
    budget: float,
    *,
    metrics: Mapping[str, Metric],
    objective: str = "energy",
    stopping: Stopping | None = None,
    safe: OperatingPoint = NOMINAL,
    seed: int = 2000,
) -> tuple[list[Trial], Trial | None]:
    """Choose parameters of a strategy, such as theta and the interval between checkpoints.

    All combinations draw one batch, which tells their costs, traffic of checkpoints and reloads included. Then, from
    the cheapest on, they draw until their damage is known to be within the budget or not; the first that is wins.

    Parameters
    ----------
    module, run, metrics, stopping, safe, seed
        Arguments of `search_policy`. The accelerator must have what all combinations need.
    build : callable
        ``build(**parameters)`` makes a strategy, for example `PublishedDrift`.
    grid : mapping
        Values to try, by the name of the parameter.
    policy : PowerPolicy
        Operating points, for example `FoundPolicy.table`.
    budget : float
        Most mean damage of an image.
    objective : {"energy", "time"}
        Quantity that is minimised.

    Returns
    -------
    list of Trial
        From the cheapest to the dearest.
    Trial or None
        The cheapest within the budget.

    Raises
    ------
    ValueError
        The grid is empty, or a strategy does not fit the accelerator.
    """
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if not grid or not combinations:
        raise ValueError("grid must have at least one value of each parameter")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(map(repr, OBJECTIVES))}, not {objective!r}")
    stopping = Stopping() if stopping is None else stopping
    strategies = [build(**each) for each in combinations]
    bench = Bench(module, run, metrics, strategy=strategies[0], safe=safe, seed=seed, batch=stopping.batch)
    meter = PolicyMeter(bench, budget, stopping)
    first = [meter.batch(policy, 0, each) for each in strategies]
    name = OBJECTIVES[objective]
    order = sorted(range(len(first)), key=lambda index: getattr(first[index][1], name))
    trials: list[Trial] = []
    best: Trial | None = None
    for index in order:
        values, cost = first[index]
        if best is None:
            outcome = meter.measure(policy, strategies[index], first[index])
        else:
            outcome = replace(cost, damage=meter.stopping.estimate(values, meter.unrelated[0]))
        assert outcome.damage is not None
        trials.append(Trial(combinations[index], outcome, outcome.damage.upper <= budget))
        if best is None and trials[-1].within:
            best = trials[-1]
    return trials, best
