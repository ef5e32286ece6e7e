"""What a product runs at: voltages and clock, or error rates without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from brownout.hw.errors.constants import NOMINAL_LENGTH
from brownout.hw.errors.state import bit_thresholds

from ..device.accelerator import Accelerator
from ..device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V, TRANSITION_S, DelayModel
from ..storage.decoding import check

GUARD_BAND_V = 0.85
"""Lowest voltage of the published table without errors at 2 GHz."""

LEAST_VOLTAGE_V, MOST_VOLTAGE_V = 0.1, 2.0
LEAST_FREQUENCY_HZ, MOST_FREQUENCY_HZ = 1e6, 1e11
"""Beyond these a number is a slip of the pen, whatever the technology."""

_RANGES = (
    ("voltage_v", LEAST_VOLTAGE_V, MOST_VOLTAGE_V),
    ("frequency_hz", LEAST_FREQUENCY_HZ, MOST_FREQUENCY_HZ),
    ("check_voltage_v", LEAST_VOLTAGE_V, MOST_VOLTAGE_V),
    ("error_rate", 0.0, 1.0),
    ("check_rate", 0.0, 1.0),
)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Operating point of the array and of the checksum units.

    Attributes
    ----------
    voltage_v, frequency_hz : float
        Supply of the array, and clock.
    check_voltage_v : float, optional
        Supply of the checksum units; by default the array's.
    error_rate : float, optional
        Errors per output whatever voltage and clock, which are then nominal (models that draw): for
        characterisation. Such a point has no energy of its own.
    check_rate : float
        Likewise, errors per sum of a row check.
    bit_weights : tuple of 31 float, optional
        Weights with which each bit is hit, with `error_rate`; by default all alike.

    Raises
    ------
    ValueError
        A number is out of range or not finite, or entries exclude each other.
    """

    voltage_v: float = NOMINAL_VOLTAGE_V
    frequency_hz: float = NOMINAL_FREQUENCY_HZ
    check_voltage_v: float | None = None
    error_rate: float | None = None
    check_rate: float = 0.0
    bit_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if value is None and name in ("check_voltage_v", "error_rate"):
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not least <= value <= most:
                raise ValueError(f"OperatingPoint.{name} must be a number in {least:g}..{most:g}, not {value!r}")
        if self.bit_weights is not None:
            bit_thresholds(self.bit_weights)
        if self.error_rate is None and (self.check_rate or self.bit_weights is not None):
            raise ValueError(
                "OperatingPoint.check_rate and bit_weights need error_rate; voltages have rates of their own"
            )
        nominal = (self.voltage_v, self.frequency_hz) == (NOMINAL_VOLTAGE_V, NOMINAL_FREQUENCY_HZ)
        if self.error_rate is not None and not (nominal and self.check_voltage_v is None):
            raise ValueError("OperatingPoint.error_rate stands alone; leave voltages and frequency out")

    def is_safe(self, accelerator: Accelerator, delay_model: DelayModel | None = None) -> bool:
        """Whether no product of the array errs at it.

        Parameters
        ----------
        accelerator : Accelerator
            Accelerator that would run there.
        delay_model : DelayModel, optional
            What to judge by; by default the accelerator's present delay model.

        Raises
        ------
        ValueError
            It is beyond what the delay model covers.
        """
        if self.error_rate is not None:
            return self.error_rate == 0
        config = accelerator.config
        if delay_model is None:
            delay_model = accelerator.delay_model
        if config.error_model.settles:
            lengths = delay_model.lengths(config, self.voltage_v, self.frequency_hz)[:, : config.cols]
            return bool((lengths == NOMINAL_LENGTH).all())
        return delay_model.error_rate(self.voltage_v, self.frequency_hz) == 0

    def apply(self, accelerator: Accelerator, *, seed: int, transition_s: float = TRANSITION_S) -> None:
        """Bring an accelerator there, which takes the transition time of each domain that moves.

        Raises
        ------
        ValueError
            As `Accelerator.set_operating_point` and `Accelerator.set_error_rate`.
        """
        if self.error_rate is not None:
            check = self.check_rate if accelerator.config.checksum is not None else 0.0
            accelerator.set_error_rate(self.error_rate, seed, check, bit_weights=self.bit_weights)
            return
        flips = accelerator.config.error_model.draws
        accelerator.set_operating_point(
            voltage_v=self.voltage_v,
            frequency_hz=self.frequency_hz,
            seed=seed if flips else None,
            transition_s=transition_s,
        )
        if accelerator.config.checksum is not None:
            voltage = self.voltage_v if self.check_voltage_v is None else self.check_voltage_v
            accelerator.set_operating_point(voltage_v=voltage, domain="check", transition_s=transition_s)

    @property
    def label(self) -> str:
        """Short name for tables and plots: ``1e-04``, ``0.68 V``, ``0.9 V 3.57 GHz``, ``nominal``."""
        if self.error_rate is not None:
            return f"{self.error_rate:.3g}"
        parts = []
        if self != OperatingPoint():
            parts.append(f"{self.voltage_v:.4g} V")
        if self.frequency_hz != NOMINAL_FREQUENCY_HZ:
            parts.append(f"{self.frequency_hz / 1e9:.4g} GHz")
        return " ".join(parts) or "nominal"

    def to_dict(self) -> dict[str, Any]:
        """What differs from the nominal point, for JSON."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) != each.default}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Undo `to_dict`.

        Raises
        ------
        FileRefusedError
            An entry is unknown or cannot be.
        """
        return check(dict(data), cls, "an operating point")


NOMINAL = OperatingPoint()
GUARD_BAND = OperatingPoint(voltage_v=GUARD_BAND_V)


def only_bits(bits: Sequence[int]) -> tuple[float, ...]:
    """Weights with which errors hit these bits only, all alike.

    Raises
    ------
    ValueError
        There is none, or one is not in 0..30.
    """
    chosen = set(bits)
    if not chosen or not chosen <= set(range(31)):
        raise ValueError(f"bits must be some of 0..30, not {list(bits)!r}")
    return tuple(float(bit in chosen) for bit in range(31))
