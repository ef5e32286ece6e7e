"""From voltage and clock to timing errors: the models that turn an operating point into rates and carry lengths.

Everything goes by *relative delay*: the time a path takes at the operating point, in periods of its clock, over what it
takes at the nominal point. 1 is nominal; up to `SAFE_DELAY` the guard band absorbs it.
"""

from __future__ import annotations

import csv
import importlib.resources
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import ACC_BITS, AcceleratorConfig
from brownout.hw.errors.constants import NOMINAL_LENGTH
from brownout.hw.errors.state import check_columns
from brownout.hw.residues import RESIDUE_BITS

from ...storage.packable import packable
from .transistors import REFERENCE_TEMPERATURE_C, transistor_data

NOMINAL_VOLTAGE_V = 0.9
NOMINAL_FREQUENCY_HZ = 2e9
"""Of the 14 nm design in ``data/drift_voltage_ber.csv``."""

SAFE_DELAY = 1.116
"""Relative delay up to which nothing errs: the last error-free point of the table."""

FIRST_ERRORS = (1.125, 1e-6)
"""Relative delay and rate of the first published point with errors: 2.25 GHz at 0.9 V (arXiv 2604.09073)."""

DELAY_LAWS = ("table", "alpha-power", "transistors")
CARRY_LAWS = ("linear", "prefix")

TRANSITION_S = 100e-9
"""Settling time of an on-chip regulator; published digital LDOs take 25 to 148 ns (65 nm)."""


@cache
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Voltages descending, relative delays, error rates."""
    path = importlib.resources.files(__package__) / "data" / "drift_voltage_ber.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = [
        [float(row[name]) for name in ("voltage_v", "relative_delay", "error_rate")] for row in csv.DictReader(lines)
    ]
    voltage, delay, rate = np.array([[NOMINAL_VOLTAGE_V, 1.0, 0.0], *rows]).T
    return voltage, delay, rate


@cache
def _transistors() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voltages descending, scaled to the nominal one, and logarithms of relative delays."""
    rows = [row for row in transistor_data() if row.temperature_c == REFERENCE_TEMPERATURE_C]
    voltage, delay = np.array([(row.relative_voltage * NOMINAL_VOLTAGE_V, row.relative_delay) for row in rows]).T
    return voltage, np.log(delay)


def error_rate_of_delay(relative_delay: float) -> float:
    """Errors per output at a relative delay: G in rate(V, f) = G(f * d(V) / f_nom).

    Exactly 0 up to `SAFE_DELAY`; beyond, linear in the logarithm of the rate between published points, and below
    the first of these (`FIRST_ERRORS`) on the line through the first two.

    Raises
    ------
    ValueError
        Beyond the last published point.
    """
    _, delays, rates = _table()
    if relative_delay <= SAFE_DELAY:
        return 0.0
    if relative_delay > delays[-1]:
        raise ValueError(
            f"a relative delay of {relative_delay:.4g} is beyond the table, which ends at {delays[-1]:g}; "
            "raise voltage_v or lower frequency_hz"
        )
    known = rates > 0
    x = np.array([FIRST_ERRORS[0], *delays[known]])
    y = np.log([FIRST_ERRORS[1], *rates[known]])
    piece = max(0, int(np.searchsorted(x, relative_delay)) - 1)
    slope = (y[piece + 1] - y[piece]) / (x[piece + 1] - x[piece])
    return float(math.exp(y[piece] + slope * (relative_delay - x[piece])))


def delay_of_error_rate(rate: float) -> float:
    """Largest relative delay at which no more than `rate` of the outputs err: the inverse of `error_rate_of_delay`.

    `SAFE_DELAY` up to the rate at which errors set in there (about 3.5e-7).

    Raises
    ------
    ValueError
        The rate is negative, or beyond the last published point.
    """
    _, delays, rates = _table()
    if not 0 <= rate <= rates[-1]:
        raise ValueError(f"an error rate must be in 0..{rates[-1]:g}, where the table ends, not {rate!r}")
    if rate == 0:
        return SAFE_DELAY
    known = rates > 0
    x = np.array([FIRST_ERRORS[0], *delays[known]])
    y = np.array([FIRST_ERRORS[1], *rates[known]])
    if (exact := np.flatnonzero(y == rate)).size:
        return float(x[exact[0]])
    logs = np.log(y)
    piece = max(0, int(np.searchsorted(y, rate)) - 1)
    slope = (x[piece + 1] - x[piece]) / (logs[piece + 1] - logs[piece])
    return float(max(SAFE_DELAY, x[piece] + slope * (math.log(rate) - logs[piece])))


