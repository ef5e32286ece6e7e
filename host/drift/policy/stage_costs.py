"""What each block of each evaluation costs at each operating point, and what moves between points cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...device.accelerator import Accelerator
from ...device.power.timing import TRANSITION_S
from ...workload.product_site import ProductSite
from ..characterisation.slices import Run
from ..operating_point import NOMINAL, OperatingPoint
from ..power_policy import constant
from ..runtime import DriftExecution, protect
from ..strategies import Strategy

OBJECTIVES = {"energy": "energy_j", "time": "time_s"}
"""What can be minimised, and its name in `Accelerator.stats`."""


@dataclass
class Stage:
    """The products of one block in one evaluation, which run one after the other.

    Attributes
    ----------
    evaluation : int
    block : str
    governed : list of bool
        Whether each run of neighbours follows the stage's point; the others are always at the default.
    costs : dict
        Cost at each point (points,) by objective, without moves.
    allowed : bool array (points,)
        False where the strategy refuses the point, for want of a history: it would be charged and not obeyed.
    """

    evaluation: int
    block: str
    governed: list[bool]
    costs: dict[str, NDArray[np.float64]]
    allowed: NDArray[np.bool_]

    @property
    def key(self) -> tuple[int, str]:
        """Of a `TablePolicy`."""
        return self.evaluation, self.block


@dataclass
class _Ledger:
    """What each product has cost, and whether the strategy ran it at the safe point instead."""

    execution: DriftExecution
    point: OperatingPoint
    sites: list[ProductSite] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    _before: dict[str, float] = field(default_factory=dict)
    _clean: int = 0

    def _read(self) -> tuple[dict[str, float], int]:
        stats = self.execution.accelerator.stats
        return {name: stats[counter] for name, counter in OBJECTIVES.items()}, self.execution.clean

    def close(self) -> None:
        """The product before has ended."""
        now, clean = self._read()
        if self.sites:
            self.costs.append({name: now[name] - self._before[name] for name in OBJECTIVES})
            self.clean.append(clean > self._clean)
        self._before, self._clean = now, clean

    def __call__(self, site: ProductSite) -> OperatingPoint:
        self.close()
        self.sites.append(site)
        return self.point


def _ledger(
    module: nn.Module, run: Run, point: OperatingPoint, strategy: Strategy, safe: OperatingPoint, count: int
) -> _Ledger:
    """Draw images with everything at one point, noting what each product costs without moves."""
    with protect(module, strategy, constant(point), safe=safe) as execution:
        ledger = _Ledger(execution, point)
        execution.policy = ledger
        execution.enter(point)
        run(0, count)
        ledger.close()
    return ledger


def measure_stages(
    module: nn.Module,
    run: Run,
    points: Sequence[OperatingPoint],
    *,
    strategy: Strategy,
    kinds: Collection[str] | None = None,
    safe: OperatingPoint = NOMINAL,
    count: int = 1,
) -> list[Stage]:
    """Count what each block of each evaluation costs at each point, one run for each.

    Of a block that runs twice in an evaluation, with others between, the moves of the second time are left out.

    Parameters
    ----------
    module, run, strategy, safe
        Arguments of `characterise`.
    points : sequence of OperatingPoint
        The first is the default, at which products of other kinds stay.
    kinds : collection of str, optional
        Kinds of products that follow the stage's point; by default all.
    count : int
        Images drawn together, by whose number costs are divided.

    Raises
    ------
    ValueError
        A point has an error rate in place of a voltage, so no energy.
    """
    for point in points:
        if point.error_rate is not None:
            raise ValueError(f"points need voltages and clocks, but {point} has an error rate, which costs nothing")
    ledgers = [_ledger(module, run, point, strategy, safe, count) for point in points]
    stages: list[Stage] = []
    deciding: dict[tuple[int, str], Stage] = {}
    present: Stage | None = None
    for index, site in enumerate(ledgers[0].sites):
        governed = kinds is None or site.kind in kinds
        key = site.evaluation, site.block
        if present is None or present.key != key:
            # A block that comes back, as the first one's embedding does in a DiT, has been decided on before.
            again = deciding.get(key) if governed else None
            if again is None:
                costs = {name: np.zeros(len(points)) for name in OBJECTIVES}
                stages.append(Stage(*key, [], costs, np.ones(len(points), bool)))
            present = stages[-1] if again is None else again
        if governed:
            deciding.setdefault(key, present)
        if present is stages[-1] and (not present.governed or present.governed[-1] != governed):
            present.governed.append(governed)
        for number, ledger in enumerate(ledgers):
            source = ledger if governed else ledgers[0]
            for name in OBJECTIVES:
                present.costs[name][number] += source.costs[index][name] / count
            if governed and ledger.clean[index]:
                present.allowed[number] = False
    for stage in stages:
        stage.allowed[0] = True
        if not any(stage.governed):
            stage.allowed[1:] = False
    return stages


def measure_moves(
    accelerator: Accelerator, points: Sequence[OperatingPoint], *, transition_s: float = TRANSITION_S
) -> Mapping[str, NDArray[np.float64]]:
    """What each move costs, by objective: arrays (from, to), 0 on the diagonal. The accelerator ends at `NOMINAL`."""
    found = {name: np.zeros((len(points), len(points))) for name in OBJECTIVES}
    for i, start in enumerate(points):
        for j, end in enumerate(points):
            if i == j:
                continue
            start.apply(accelerator, seed=0, transition_s=transition_s)
            before = dict(accelerator.stats)
            end.apply(accelerator, seed=0, transition_s=transition_s)
            after = accelerator.stats
            for name, counter in OBJECTIVES.items():
                found[name][i, j] = after[counter] - before[counter]
    NOMINAL.apply(accelerator, seed=0, transition_s=transition_s)
    return found
