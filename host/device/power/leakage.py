"""Leakage power over voltage and temperature.

By Liao, He and Lepak, "Temperature and Supply Voltage Aware Performance and Power Modeling at Microarchitecture Level"
(IEEE TCAD 24(7), 2005): I(T, V) ~ A T^2 exp((alpha V + beta) / T) + B exp(gamma V + delta), with their constants of
65 nm as public programs quote them; they meet six currents quoted from the article (0.95, 1.05 V, 60 to 100 C) within
0.5 %. Lower voltages are extrapolation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .timing import NOMINAL_VOLTAGE_V

LAWS = ("liao", "constant")
REFERENCE_K = 358.15


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """How leakage power depends on the supply.

    Attributes
    ----------
    law : {"liao", "constant"}
        Voltage times a current, or the same at every voltage.
    temperature_k : float
        Of the transistors, kelvin; 358.15 (85 C) is where power at the nominal voltage is 1.
    """

    law: str = "liao"
    temperature_k: float = REFERENCE_K

    def __post_init__(self) -> None:
        if self.law not in LAWS:
            raise ValueError(f"Leakage.law must be {' or '.join(map(repr, LAWS))}, not {self.law!r}")
        if not self.temperature_k > 0:
            raise ValueError(f"Leakage.temperature_k must be positive, not {self.temperature_k!r}")

    def relative_power(self, voltage_v: float) -> float:
        """Power over that at the nominal point."""
        if self.law == "constant":
            return 1.0

        def power(v: float, t: float) -> float:
            return v * (
                1.1432e-12 * t**2 * math.exp((466.4029 * v - 1224.74083) / t)
                + 1.0126e-14 * math.exp(6.28153 * v + 6.9094)
            )

        return power(voltage_v, self.temperature_k) / power(NOMINAL_VOLTAGE_V, REFERENCE_K)
