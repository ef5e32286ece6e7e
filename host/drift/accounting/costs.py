"""Saving and speed of a protection scheme under the published cost model, and the best scheme at kept quality.

Energy is that of `published_saving`; a scheme adds the energy of its checks, cycles and memory traffic. Time is that of
the array: at the published intensities memory hides behind it (docs/drift.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean

from brownout.hw.config import ChecksumConfig

from ...device.power.check_prices import check_share
from ...device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V, DelayModel
from .published import CHECK_ENERGY, PUBLISHED, TILE, PublishedModel, published_saving


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What protection costs, beside the product that it protects.

    Attributes
    ----------
    name : str
        Short name for tables.
    energy : float
        Energy of the checks over compute energy, both at the array's voltage.
    check_voltage : float
        Where the voltage of the checks lies: 0 the array's, 1 the lowest one without errors.
    cycles : float
        Share of the cycles added: rows of digits that pass through the array.
    memory : float or None
        DRAM energy over that of the unprotected run; None: as published for each model.
    checked_at_nominal : bool
        Whether evaluations at the nominal point are checked too.
    """

    name: str
    energy: float = 0.0
    check_voltage: float = 0.0
    cycles: float = 0.0
    memory: float | None = 1.0
    checked_at_nominal: bool = False

    def __post_init__(self) -> None:
        for name in ("energy", "cycles"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Scheme.{name} must not be negative, but is {getattr(self, name)!r}")
        if not 0 <= self.check_voltage <= 1:
            raise ValueError(f"Scheme.check_voltage must be in 0..1, not {self.check_voltage!r}")
        if self.memory is not None and not self.memory >= 0:
            raise ValueError(f"Scheme.memory must not be negative, but is {self.memory!r}")


NONE = Scheme(name="none")

DRIFT = Scheme(name="drift", energy=CHECK_ENERGY, cycles=1 / TILE, memory=None)
"""As published. Half of the MACs that the checks add are a column beside the array, the other half a row that passes
through it, one for every `TILE` rows."""

CHECK_SHARES = {
    width: check_share(ChecksumConfig(scheme="residue", segment_cols=width, column_checks=False))
    for width in (32, 16, 8)
}
"""Energy of residue checks with one locator over that of the array, by columns of a segment, at equal voltage: from the
transistors that switch in every cycle (``benchmarks/netlists.py``)."""

ROLLBACK_SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(name=f"residue x1 S{width} V{voltage:g}", energy=share, check_voltage=voltage)
        for width, share in CHECK_SHARES.items()
        for voltage in (0.0, 0.25, 0.5)
    )
}
"""Residue checks without column checks, which add no cycles (0.1 to 0.3 %: the ends of commands, docs/models.md), and
roll back by not writing, which adds no traffic. Named as in ``benchmarks/abft.py``."""


def check_voltage_v(scheme: Scheme, voltage_v: float, delay_model: DelayModel) -> float:
    """Voltage of the checks beside an array at `voltage_v` and the nominal clock; never below the array's."""
    return voltage_v + scheme.check_voltage * max(0.0, delay_model.voltage_at_rate(0) - voltage_v)


def saving(model: PublishedModel, scheme: Scheme, voltage_v: float, delay_model: DelayModel | None = None) -> float:
    """Energy that an undervolted image saves, as a share of the unprotected one's at nominal voltage.

    Parameters
    ----------
    model : PublishedModel
        Architecture; its nominal steps stay nominal.
    scheme : Scheme
        Protection of all other steps.
    voltage_v : float
        Voltage of the array in those.
    delay_model : DelayModel, optional
        Says which voltage is safe for the checks; by default the published table.
    """
    check_v = check_voltage_v(scheme, voltage_v, DelayModel() if delay_model is None else delay_model)
    return published_saving(
        model,
        voltage_v,
        check_energy=scheme.energy * (check_v / voltage_v) ** 2,
        memory_factor=scheme.memory,
        checked_at_nominal=scheme.checked_at_nominal,
    )


def speedup(model: PublishedModel, scheme: Scheme, frequency_hz: float) -> float:
    """Time of an unprotected image at the nominal clock over that of an overclocked one.

    Cycles are bound by the array, so time goes with 1 / f; nominal steps stay at the nominal clock.
    """
    checked = 1 + scheme.cycles
    nominal = model.nominal_share * (checked if scheme.checked_at_nominal else 1)
    return 1 / (nominal + (1 - model.nominal_share) * checked * NOMINAL_FREQUENCY_HZ / frequency_hz)


