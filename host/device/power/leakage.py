"""Leakage power over voltage and temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .timing import NOMINAL_VOLTAGE_V

LAWS = ("liao", "constant")
REFERENCE_K = 358.15


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Law and temperature."""

    law: str = "liao"
    temperature_k: float = REFERENCE_K

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
