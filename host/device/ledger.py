"""What an accelerator has counted since the start or the last reset, through restarts of its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from brownout.hw.config import AcceleratorConfig

from ..storage.decoding import check
from ..storage.state import State
from .backends.base import Backend
from .power.energy import EnergyMeter, EnergyModel


@dataclass(frozen=True)
class _Values:
    """State of a ledger."""

    counters: dict[str, int]
    baseline: dict[str, int]
    ideal_cycles: int
    suppressed_unwritten: int
    reloaded: int


class Ledger:
    """Hardware counters from a baseline on, what the host counts beside them, time and energy.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    model : EnergyModel
        Model of the energy per event.

    Attributes
    ----------
    meter : EnergyMeter
        Meter of time and energy.
    ideal_cycles : int
        Cycles of an array that is never idle.
    suppressed_unwritten : int
        Marked elements of slots that nothing had been written to.
    reloaded : int
        Elements copied from a checkpoint.
    """

    def __init__(self, config: AcceleratorConfig, model: EnergyModel) -> None:
        self.meter = EnergyMeter(config, model)
        self._has_checks = config.checksum is not None
        self._baseline: dict[str, int] = {}
        # What the device had counted before, in another process or before it was lost.
        self._carried: dict[str, int] = {}
        self._reset_own()

    def _reset_own(self) -> None:
        self.ideal_cycles = self.suppressed_unwritten = self.reloaded = 0

    def counters(self, device: Backend) -> dict[str, int]:
        """Hardware counters since the start."""
        return {name: value + self._carried.get(name, 0) for name, value in device.counters().items()}

    def charge(self, device: Backend) -> None:
        """Charge what has been done so far to the present operating points."""
        self.meter.update(self.counters(device))

    def stats(self, device: Backend) -> Mapping[str, float]:
        """As `Accelerator.stats`."""
        counts = self.counters(device)
        stats: dict[str, float] = {name: value - self._baseline.get(name, 0) for name, value in counts.items()}
        stats["ideal_cycles"] = self.ideal_cycles
        if self._has_checks:
            stats["suppressed_unwritten"] = self.suppressed_unwritten
            stats["reloaded"] = self.reloaded
        return {**stats, **self.meter.totals(counts)}

    def leave_out(self, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Let what was counted between two readings of `counters` have taken neither time nor energy."""
        for name, value in after.items():
            self._baseline[name] = self._baseline.get(name, 0) + value - before.get(name, 0)
        self.meter.skip(after)

    def reset(self, device: Backend) -> None:
        """Count from zero again."""
        self._baseline = self.counters(device)
        self.meter.reset(self._baseline)
        self._reset_own()

    def restart(self) -> None:
        """Begin at zero, as a device that has been started anew does."""
        self._baseline, self._carried = {}, {}
        self.meter.reset({})
        self._reset_own()

    def state(self, device: Backend) -> State:
        """Counts, without the meter's."""
        return State(
            {
                "counters": self.counters(device),
                "baseline": dict(self._baseline),
                "ideal_cycles": self.ideal_cycles,
                "suppressed_unwritten": self.suppressed_unwritten,
                "reloaded": self.reloaded,
            }
        )

    def load_state(self, state: State, device: Backend) -> None:
        """Go on from a state of `state`, with a device that counts from elsewhere."""
        counts = state.values
        check(counts, _Values, "the state of the counters")
        self._carried = {name: counts["counters"][name] - value for name, value in device.counters().items()}
        self._baseline = dict(counts["baseline"])
        self.ideal_cycles = counts["ideal_cycles"]
        self.suppressed_unwritten, self.reloaded = counts["suppressed_unwritten"], counts["reloaded"]
