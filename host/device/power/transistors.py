"""What SPICE says of a carry chain over voltage and temperature: the rows of ``data/transistor_delay.csv``."""

from __future__ import annotations

import csv
import importlib.resources
from functools import cache
from typing import NamedTuple

REFERENCE_TEMPERATURE_C = 25.0
"""Delay and leakage are 1 at the nominal voltage and this temperature."""


class TransistorPoint(NamedTuple):
    """Delay and leakage current of the chain at a supply voltage.

    Attributes
    ----------
    relative_voltage : float
        Over the nominal 1.8 V of the process.
    temperature_c : float
    relative_delay, relative_leakage : float
        Of a rising carry and of the supply current at rest, over those at the nominal voltage and 25 C.
    """

    relative_voltage: float
    temperature_c: float
    relative_delay: float
    relative_leakage: float


@cache
def transistor_data() -> tuple[TransistorPoint, ...]:
    """All points, temperatures ascending, voltages of each descending from the nominal one."""
    path = importlib.resources.files(__package__) / "data" / "transistor_delay.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return tuple(
        TransistorPoint(*(float(row[name]) for name in TransistorPoint._fields)) for row in csv.DictReader(lines)
    )
