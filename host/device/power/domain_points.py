"""Operating points of an accelerator's voltage domains: what is asked for, and the commands that bring it about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.dram import MemoryTiming
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import UNIFORM_BITS

from ...storage.decoding import Count, Positive, Uint32, check
from ...storage.decoding import Fraction as Rate
from ...storage.state import State
from .timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V, DelayModel

RATE_ONE = 1 << 32
"""Rates are errors per this many draws."""

SEED_LIMIT = RATE_ONE - 1


@dataclass(frozen=True)
class DomainPoint:
    """Voltage and clock of a voltage domain, and what comes of them.

    Attributes
    ----------
    voltage_v, frequency_hz : float
        Supply in volts, and clock in hertz.
    error_rate : float
        Errors per sum (a model of errors that `draws`).
    by_delay_model : bool
        Whether the rate is what voltage and clock make of it, and changes with the delay model.
    """

    voltage_v: float = NOMINAL_VOLTAGE_V
    frequency_hz: float = NOMINAL_FREQUENCY_HZ
    error_rate: float = 0.0
    by_delay_model: bool = field(default=True, compare=False, repr=False)

    @property
    def rate(self) -> int:
        """Errors per 2^32 draws."""
        return min(round(self.error_rate * RATE_ONE), RATE_ONE - 1)


def memory_timing(config: AcceleratorConfig, frequency_hz: float) -> MemoryTiming:
    """Latency and bandwidth of the memory in cycles of a clock, which is rounded to whole hertz.

    Raises
    ------
    ValueError
        They cannot be represented.
    """
    return MemoryTiming.at_clock(config.memory, Fraction(round(frequency_hz), round(NOMINAL_FREQUENCY_HZ)))


@dataclass(frozen=True)
class _Values:
    """State of the points of domains."""

    seed: Uint32
    bits: list[Uint32]
    wanted: list[tuple[Positive, Positive, Rate, bool]]
    table: list[tuple[Positive, Positive, Rate, bool]]
    assigned: list[Count]


class Device(Protocol):
    """What an operating point is brought about with; every `Backend` is one."""

    def set_memory_timing(self, timing: MemoryTiming) -> None:
        """As `Backend.set_memory_timing`."""

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        """As `Backend.set_errors`."""

    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        """As `Backend.set_point`."""


class DomainPoints:
    """Assigns the few operating points of the hardware to what its domains are asked for.

    Parameters
    ----------
    config : AcceleratorConfig
    delay_model : DelayModel
        Model that leads from voltage and frequency to errors.
    """

    def __init__(self, config: AcceleratorConfig, delay_model: DelayModel) -> None:
        self.config, self.delay_model = config, delay_model
        self.seed, self.bits = 0, UNIFORM_BITS
        self.wanted = [DomainPoint()] * (config.voltage_domains + 1)
        self._table = [DomainPoint()] * config.operating_points
        self._assigned = [0] * len(self.wanted)

    def state(self) -> State:
        """What is asked for, and the numbers of operating points that it was given."""
        return State(
            {
                "seed": self.seed,
                "bits": list(self.bits),
                "wanted": [list(astuple(point)) for point in self.wanted],
                "table": [list(astuple(point)) for point in self._table],
                "assigned": list(self._assigned),
            }
        )

    def load_state(self, state: State) -> None:
        """Take up a state whose commands the device has carried out already."""
        values = state.values
        check(values, _Values, "the state of the operating points")
        lengths = [len(values[name]) for name in ("wanted", "table", "assigned")]
        if lengths != [len(self.wanted), len(self._table), len(self._assigned)]:
            raise ValueError(f"the state has {lengths} domains, points and places, which this accelerator has not")
        if any(point >= len(self._table) for point in values["assigned"]):
            raise ValueError(f"the state has domains at points {values['assigned']}; there are {len(self._table)}")
        self.seed, self.bits = values["seed"], tuple(values["bits"])
        self.wanted = [DomainPoint(*point) for point in values["wanted"]]
        self._table = [DomainPoint(*point) for point in values["table"]]
        self._assigned = list(values["assigned"])

    @property
    def frequency_hz(self) -> float:
        """The clock, which all domains share."""
        return self.wanted[0].frequency_hz

    def number(self, domain: int) -> int:
        """Number, in the hardware, of a domain's present operating point."""
        return self._assigned[domain]

    def domains(self, domain: int | str) -> list[int]:
        """Numbers of the domains meant by an index, ``"array"`` or ``"check"``.

        Raises
        ------
        ValueError
            There is no such domain.
        """
        count = self.config.voltage_domains
        if domain == "array":
            return list(range(count))
        if domain == "check":
            if self.config.checksum is None:
                raise ValueError("domain='check' needs checksum units; give AcceleratorConfig a ChecksumConfig")
            return [self.config.check_domain]
        if isinstance(domain, bool) or not isinstance(domain, int) or not 0 <= domain < count:
            raise ValueError(f"domain must be in 0..{count - 1}, 'array' or 'check', not {domain!r}")
        return [domain]

    def with_errors(self, array: float, check: float) -> list[DomainPoint]:
        """All domains at given error rates, voltage and clock as they are."""
        rates = [array] * self.config.voltage_domains + [check]
        return [
            replace(point, error_rate=rate, by_delay_model=False)
            for point, rate in zip(self.wanted, rates, strict=True)
        ]

    def with_delay_model(self, delay_model: DelayModel) -> list[DomainPoint]:
        """All domains where they are, with the errors that another delay model gives them.

        Raises
        ------
        ValueError
            One is beyond what `delay_model` covers.
        """
        points = []
        for point in self.wanted:
            delay_model.delay_at(point.voltage_v)
            if point.by_delay_model and self.config.error_model.draws:
                point = replace(point, error_rate=delay_model.error_rate(point.voltage_v, point.frequency_hz))
            points.append(point)
        return points

    def with_voltage(self, domain: int | str, voltage_v: float | None, frequency_hz: float | None) -> list[DomainPoint]:
        """All domains, some at another voltage, and all at another clock if the whole array is meant.

        Raises
        ------
        ValueError
            A single domain is asked to leave the common clock, or the point is beyond what the delay model covers.
        """
        chosen = self.domains(domain)
        clock = self.frequency_hz if frequency_hz is None else frequency_hz
        if not clock > 0:
            raise ValueError(f"frequency_hz must be positive, not {frequency_hz!r}")
        if domain != "array" and clock != self.frequency_hz:
            raise ValueError(
                f"frequency_hz must be {self.frequency_hz:g} for domain={domain!r}, not {clock:g}: "
                "all domains share one clock; change it with domain='array'"
            )
        points = []
        for index, point in enumerate(self.wanted):
            voltage = voltage_v if index in chosen and voltage_v is not None else point.voltage_v
            if index not in chosen and clock == point.frequency_hz:
                points.append(point)
                continue
            flips = self.config.error_model.draws
            self.delay_model.delay_at(
                voltage
            )  # Refuses a voltage that it does not cover, also where no rate is needed.
            rate = self.delay_model.error_rate(voltage, clock) if flips else 0.0
            points.append(DomainPoint(voltage, clock, rate))
        return points

    def _assign(self, wanted: Sequence[DomainPoint]) -> tuple[list[DomainPoint], list[int]]:
        """Table of operating points that holds all that is wanted, entries kept in their place where possible."""
        table = list(self._table)
        units = len(wanted) if self.config.checksum is not None else len(wanted) - 1
        needed = list(dict.fromkeys(wanted[:units]))
        if len(needed) > len(table):
            raise ValueError(
                f"the domains need {len(needed)} operating points, but the accelerator has operating_points="
                f"{len(table)}; raise AcceleratorConfig.operating_points"
            )
        kept = {table.index(point) for point in needed if point in table}
        # Number 0 is what the hardware has after reset: the last one to be given away.
        free = sorted(set(range(len(table))) - kept, key=lambda index: (index == 0, index))
        for point in needed:
            if point not in table:
                table[free.pop(0)] = point
        return table, [table.index(point) for point in wanted[:units]]

    def apply(
        self,
        device: Device,
        wanted: Sequence[DomainPoint],
        *,
        seed: int | None = None,
        bits: tuple[int, ...] | None = None,
        transition_s: float = 0.0,
        delay_model: DelayModel | None = None,
    ) -> None:
        """Bring the device to these points, of another delay model if one is given.

        Raises
        ------
        ValueError
            They are more than the hardware has, the seed does not fit 32 bits, or the memory cannot be rescaled to the
            clock.
        """
        if seed is not None and not 0 <= seed <= SEED_LIMIT:
            raise ValueError(f"seed must be in 0..{SEED_LIMIT}, not {seed!r}")
        if not transition_s >= 0:
            raise ValueError(f"transition_s must not be negative, but is {transition_s!r}")
        table, assigned = self._assign(wanted)
        new_seed = self.seed if seed is None else seed
        new_bits = self.bits if bits is None else bits
        clock = wanted[0].frequency_hz
        if clock != self.frequency_hz:
            # Before all commands: the moves themselves take place at the new clock.
            device.set_memory_timing(memory_timing(self.config, clock))
        shifted = delay_model is not None and delay_model != self.delay_model
        if delay_model is not None:
            self.delay_model = delay_model
        carry = self.config.error_model.settles
        if not carry and (table != self._table or new_seed != self.seed or new_bits != self.bits):
            device.set_errors(new_seed, tuple(point.rate for point in table), new_bits)
        for domain, index in enumerate(assigned):
            point = wanted[domain]
            at_once = point == self.wanted[domain] and index == self._assigned[domain]
            if at_once and not (carry and shifted):
                continue
            lengths = self.delay_model.lengths(self.config, point.voltage_v, point.frequency_hz) if carry else None
            cycles = -(-transition_s * point.frequency_hz // 1)
            device.set_point(domain, index, transition_cycles=int(cycles), lengths=lengths)
        self.seed, self.bits, self._table = new_seed, new_bits, table
        self.wanted, self._assigned = list(wanted), [*assigned, *self._assigned[len(assigned) :]]