@dataclass(frozen=True, kw_only=True)
class SchemePoint:
    """A scheme at an operating point.

    Attributes
    ----------
    scheme : Scheme
        Scheme that protects.
    error_rate : float
        Errors per output at the point.
    voltage_v, frequency_hz : float
        Voltage and clock of the array in undervolted or overclocked steps.
    by_model : dict of str to float
        Saving, or speed over nominal, of each published model.
    """

    scheme: Scheme
    error_rate: float
    voltage_v: float
    frequency_hz: float
    by_model: dict[str, float]

    @property
    def average(self) -> float:
        """Mean over the models, as the paper's."""
        return mean(self.by_model.values())


def saving_at_rate(
    scheme: Scheme,
    error_rate: float,
    delay_model: DelayModel | None = None,
    models: Mapping[str, PublishedModel] = PUBLISHED,
) -> SchemePoint:
    """Savings at the lowest voltage with at most this error rate, at the nominal clock.

    Raises
    ------
    ValueError
        The rate is beyond the published table.
    """
    delay_model = DelayModel() if delay_model is None else delay_model
    voltage = delay_model.voltage_at_rate(error_rate)
    by_model = {name: saving(model, scheme, voltage, delay_model) for name, model in models.items()}
    return SchemePoint(
        scheme=scheme,
        error_rate=error_rate,
        voltage_v=voltage,
        frequency_hz=NOMINAL_FREQUENCY_HZ,
        by_model=by_model,
    )


def speedup_at_rate(
    scheme: Scheme,
    error_rate: float,
    delay_model: DelayModel | None = None,
    models: Mapping[str, PublishedModel] = PUBLISHED,
) -> SchemePoint:
    """Speeds at the highest clock with at most this error rate, at the nominal voltage.

    Raises
    ------
    ValueError
        The rate is beyond the published table, or the checks should have a higher voltage than the array: there is
        none at which they keep up with the clock.
    """
    if scheme.check_voltage:
        raise ValueError(
            f"scheme {scheme.name!r} has check_voltage={scheme.check_voltage:g}, but overclocked checks are at the "
            "nominal voltage like the array; choose a scheme with check_voltage=0"
        )
    delay_model = DelayModel() if delay_model is None else delay_model
    frequency = delay_model.frequency_at_rate(error_rate)
    by_model = {name: speedup(model, scheme, frequency) for name, model in models.items()}
    return SchemePoint(
        scheme=scheme,
        error_rate=error_rate,
        voltage_v=NOMINAL_VOLTAGE_V,
        frequency_hz=frequency,
        by_model=by_model,
    )


def best_saving(rates: Mapping[str, float], schemes: Mapping[str, Scheme] = ROLLBACK_SCHEMES) -> SchemePoint:
    """Scheme with the largest average saving, each at the highest error rate at which it keeps quality.

    Parameters
    ----------
    rates : mapping of str to float
        Highest error rate of each scheme, by its name, as measured.
    schemes : mapping of str to Scheme
        What the names mean.

    Raises
    ------
    ValueError
        There is no rate, or one of an unknown scheme.
    """
    return _best(saving_at_rate(_named(schemes, name), rate) for name, rate in rates.items())


def best_speedup(rates: Mapping[str, float], schemes: Mapping[str, Scheme] = ROLLBACK_SCHEMES) -> SchemePoint:
    """Scheme with the largest average speed; as `best_saving`.

    Raises
    ------
    ValueError
        As `best_saving` and `speedup_at_rate`.
    """
    return _best(speedup_at_rate(_named(schemes, name), rate) for name, rate in rates.items())


def _named(schemes: Mapping[str, Scheme], name: str) -> Scheme:
    if name not in schemes:
        raise ValueError(f"rates must name schemes among {', '.join(map(repr, schemes))}, not {name!r}")
    return schemes[name]


def _best(choices: Iterable[SchemePoint]) -> SchemePoint:
    found = list(choices)
    if not found:
        raise ValueError("rates must name at least one scheme")
    return max(found, key=lambda choice: choice.average)
