"""The runs that the demo compares: nominal, undervolted without protection, undervolted with rollback."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.model import BY_RATE

from ..device.power.timing import DelayModel
from ..drift.operating_point import GUARD_BAND_V, NOMINAL, OperatingPoint
from ..drift.power_policy import PowerPolicy, SelectivePolicy, constant
from ..drift.strategies import Rollback, Strategy, Unprotected
from . import DEFAULT_VOLTAGE_V


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One of the runs.

    Attributes
    ----------
    name : str
        Word in names of metrics.
    title : str
        On the page.
    point : OperatingPoint
        Where most of the run is.
    policy : callable
        What each product runs at.
    strategy : Strategy
        What is done about errors.
    """

    name: str
    title: str
    point: OperatingPoint
    policy: PowerPolicy
    strategy: Strategy


def undervolted(voltage_v: float) -> OperatingPoint:
    """Array at a voltage at which it errs, its checksum units half way to the guard band.

    Raises
    ------
    ValueError
        Nothing errs at that voltage, or it is beyond what the delay model covers.
    """
    low = OperatingPoint(voltage_v=voltage_v, check_voltage_v=(voltage_v + GUARD_BAND_V) / 2)
    if not DelayModel().error_rate(low.voltage_v, low.frequency_hz):
        raise ValueError(f"nothing errs at {voltage_v!r} V; choose a voltage below {GUARD_BAND_V} V")
    return low


def scenarios(voltage_v: float = DEFAULT_VOLTAGE_V) -> tuple[Scenario, Scenario, Scenario]:
    """The three runs, in the order of the page.

    Both undervolted runs have one policy: every product, attention and embeddings included, is at the low point from
    the second evaluation on. The first is nominal, because there is nothing to go back to.

    Raises
    ------
    ValueError
        As `undervolted`.
    """
    low = undervolted(voltage_v)
    policy = SelectivePolicy(low=low, first=1)
    return (
        Scenario(
            name="nominal",
            title="Nominal voltage",
            point=NOMINAL,
            policy=constant(NOMINAL),
            strategy=Unprotected(),
        ),
        Scenario(
            name="unprotected",
            title="Undervolted, unprotected",
            point=low,
            policy=policy,
            strategy=Unprotected(),
        ),
        Scenario(
            name="rollback",
            title="Undervolted, with rollback",
            point=low,
            policy=policy,
            # Attention is not repeated where checks cannot correct it: that would cost more in memory traffic than
            # undervolting saves, and does not show in the pictures.
            strategy=Rollback(attempts=0),
        ),
    )


def hardware(config: AcceleratorConfig) -> AcceleratorConfig:
    """The one accelerator on which all of them run: `config` with timing errors and what rollback needs."""
    return Rollback().hardware(replace(config, timing_model=BY_RATE))