def largest_delay() -> float:
    """Relative delay at which the published table ends."""
    return float(_table()[1][-1])


@packable("timing.TimingLaw")
@dataclass(frozen=True, kw_only=True)
class DelayModel:
    """How delays depend on the operating point, and what a delay does to the elements of an array.

    Attributes
    ----------
    delay : {"table", "alpha-power", "transistors"}
        Delay over voltage: interpolated in ``data/drift_voltage_ber.csv``, or V / (V - threshold)^alpha, or of a
        rising carry at 25 C in SPICE of a 130 nm process, its logarithm interpolated in
        ``data/transistor_delay.csv`` with 1.8 V as 0.9 V.
    threshold_v, alpha : float
        Parameters of the alpha-power law (Sakurai and Newton, IEEE JSSC 25(2), 1990). 0.30 V and 1.8 fit the table
        within 8 %; 1.3 is the textbook value of short channels.
    carry : {"linear", "prefix"}
        Settling time of a carry chain (models with settled lengths): proportional to its length (ripple adder), or to
        the logarithm of its length (parallel-prefix adder).
    fixed_share : float
        Part of an element's delay that is not the carry chain: multiplier and register. A choice, not a measurement.
    variation : float
        Standard deviation of the logarithm of an element's delay (process variation), cut at three of them, which
        stays inside the guard band at the nominal point up to 0.036.
    process_seed : int
        Names the chip: which elements are slow.
    delay_factor : float
        What temperature and ageing make of all delays: 1.05 if everything takes 5 % longer than when the chip was new
        and cool.
    """

    delay: str = "table"
    threshold_v: float = 0.30
    alpha: float = 1.8
    carry: str = "linear"
    fixed_share: float = 0.4
    variation: float = 0.03
    process_seed: int = 0
    delay_factor: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (("delay", DELAY_LAWS), ("carry", CARRY_LAWS)):
            if getattr(self, name) not in choices:
                expected = " or ".join(map(repr, choices))
                raise ValueError(f"DelayModel.{name} must be {expected}, not {getattr(self, name)!r}")
        if not 0 <= self.threshold_v < NOMINAL_VOLTAGE_V:
            raise ValueError(f"DelayModel.threshold_v must be in 0..0.9 V (exclusive), not {self.threshold_v!r}")
        if not self.alpha > 0:
            raise ValueError(f"DelayModel.alpha must be positive, not {self.alpha!r}")
        if not 0 <= self.fixed_share < 1:
            raise ValueError(f"DelayModel.fixed_share must be in 0..1 (exclusive), not {self.fixed_share!r}")
        if not self.variation >= 0:
            raise ValueError(f"DelayModel.variation must not be negative, but is {self.variation!r}")
        if not 0 < self.delay_factor < math.inf:
            raise ValueError(f"DelayModel.delay_factor must be positive, not {self.delay_factor!r}")

    def delay_at(self, voltage_v: float) -> float:
        """Delay over that at 0.9 V, whatever `delay_factor` is.

        Raises
        ------
        ValueError
            The table does not reach that voltage, or transistors do not switch at it.
        """
        if self.delay == "alpha-power":
            if not voltage_v > self.threshold_v:
                raise ValueError(f"voltage_v must be above the threshold of {self.threshold_v:g} V, not {voltage_v!r}")

            def law(voltage: float) -> float:
                return voltage / (voltage - self.threshold_v) ** self.alpha

            return law(voltage_v) / law(NOMINAL_VOLTAGE_V)
        voltages, delays = _transistors() if self.delay == "transistors" else _table()[:2]
        if not voltages[-1] <= voltage_v <= voltages[0]:
            raise ValueError(
                f"voltage_v must be in {voltages[-1]:g}..{voltages[0]:g} V, where the delay is known, "
                f"not {voltage_v!r}; DelayModel(delay='alpha-power') has no such limits"
            )
        value = float(np.interp(voltage_v, voltages[::-1], delays[::-1]))
        return math.exp(value) if self.delay == "transistors" else value

    def relative_delay(self, voltage_v: float, frequency_hz: float) -> float:
        """Delay at a voltage in clock periods, over the nominal of a chip with a `delay_factor` of 1."""
        return frequency_hz / NOMINAL_FREQUENCY_HZ * self.delay_at(voltage_v) * self.delay_factor

    def error_rate(self, voltage_v: float, frequency_hz: float) -> float:
        """Errors per output, of models that draw.

        Raises
        ------
        ValueError
            The point is beyond what is published.
        """
        return error_rate_of_delay(self.relative_delay(voltage_v, frequency_hz))

    def voltage_at_rate(self, rate: float, frequency_hz: float = NOMINAL_FREQUENCY_HZ) -> float:
        """Lowest voltage at which no more than `rate` of the outputs err, at a clock.

        Raises
        ------
        ValueError
            The rate is out of range, or the clock so fast that the voltage would be above the nominal one or so slow
            that it would be below what is known.
        """
        if not frequency_hz > 0:
            raise ValueError(f"frequency_hz must be positive, not {frequency_hz!r}")
        delay = delay_of_error_rate(rate)
        if self.relative_delay(NOMINAL_VOLTAGE_V, frequency_hz) > delay:
            raise ValueError(
                f"at {frequency_hz:g} Hz more than {rate:g} of the outputs err even at {NOMINAL_VOLTAGE_V:g} V; "
                f"lower frequency_hz to at most {self.frequency_at_rate(rate):g}"
            )
        voltage = self._voltage_of_delay(delay / self.delay_factor * NOMINAL_FREQUENCY_HZ / frequency_hz)
        # Rounding must not pass the delay: at the safe one the rate has a jump.
        while self.relative_delay(voltage, frequency_hz) > delay:
            voltage = math.nextafter(voltage, math.inf)
        return voltage

    def frequency_at_rate(self, rate: float, voltage_v: float = NOMINAL_VOLTAGE_V) -> float:
        """Highest clock in hertz at which no more than `rate` of the outputs err, at a voltage.

        Raises
        ------
        ValueError
            Rate or voltage are out of range.
        """
        delay = delay_of_error_rate(rate)
        frequency = NOMINAL_FREQUENCY_HZ * delay / (self.delay_factor * self.delay_at(voltage_v))
        while self.relative_delay(voltage_v, frequency) > delay:
            frequency = math.nextafter(frequency, 0)
        return frequency

    def _voltage_of_delay(self, delay: float) -> float:
        """Inverse of `delay_at`, for delays of at least 1."""
        if self.delay == "table":
            voltages, delays, _ = _table()
            if delay > delays[-1]:
                raise ValueError(
                    f"a delay of {delay:.4g} times the nominal is beyond the table, which ends at {delays[-1]:g} "
                    f"({voltages[-1]:g} V); raise frequency_hz or use DelayModel(delay='alpha-power')"
                )
            return float(np.interp(delay, delays, voltages))
        if self.delay == "transistors":
            voltages, logs = _transistors()
            if (log := math.log(delay)) > logs[-1]:
                raise ValueError(
                    f"a delay of {delay:.4g} times the nominal is beyond the transistors, which end at "
                    f"{math.exp(logs[-1]):.4g} ({voltages[-1]:g} V); raise frequency_hz or use "
                    "DelayModel(delay='alpha-power')"
                )
            return float(np.interp(log, logs, voltages))
        low, high = self.threshold_v, NOMINAL_VOLTAGE_V
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if self.delay_at(middle) > delay else (low, middle)
        return high

    def lengths(self, config: AcceleratorConfig, voltage_v: float, frequency_hz: float) -> NDArray[np.uint8]:
        """Settled carry length of every element at an operating point, of models with settled lengths.

        Every adder is laid out so that its longest carry just settles at `SAFE_DELAY`, with
        t(L) = fixed_share + (1 - fixed_share) * L / (width - 1), or log(L + 1) / log(width) in place of the quotient.

        Returns
        -------
        uint8 array (rows, cols + check columns)
            0..63; 63 where every carry settles.
        """
        shape = (config.rows, config.cols + check_columns(config))
        normal = np.random.default_rng(self.process_seed).standard_normal(shape)
        factors = np.exp(self.variation * np.clip(normal, -3, 3))
        widths = np.array([ACC_BITS] * config.cols + _check_widths(config))
        budget = SAFE_DELAY / (self.relative_delay(voltage_v, frequency_hz) * factors)
        share = np.maximum((budget - self.fixed_share) / (1 - self.fixed_share), 0)
        lengths = (widths - 1) * share if self.carry == "linear" else widths**share - 1
        return np.where(share >= 1, NOMINAL_LENGTH, np.minimum(lengths, NOMINAL_LENGTH)).astype(np.uint8)


def _check_widths(config: AcceleratorConfig) -> list[int]:
    """Bits of the adders of the check columns, in their order."""
    checksum = config.checksum
    if checksum is None:
        return []
    bits = [RESIDUE_BITS + 1 if checksum.modulus(j) else checksum.check_bits(j) for j in range(checksum.checks)]
    return bits * len(config.segments)
