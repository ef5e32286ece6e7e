"""Costs as workers have counted them, in place of those that were planned with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..plan.costs import Array, CostModel, DeviceCosts
from ..plan.device import DeviceSpec
from .worker import Evaluation


class MeasuredDevice:
    """As `DeviceCosts`, of what was counted; what was not is taken from there."""

    def __init__(self, planned: DeviceCosts) -> None:
        self._planned = planned
        self.leakage_w = planned.leakage_w
        self._seen: dict[tuple[int, int | None], tuple[Array, float]] = {}

    def add(self, evaluation: Evaluation) -> None:
        """Take an evaluation in."""
        key = (evaluation.rows, evaluation.images)
        self._seen[key] = np.array(evaluation.stage_s), evaluation.energy_j

    def stage_seconds(self, rows: int, images: int | None = None) -> Array:
        """Time of each stage of an evaluation, seconds."""
        seen = self._seen.get((rows, images))
        return self._planned.stage_seconds(rows, images) if seen is None else seen[0]

    def energy_j(self, rows: int, images: int | None = None) -> float:
        """Energy of an evaluation without leakage."""
        seen = self._seen.get((rows, images))
        return self._planned.energy_j(rows, images) if seen is None else seen[1]


class MeasuredCosts:
    """As `CostModel`, for `Simulation`: the last counted evaluation of each number of rows on each device.

    Parameters
    ----------
    planned : CostModel
        Times for evaluations that nobody has reported, because their device was lost.
    """

    def __init__(self, planned: CostModel) -> None:
        self.planned, self.model = planned, planned.model
        self._devices: dict[str, MeasuredDevice] = {}

    def of(self, device: DeviceSpec) -> MeasuredDevice:
        """Costs on a device."""
        if device.name not in self._devices:
            self._devices[device.name] = MeasuredDevice(self.planned.of(device))
        return self._devices[device.name]

    def add(self, device: DeviceSpec, evaluations: Iterable[Evaluation]) -> None:
        """Take evaluations in."""
        for evaluation in evaluations:
            self.of(device).add(evaluation)
