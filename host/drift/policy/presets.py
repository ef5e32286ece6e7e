"""DRIFT's published policies by name (arXiv 2604.09073)."""

from __future__ import annotations

from dataclasses import dataclass

from ...device.power.timing import NOMINAL_VOLTAGE_V
from ..operating_point import OperatingPoint
from ..power_policy import SelectivePolicy, published
from ..strategies import PublishedDrift

UNDERVOLT_V = 0.676
OVERCLOCK_HZ = 3.57e9

MODES = ("undervolt", "overclock")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published policy: one low point, some steps at the nominal point.

    Attributes
    ----------
    name : str
    steps : int
        Steps of the sampler; the protected evaluations depend on it.
    protected : tuple of int
        Evaluations at the nominal point.
    interval : int
        Evaluations from one checkpoint to the next.
    theta : int
        Syndromes below 2^theta are let pass.
    """

    name: str
    steps: int = 50
    protected: tuple[int, ...] = (0, 1)
    interval: int = 10
    theta: int = 10

    def low(self, mode: str = "undervolt") -> OperatingPoint:
        """The low point: 0.676 V at 2 GHz, or 3.57 GHz at 0.9 V.

        The paper's checks do not err: undervolted, the checksum units stay at 0.9 V.

        Raises
        ------
        ValueError
            There is no such mode.
        """
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
        if mode == "overclock":
            return OperatingPoint(frequency_hz=OVERCLOCK_HZ)
        return OperatingPoint(voltage_v=UNDERVOLT_V, check_voltage_v=NOMINAL_VOLTAGE_V)

    def policy(self, mode: str = "undervolt") -> SelectivePolicy:
        """What each product runs at; errors as `low`."""
        return published(self.low(mode), evaluations=self.protected)

    def strategy(self) -> PublishedDrift:
        """Rollback to checkpoints with the published parameters."""
        return PublishedDrift(self.theta, self.interval)


_ALL = (
    Preset(name="drift-dit"),
    Preset(name="drift-pixart", steps=30, protected=(0, 29), interval=8),
    Preset(name="drift-sd15"),
)

PRESETS = {each.name: each for each in _ALL}


def get_preset(name: str) -> Preset:
    """Look a published policy up by name.

    Raises
    ------
    ValueError
        There is none of that name; the message lists those that exist.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; choose one of {', '.join(sorted(PRESETS))}") from None
