"""Time and energy of evaluating some token rows on a device, by the exact cycle model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brownout.hw.errors.model import BY_RATE

from ...device.power.energy import EnergyModel, leakage_w
from ...device.power.timing import NOMINAL_VOLTAGE_V
from ...device.product.operands import GemmShape
from ...device.product.protection import UNCHECKED
from ...errors import DeviceMemoryError, PlanError
from ...workload.counting import SUPPRESSING, CountedWorkload
from ...workload.trace import ModelProduct
from .device import DeviceSpec
from .divided import DividedModel

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearCost:
    """Straight line through the times of all row counts, least squares; for reports, plans use the exact times.

    Attributes
    ----------
    fixed_s, per_row_s : float
        Time of an evaluation without rows, and of a row.
    worst : float
        Largest relative distance of an exact time from the line.
    """

    fixed_s: float
    per_row_s: float
    worst: float


class EvaluationCosts(Protocol):
    """What evaluations cost on a device that is free of background load; `DeviceCosts`, or what was measured.

    Attributes
    ----------
    leakage_w : float
        Goes on while the device waits.
    """

    leakage_w: float

    def stage_seconds(self, rows: int, images: int | None = None) -> Array:
        """Time of each stage of an evaluation, seconds."""
        ...

    def energy_j(self, rows: int, images: int | None = None) -> float:
        """Energy of an evaluation without leakage."""
        ...


class Costs(Protocol):
    """What `Simulation` needs to know; `CostModel`, or what was measured."""

    @property
    def model(self) -> DividedModel:
        """What is evaluated."""
        ...

    def of(self, device: DeviceSpec) -> EvaluationCosts:
        """Costs on a device."""
        ...


class ProductCounter:
    """Counts products of a workload on one configuration at one operating point, each shape once.

    Parameters
    ----------
    device : DeviceSpec
        Whose hardware and operating point they run on.
    model : DividedModel
        Its weights are resident.
    energy_model : EnergyModel
        Prices of the energies.
    requantise : bool
        Argument of `CostModel`.

    Raises
    ------
    PlanError
        Weights, with the keys and values of all rows, do not fit the device's memory.
    """

    def __init__(self, device: DeviceSpec, model: DividedModel, energy_model: EnergyModel, *, requantise: bool) -> None:
        config = device.config
        errs = device.error_rate > 0
        # Without errors the voltage changes no time: one count serves all voltages at a clock.
        self._protection = SUPPRESSING if errs else UNCHECKED
        if not config.error_model.errs:
            # Only hardware that may err can be moved to another point, even if it does not err there.
            config = replace(config, timing_model=BY_RATE)
        weights = sum(batch * k * n for batch, k, n in model.workload.weights.values())
        needed = weights + model.kv_bytes
        if needed > config.memory.size_bytes:
            raise PlanError(
                f"device {device.name} has {config.memory.size_bytes} bytes of memory, but weights ({weights}) and the "
                f"keys and values of all rows ({model.kv_bytes}) need {needed}"
            )
        try:
            self._counted = CountedWorkload(
                config, model.workload, energy_model, device.delay_model, requantise=requantise
            )
        except DeviceMemoryError as error:
            raise PlanError(f"device {device.name}: {error}") from error
        accelerator = self._counted.accelerator
        voltage = device.voltage_v if errs else NOMINAL_VOLTAGE_V
        accelerator.set_operating_point(voltage_v=voltage, frequency_hz=device.frequency_hz)
        if errs:
            accelerator.set_operating_point(voltage_v=voltage, domain="check")
        accelerator.reset_stats()
        self._seen: dict[tuple[GemmShape, bool], Mapping[str, float]] = {}

    def count(self, product: ModelProduct) -> Mapping[str, float]:
        """`Accelerator.stats` of a product."""
        key = (product.shape, product.is_of_attention)
        if key not in self._seen:
            self._seen[key] = self._counted.evaluate(self._protection, [product])
        return self._seen[key]


class DeviceCosts:
    """What evaluations cost on a device that is free of background load.

    Parameters
    ----------
    device : DeviceSpec
        The device.
    model : DividedModel
        What it evaluates.
    counter : ProductCounter
        Counter of the device's configuration and clock; may be shared by voltages without errors.
    energy_model : EnergyModel
        Prices of leakage.
    """

    def __init__(
        self, device: DeviceSpec, model: DividedModel, counter: ProductCounter, energy_model: EnergyModel
    ) -> None:
        self.device, self.model, self._counter = device, model, counter
        self.leakage_w = leakage_w(device.config, energy_model, device.voltage_v)
        # Without errors, counts are those of the nominal voltage.
        self._switching = energy_model.switching(device.voltage_v) / energy_model.switching(NOMINAL_VOLTAGE_V)
        self._stages: dict[tuple[int, int], Array] = {}
        self._energy: dict[tuple[int, int], float] = {}

    def stage_seconds(self, rows: int, images: int | None = None) -> Array:
        """Time of each stage of an evaluation (`DividedModel.stages`), seconds."""
        self._count(rows, images)
        return self._stages[rows, self.model.images if images is None else images]

    def seconds(self, rows: int, images: int | None = None) -> float:
        """Time of an evaluation of some rows."""
        return float(self.stage_seconds(rows, images).sum())

    def energy_j(self, rows: int, images: int | None = None) -> float:
        """Energy of an evaluation without leakage, which goes on while the device waits."""
        self._count(rows, images)
        return self._energy[rows, self.model.images if images is None else images]

    def _count(self, rows: int, images: int | None) -> None:
        key = (rows, self.model.images if images is None else images)
        if key in self._stages:
            return
        scale = 1.0 if self.device.error_rate else self._switching
        times, energy = [], 0.0
        for stage in self.model.stages(rows, images):
            counts = [self._counter.count(product) for product in stage]
            times.append(sum(each["time_s"] for each in counts))
            for each in counts:
                array = each["energy_mac_j"] + each["energy_check_j"] + each["energy_idle_j"]
                energy += each["energy_j"] - each["energy_leakage_j"] - array * (1 - scale)
        self._stages[key], self._energy[key] = np.array(times), energy

    @cached_property
    def table(self) -> Array:
        """Time of 0..rows token rows, seconds; no rows take no time, as the device is not used."""
        return np.array([0.0, *(self.seconds(rows) for rows in range(1, self.model.rows + 1))])

    def linear(self) -> LinearCost:
        """Fixed and per-row time that fit the exact ones best."""
        rows = np.arange(1, self.model.rows + 1)
        per_row, fixed = np.polyfit(rows, self.table[1:], 1) if len(rows) > 1 else (self.table[1], 0.0)
        worst = np.abs(fixed + per_row * rows - self.table[1:]) / self.table[1:]
        return LinearCost(float(fixed), float(per_row), float(worst.max()))


class CostModel:
    """Costs of a model on any device; counts are shared by devices with equal hardware and clock.

    Parameters
    ----------
    model : DividedModel
        What is evaluated.
    energy_model : EnergyModel, optional
        Prices of the energies.
    requantise : bool
        Whether layers write int8 instead of the int32 sums that `offload` takes to the host.
    """

    def __init__(
        self, model: DividedModel, energy_model: EnergyModel | None = None, *, requantise: bool = True
    ) -> None:
        self.model, self.requantise = model, requantise
        self.energy_model = EnergyModel() if energy_model is None else energy_model
        self._counters: dict[object, ProductCounter] = {}
        self._costs: dict[object, DeviceCosts] = {}

    def on(self, model: DividedModel) -> CostModel:
        """Costs of the same workload divided or coded in another way; shapes that are known are not counted again.

        Raises
        ------
        ValueError
            It is another workload.
        """
        if model.workload != self.model.workload:
            raise ValueError("the model has another workload; make a CostModel of its own for it")
        other = CostModel(model, self.energy_model, requantise=self.requantise)
        other._counters = self._counters
        return other

    def of(self, device: DeviceSpec) -> DeviceCosts:
        """Costs on a device.

        Raises
        ------
        PlanError
            The model does not fit its memory.
        """
        errs = device.error_rate > 0
        key = (
            device.config,
            device.config.memory,
            device.delay_model,
            device.frequency_hz,
            device.voltage_v if errs else None,
        )
        if key not in self._counters:
            self._counters[key] = ProductCounter(device, self.model, self.energy_model, requantise=self.requantise)
        point = (*key, device.voltage_v)
        if point not in self._costs:
            self._costs[point] = DeviceCosts(device, self.model, self._counters[key], self.energy_model)
        return self._costs[point]
