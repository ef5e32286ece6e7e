"""Where a voltage comes from: what a rail draws from its supply for the energy that it delivers.

Energy at a rail goes with the square of its voltage; what is saved is decided in front of the regulator. A linear one
passes the same charge at the supply's voltage and so turns half of what the square saves into heat; a switching one
loses a nearly constant share.
"""

from __future__ import annotations

from dataclasses import dataclass

from .timing import NOMINAL_VOLTAGE_V

LOW_VOLTAGE_V = 0.62
"""Where a switching converter's efficiency is that of low voltages."""


@dataclass(frozen=True, kw_only=True)
class Regulator:
    """Supply of a voltage domain.

    Attributes
    ----------
    name : str
        For tables and results.
    linear : bool
        Whether the charge that a rail takes comes at `supply_v`: a low-dropout regulator.
    efficiency, low_efficiency : float
        Energy delivered over energy taken, at the nominal voltage and at `LOW_VOLTAGE_V` or below; linear between them
        (0 to 1, exclusive of 0). For a linear regulator, what its control leaves of the charge.
    supply_v : float
        In front of a linear regulator, volts.
    transition_s : float
        Time to settle at another voltage, seconds.
    """

    name: str
    linear: bool = False
    efficiency: float = 1.0
    low_efficiency: float = 1.0
    supply_v: float = NOMINAL_VOLTAGE_V
    transition_s: float = 100e-9

    def __post_init__(self) -> None:
        for name in ("efficiency", "low_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"Regulator.{name} must be above 0 and at most 1, not {getattr(self, name)!r}")
        for name in ("supply_v", "transition_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Regulator.{name} must be positive, not {getattr(self, name)!r}")

    def drawn(self, voltage_v: float) -> float:
        """Energy taken from the supply for each joule at a rail of `voltage_v` volts.

        Raises
        ------
        ValueError
            A linear regulator cannot give more than its supply.
        """
        span = (NOMINAL_VOLTAGE_V - voltage_v) / (NOMINAL_VOLTAGE_V - LOW_VOLTAGE_V)
        share = min(max(span, 0.0), 1.0)
        efficiency = self.efficiency + share * (self.low_efficiency - self.efficiency)
        if not self.linear:
            return 1 / efficiency
        if voltage_v > self.supply_v:
            raise ValueError(f"voltage_v must be at most the {self.supply_v:g} V of {self.name!r}, not {voltage_v!r}")
        return self.supply_v / voltage_v / efficiency


IDEAL = Regulator(name="ideal")
"""Loses nothing: what a saving that goes with the square of the voltage assumes."""

SWITCHING = Regulator(name="switching", efficiency=0.93, low_efficiency=0.90, transition_s=10e-6)
"""A converter beside the chip: 0.93 at the nominal voltage, 0.90 at low ones; 10 us to settle, the least of the 10 to
100 us that such converters take."""

INTEGRATED = Regulator(name="integrated", efficiency=0.90, low_efficiency=0.85, transition_s=500e-9)
"""A converter in the package: up to 0.90 (Burton et al., "FIVR: fully integrated voltage regulators on 4th generation
Intel Core SoCs", APEC 2014); 0.5 us to settle, from the same source's sub-microsecond state transitions."""

LDO = Regulator(name="ldo", linear=True, transition_s=100e-9)
"""A digital low-dropout regulator from the 0.9 V rail; 25 to 148 ns to settle (65 nm)."""

REGULATORS = {each.name: each for each in (IDEAL, SWITCHING, INTEGRATED, LDO)}
