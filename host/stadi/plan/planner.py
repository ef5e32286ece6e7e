"""Plans for a fleet: STADI's, by search over the full cost model, and the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np

from ...errors import PlanError
from .allocation import (
    THRESHOLDS,
    balanced_rows,
    candidate_sets,
    largest_strides,
    proportional_rows,
    stride_choices,
)
from .coding import ExchangeCoding
from .costs import Array, CostModel
from .device import FleetSpec
from .link import Pair
from .plan import Plan, Share
from .prediction import Prediction, Predictor

WARMUP = 4
"""Synchronous steps unless something else is asked for."""

METHODS = ("single", "guidance", "uniform", "elastic", "steps", "thresholds", "stadi")
"""What `Planner.plan` can make.

- ``single``: the device that is fastest alone.
- ``guidance``: the two halves of guidance on two devices.
- ``uniform``: equal patches (DistriFusion).
- ``elastic``: patches by speed, every device in every step.
- ``steps``: equal patches, strides by thresholds.
- ``thresholds``: strides by thresholds, patches by speed times stride: STADI without search.
- ``stadi``: the joint search.
"""


@dataclass(frozen=True)
class Explained:
    """A plan with what the planner thinks of it.

    Attributes
    ----------
    plan : Plan
        The plan.
    prediction : Prediction
        Its latency.
    relative_speed : dict of str to float
        Measured speed of each device over the fastest one's, under its load.
    tried : int
        Plans that were compared.
    left_out : tuple of str
        Devices that are better not used.
    """

    plan: Plan
    prediction: Prediction
    relative_speed: Mapping[str, float]
    tried: int
    left_out: tuple[str, ...] = ()

    def table(self) -> str:
        """The plan, the times of an interval, and why."""
        prediction, lines = self.prediction, [self.plan.table()]
        for share, seconds in zip(self.plan.shares, prediction.device_s, strict=True):
            lines.append(
                f"{share.device}: relative speed {self.relative_speed[share.device]:.3f}, computes "
                f"{seconds * 1e3:.2f} of {prediction.interval_s * 1e3:.2f} ms between sync points"
            )
        if self.left_out:
            lines.append(f"faster without {', '.join(self.left_out)}")
        lines.append(
            f"predicted: {prediction.latency_s * 1e3:.1f} ms, of which {prediction.warmup_s * 1e3:.1f} warm-up and "
            f"{prediction.exposed_s * 1e3:.2f} waiting for links; {self.tried} plans compared"
        )
        return "\n".join(lines)


class Planner:
    """Makes plans for a fleet.

    Parameters
    ----------
    fleet : FleetSpec
        Devices and links.
    costs : CostModel
        Costs of the model.
    steps : int
        Evaluations of an image by a single device.
    warmup : int, optional
        The least number of synchronous ones; by default `WARMUP`, or all where there are fewer.
    max_stride : int
        Largest stride of any device: 1, 2 or 4.
    thresholds : mapping of int to float
        See `THRESHOLDS`.

    Raises
    ------
    PlanError
        There are no such steps or strides.
    """

    def __init__(
        self,
        fleet: FleetSpec,
        costs: CostModel,
        *,
        steps: int = 50,
        warmup: int | None = None,
        max_stride: int = 4,
        thresholds: Mapping[int, float] = THRESHOLDS,
    ) -> None:
        if steps < 1:
            raise PlanError(f"steps must be at least 1, not {steps}")
        warmup = min(WARMUP, steps) if warmup is None else warmup
        if not 0 <= warmup <= steps:
            raise PlanError(
                f"warmup must be in 0..{steps}, because there are {steps} steps, not {warmup}; "
                "leave it out for as many as fit"
            )
        if max_stride not in (1, *thresholds):
            choices = ", ".join(map(str, (1, *thresholds)))
            raise PlanError(f"max_stride must be one of {choices}, not {max_stride!r}")
        self.fleet, self.costs, self.steps, self.warmup = fleet, costs, steps, warmup
        self.max_stride, self.thresholds = max_stride, thresholds

    def on(self, fleet: FleetSpec) -> Planner:
        """The same planner for other devices."""
        return Planner(
            fleet,
            self.costs,
            steps=self.steps,
            warmup=self.warmup,
            max_stride=self.max_stride,
            thresholds=self.thresholds,
        )

    def coded(self, coding: ExchangeCoding | None) -> Planner:
        """The same planner for keys and values that are sent in another way."""
        model: Any = self.costs.model
        return Planner(
            self.fleet,
            self.costs.on(replace(model, coding=coding)),
            steps=self.steps,
            warmup=self.warmup,
            max_stride=self.max_stride,
            thresholds=self.thresholds,
        )

    def latency_s(self, plan: Plan) -> float:
        """Predicted latency of a plan that begins now."""
        return Predictor(self.fleet, self.costs, self.availability()).predict(plan).latency_s

    def availability(self) -> dict[str, float]:
        """Free share of each device when the image begins: what a profile measures."""
        return {device.name: device.load.availability(0.0) for device in self.fleet.devices}

    def speeds(self, availability: Mapping[str, float] | None = None) -> dict[str, float]:
        """Rows per second of each device: a profile of one evaluation with as many rows as an equal patch has."""
        free = self.availability() if availability is None else availability
        count = max(1, round(self.costs.model.rows / len(self.fleet.devices)))
        return {name: share * count / float(self._costs(name)[count]) for name, share in free.items()}

    def plan(
        self,
        method: str = "stadi",
        *,
        availability: Mapping[str, float] | None = None,
        bandwidths: Mapping[Pair, float] | None = None,
        first_step: int = 0,
        warmup: int | None = None,
    ) -> Explained:
        """Make a plan.

        Parameters
        ----------
        method : str
            One of `METHODS`.
        availability : mapping of str to float, optional
            Free share of the devices that may be used; by default all, as at the beginning.
        bandwidths : mapping of Pair to float, optional
            Bytes per second of each link; by default as at the beginning.
        first_step : int
            Where the plan takes up.
        warmup : int, optional
            Least number of synchronous steps from there; by default the planner's.

        Raises
        ------
        PlanError
            There is no such plan: the message says why.
        """
        if method not in METHODS:
            raise PlanError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
        free = self.availability() if availability is None else dict(availability)
        usable = [device.name for device in self.fleet.devices if free.get(device.name, 0) > 0]
        if not usable:
            raise PlanError("no device is free: all are lost or wholly taken by background load")
        if not first_step < self.steps:
            raise PlanError(f"first_step must be below {self.steps}, not {first_step}")
        predictor = Predictor(self.fleet, self.costs, {name: free[name] for name in usable}, bandwidths)
        search = _Search(self, method, predictor, first_step, warmup)
        plans = search.plans()
        best, prediction = min(
            ((plan, predictor.predict(plan)) for plan in plans),
            key=lambda pair: (pair[1].latency_s, -pair[0].fresh_share),
        )
        used = {share.device for share in best.shares}
        left_out = tuple(name for name in usable if name not in used)
        return Explained(best, prediction, search.relative, len(plans), left_out)

    def _costs(self, name: str) -> Array:
        device = next(device for device in self.fleet.devices if device.name == name)
        return self.costs.of(device).table


class _Search:
    """Plans of a method."""

    def __init__(
        self, planner: Planner, method: str, predictor: Predictor, first_step: int, warmup: int | None
    ) -> None:
        self.planner, self.method, self.predictor, self.first_step = planner, method, predictor, first_step
        self.free = predictor.availability
        self.rows = planner.costs.model.rows
        self.warmup = planner.warmup if warmup is None else warmup
        speeds = planner.speeds(self.free)
        fastest = max(speeds.values())
        self.relative = {name: speed / fastest for name, speed in speeds.items()}

    def plans(self) -> list[Plan]:
        """All plans to compare."""
        names = list(self.free)
        if self.method == "single":
            return [self._single(name) for name in names]
        if self.method == "guidance":
            return [self._guidance(names)]
        if self.method != "stadi":
            self._check(names)
            return [self._fixed(names)]
        self._check(names)
        ranked = sorted(names, key=lambda name: -self.relative[name])
        found: list[Plan] = [self._single(ranked[0])]
        for used in candidate_sets(ranked, self.predictor.bandwidths):
            if len(used) > 1:
                found.extend(self._joint([name for name in names if name in used]))
        return found

    def _check(self, names: Sequence[str]) -> None:
        if len(names) > self.rows:
            raise PlanError(
                f"{len(names)} devices cannot share {self.rows} token rows; use at most {self.rows} devices"
            )

    def _single(self, name: str) -> Plan:
        whole = (0, self.rows)
        share = Share(device=name, stride=1, rows=whole, warmup_rows=whole)
        return self._make([share], 0)

    def _guidance(self, names: Sequence[str]) -> Plan:
        images = self.planner.costs.model.images
        if images != 2:
            raise PlanError(f"halves of guidance need a batch of 2, not of {images}")
        if len(names) != 2:
            raise PlanError(f"halves of guidance need exactly two devices, not {len(names)}")
        whole = (0, self.rows)
        return self._make([Share(device=name, stride=1, rows=whole, warmup_rows=whole, images=1) for name in names], 0)

    def _make(self, shares: Sequence[Share], warmup: int) -> Plan:
        return Plan(
            method=self.method,
            shares=tuple(shares),
            rows=self.rows,
            steps=self.planner.steps,
            warmup=warmup,
            first_step=self.first_step,
        )

    def _assemble(self, names: Sequence[str], strides: Sequence[int], rows: Sequence[int], warm: Sequence[int]) -> Plan:
        """Warm-up grows until what is left can be divided into intervals."""
        left = self.planner.steps - self.first_step
        warmup = min(self.warmup, left)
        warmup += (left - warmup) % max(strides)
        shares = []
        start = warm_start = 0
        for name, stride, count, warm_count in zip(names, strides, rows, warm, strict=True):
            share = Share(
                device=name,
                stride=stride,
                rows=(start, start + count),
                warmup_rows=(warm_start, warm_start + warm_count),
            )
            shares.append(share)
            start, warm_start = start + count, warm_start + warm_count
        return self._make(shares, warmup)

    def _fixed(self, names: Sequence[str]) -> Plan:
        equal, ones = proportional_rows([1] * len(names), self.rows), [1] * len(names)
        relative = [self.relative[name] for name in names]
        strides = largest_strides(relative, self.planner.max_stride, self.planner.thresholds)
        if self.method == "uniform":
            return self._assemble(names, ones, equal, equal)
        if self.method == "steps":
            return self._assemble(names, strides, equal, equal)
        if self.method == "elastic":
            rows = self._balanced(names, ones)
            return self._assemble(names, ones, rows, rows)
        effective = [speed * stride for speed, stride in zip(relative, strides, strict=True)]
        return self._assemble(
            names, strides, proportional_rows(effective, self.rows), proportional_rows(relative, self.rows)
        )

    def _balanced(self, names: Sequence[str], strides: Sequence[int]) -> list[int]:
        """Rows of least interval, computing and links together."""
        interval = max(strides)
        times = []
        for here, (name, stride) in enumerate(zip(names, strides, strict=True)):
            others = enumerate(zip(names, strides, strict=True))
            peers = [(peer, other, there - here) for there, (peer, other) in others if there != here]
            counts = range(1, self.rows + 1)
            by_rows = [self.predictor.interval_s(name, rows, stride, interval, peers) for rows in counts]
            times.append(np.array([0.0, *by_rows]))
        return balanced_rows(times, self.rows)

    def _in_step(self, names: Sequence[str]) -> list[int]:
        """Rows of warm-up: balanced ones, and from there moved one by one while synchronous steps get shorter.

        Who waits for whom there, layer by layer and with what a model sends in synchronous steps alone, has no closed
        form that could be balanced.
        """
        ones = [1] * len(names)
        best = self._balanced(names, ones)

        def seconds(rows: Sequence[int]) -> float:
            plan = self._assemble(names, ones, rows, rows)
            return self.predictor.warmup_s(plan)[0] if plan.warmup else 0.0

        least = seconds(best)
        while True:
            moved = []
            for giver, taker in permutations(range(len(names)), 2):
                if best[giver] > 1:
                    rows = list(best)
                    rows[giver], rows[taker] = rows[giver] - 1, rows[taker] + 1
                    moved.append((seconds(rows), rows))
            shortest, rows = min(moved, default=(least, best))
            if not shortest < least:
                return best
            least, best = shortest, rows

    def _joint(self, names: Sequence[str]) -> list[Plan]:
        relative = [self.relative[name] for name in names]
        limits = largest_strides(relative, self.planner.max_stride, self.planner.thresholds)
        warm = self._in_step(names)
        return [
            self._assemble(names, strides, self._balanced(names, strides), warm)
            for strides in stride_choices(limits, relative)
        ]
