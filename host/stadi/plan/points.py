"""Operating points and plan together: slack becomes energy, and a straggler is overclocked."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from brownout.hw.config import ChecksumConfig
from brownout.hw.configurations import SERVER_FLIP
from brownout.hw.errors.model import BY_RATE

from ...device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V
from ...errors import PlanError
from .device import DeviceSpec, FleetSpec
from .planner import Explained, Planner
from .prediction import Predictor

GUARD_BAND_V = 0.85
"""Lowest voltage without errors at the nominal clock."""

MOST_COMBINATIONS = 400
"""Of clocks that are all tried; beyond, one device after another is slowed down."""

assert SERVER_FLIP.checksum is not None
CHECKSUM: ChecksumConfig = SERVER_FLIP.checksum


@dataclass(frozen=True)
class PointedPlan:
    """A plan for devices at chosen operating points.

    Attributes
    ----------
    fleet : FleetSpec
        The devices at their points.
    explained : Explained
        The plan.
    energy_j : float
        Predicted.
    """

    fleet: FleetSpec
    explained: Explained
    energy_j: float


def lowest_voltage_v(device: DeviceSpec, frequency_hz: float, error_rate: float = 0.0) -> float:
    """Lowest voltage for a clock and an error rate, or the lowest that the delay model covers, if that is higher."""
    while True:
        try:
            return device.delay_model.voltage_at_rate(error_rate, frequency_hz)
        except ValueError:
            if frequency_hz >= NOMINAL_FREQUENCY_HZ:
                raise
            frequency_hz *= 1.01


def at_point(device: DeviceSpec, frequency_hz: float, voltage_v: float, *, checked: bool = False) -> DeviceSpec:
    """A device at another operating point, with checksum units if its errors are to be corrected."""
    config = device.config
    if checked and (config.checksum is None or not config.error_model.draws):
        config = replace(config, timing_model=BY_RATE, checksum=config.checksum or CHECKSUM)
    return replace(device, config=config, frequency_hz=frequency_hz, voltage_v=voltage_v)


def at_guard_band(fleet: FleetSpec) -> FleetSpec:
    """Every device at `GUARD_BAND_V` and its clock."""
    return replace(fleet, devices=tuple(replace(device, voltage_v=GUARD_BAND_V) for device in fleet.devices))


def least_energy(
    planner: Planner, latency_s: float, clocks: Sequence[float], *, error_rate: float = 0.0, method: str = "stadi"
) -> PointedPlan:
    """Choose clocks, voltages and plan together, for least energy within a latency.

    Parameters
    ----------
    planner : Planner
        Its fleet's clocks are the highest.
    latency_s : float
        What the predicted latency must not exceed.
    clocks : sequence of float
        Clocks to choose from, over each device's own; 1 should be among them.
    error_rate : float
        Each device gets the lowest voltage with at most this rate at its clock: by default points without errors.
    method : str
        Method of the plans.

    Returns
    -------
    PointedPlan
        With `MOST_COMBINATIONS` or fewer combinations of clocks the best of all; with more, devices are slowed down one
        step at a time, always the one that saves most.

    Raises
    ------
    PlanError
        No combination is fast enough.
    """
    levels = sorted(set(clocks), reverse=True)
    if not levels or not 0 < levels[-1] <= levels[0] <= 1:
        raise ValueError(f"clocks must be shares in 0..1 of each device's own clock, not {list(clocks)}")
    search = _ClockSearch(planner, latency_s, levels, error_rate, method)
    count = len(planner.fleet.devices)
    best = search.exhaustive() if len(levels) ** count <= MOST_COMBINATIONS else search.greedy()
    if best is None:
        raise PlanError(f"no plan at these clocks takes at most {latency_s * 1e3:.2f} ms")
    return best


class _ClockSearch:
    def __init__(
        self, planner: Planner, latency_s: float, levels: Sequence[float], error_rate: float, method: str
    ) -> None:
        self.planner, self.latency_s, self.levels = planner, latency_s, levels
        self.error_rate, self.method = error_rate, method

    def _try(self, chosen: Sequence[int]) -> PointedPlan | None:
        """A plan for levels by number; None if it is too slow."""
        devices = []
        for device, level in zip(self.planner.fleet.devices, chosen, strict=True):
            clock = device.frequency_hz * self.levels[level]
            voltage = lowest_voltage_v(device, clock, self.error_rate)
            devices.append(at_point(device, clock, voltage, checked=self.error_rate > 0))
        fleet = replace(self.planner.fleet, devices=tuple(devices))
        found = _planned(self.planner, fleet, self.method)
        # Prediction of the same plan at the same points must not fail on rounding.
        return found if found.explained.prediction.latency_s <= self.latency_s * (1 + 1e-9) else None

    def exhaustive(self) -> PointedPlan | None:
        combinations = itertools.product(range(len(self.levels)), repeat=len(self.planner.fleet.devices))
        return min(filter(None, map(self._try, combinations)), key=lambda found: found.energy_j, default=None)

    def greedy(self) -> PointedPlan | None:
        chosen = [0] * len(self.planner.fleet.devices)
        best = self._try(chosen)
        while best is not None:
            better = [(found, step) for step in self._slower(chosen) if (found := self._try(step)) is not None]
            if not better:
                return best
            found, step = min(better, key=lambda pair: pair[0].energy_j)
            if found.energy_j >= best.energy_j:
                return best
            best, chosen = found, step
        return None

    def _slower(self, chosen: Sequence[int]) -> Iterator[list[int]]:
        for index, level in enumerate(chosen):
            if level + 1 < len(self.levels):
                yield [*chosen[:index], level + 1, *chosen[index + 1 :]]


def least_latency(
    planner: Planner, error_rate: float, *, among: Sequence[str] | None = None, method: str = "stadi"
) -> PointedPlan:
    """Choose which devices are overclocked to an error rate, corrected and rolled back, for least latency.

    It is not always the slowest: a device that becomes faster than its threshold loses its stride.

    Parameters
    ----------
    planner : Planner
        Planner of the fleet as it is.
    error_rate : float
        Highest one at which protected images keep their quality (docs/drift.md).
    among : sequence of str, optional
        Devices that may be overclocked; by default all.
    method : str
        Method of the plans.

    Returns
    -------
    PointedPlan
        Of all sets of these devices the best, perhaps the empty one.

    Raises
    ------
    ValueError
        The rate is beyond what the delay model covers, or there is no such device.
    """
    names = [device.name for device in planner.fleet.devices]
    allowed = names if among is None else list(among)
    if unknown := sorted(set(allowed) - set(names)):
        raise ValueError(f"among names {unknown[0]!r}, which is no device; there are {', '.join(names)}")
    found = []
    for chosen in itertools.product((False, True), repeat=len(allowed)):
        faster = {name for name, each in zip(allowed, chosen, strict=True) if each}
        devices = tuple(
            at_point(device, device.delay_model.frequency_at_rate(error_rate), NOMINAL_VOLTAGE_V, checked=True)
            if device.name in faster
            else device
            for device in planner.fleet.devices
        )
        found.append(_planned(planner, replace(planner.fleet, devices=devices), method))
    return min(found, key=lambda each: each.explained.prediction.latency_s)


def _planned(planner: Planner, fleet: FleetSpec, method: str) -> PointedPlan:
    moved = planner.on(fleet)
    explained = moved.plan(method)
    return PointedPlan(fleet, explained, Predictor(fleet, moved.costs, moved.availability()).energy_j(explained.plan))
