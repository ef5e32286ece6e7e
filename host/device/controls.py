"""Operating points of a device: voltages, clock, error rates, and the delay model between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.constants import NOMINAL_LENGTH
from brownout.hw.errors.model import erring_models
from brownout.hw.errors.state import bit_thresholds

from .backends.base import Backend
from .ledger import Ledger
from .power.domain_points import DomainPoint, DomainPoints
from .power.energy import EnergyModel
from .power.timing import TRANSITION_S, DelayModel
from .session import DeviceSession


class OperatingControls(DeviceSession):
    """A device whose voltage domains are moved between operating points, each charged for what was done at it.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    device : Backend
        Device that is moved.
    delay_model : DelayModel
        Model that leads from voltage and frequency to errors.
    energy_model : EnergyModel
        Model of the energy per event.
    """

    def __init__(
        self, config: AcceleratorConfig, device: Backend, delay_model: DelayModel, energy_model: EnergyModel
    ) -> None:
        super().__init__(device)
        self.config = config
        self._points = DomainPoints(config, delay_model)
        self._ledger = Ledger(config, energy_model)

    @property
    def delay_model(self) -> DelayModel:
        """What `set_operating_point` makes of voltage and frequency; `set_delay_model` changes it."""
        return self._points.delay_model

    def set_delay_model(self, delay_model: DelayModel) -> None:
        """Let delays follow another delay model from now on: the chip has warmed up, or aged.

        It is not a command of the program that changes, but the world around it. All domains stay at their voltages and
        clock, where they err as `delay_model` says; rates given to `set_error_rate` stay, lengths given to
        `set_carry_lengths` do not. It takes no time and no energy: the hardware is told with SET_ERRORS and SET_POINT
        without transition, and what fetching these costs is left out of `stats`.

        Parameters
        ----------
        delay_model : DelayModel
            New model, for example ``replace(accelerator.delay_model, delay_factor=1.05)``.

        Raises
        ------
        ValueError
            No model of timing errors is built in, or a present operating point is beyond what `delay_model` covers;
            then nothing has changed.
        AcceleratorClosedError
            After `close`.
        """
        self._require_errors("set_delay_model")
        with self._using() as device:
            points = self._points.with_delay_model(delay_model)
            self._ledger.charge(device)
            before = self._ledger.counters(device)
            self._points.apply(device, points, delay_model=delay_model)
            self._ledger.leave_out(before, self._ledger.counters(device))

    def _require_errors(self, what: str, *ways: str) -> None:
        """Refuse a call that this model of timing errors has no use for: it errs in none of these `ways`."""
        model = self.config.error_model
        if not any(getattr(model, way) for way in ways or ("errs",)):
            wanted = " or ".join(f"timing_model={name}" for name in erring_models(*ways).split(" or "))
            raise ValueError(f"{what} needs an AcceleratorConfig with {wanted}, not timing_model={model.name!r}")

    def _move(self, points: Sequence[DomainPoint], **settings: object) -> None:
        with self._using() as device:
            # What has been done so far was done at the old points.
            self._ledger.charge(device)
            self._points.apply(device, points, **settings)  # type: ignore[arg-type]
            self._ledger.meter.voltages_v = [point.voltage_v for point in self._points.wanted]
            self._ledger.meter.frequency_hz = self._points.frequency_hz

    def set_error_rate(
        self,
        rate: float,
        seed: int = 0,
        check_rate: float = 0.0,
        *,
        bit_weights: Sequence[float] | None = None,
    ) -> None:
        """Let sums err at a given rate, whatever voltage and clock (models that draw errors).

        Parameters
        ----------
        rate : float
            Errors per output and per sum of a digit row, 0 to 1.
        seed : int
            uint32; same seed, same errors.
        check_rate : float
            Errors per sum of a row check, 0 to 1.
        bit_weights : sequence of 31 float, optional
            How often each bit 0..30 is hit, relative to the others; by default all alike. Not with ``razor``, where
            sums are dropped whole.

        Raises
        ------
        ValueError
            The accelerator has another model of timing errors, or a value is out of range.
        AcceleratorClosedError
            After `close`.
        """
        self._require_errors("set_error_rate", "draws")
        if self.config.razor and bit_weights is not None:
            raise ValueError("bit_weights must be None with AcceleratorConfig.razor=True: sums that err become zero")
        for name, value in (("rate", rate), ("check_rate", check_rate)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in 0..1, not {value!r}")
        if check_rate:
            self._points.domains("check")
        with self._lock:
            self._move(self._points.with_errors(rate, check_rate), seed=seed, bits=bit_thresholds(bit_weights))

    def set_operating_point(
        self,
        *,
        voltage_v: float | None = None,
        frequency_hz: float | None = None,
        domain: int | str = "array",
        seed: int | None = None,
        transition_s: float = TRANSITION_S,
    ) -> None:
        """Move voltage domains to a voltage, or all to a clock, and let them err accordingly.

        The memory keeps its nanoseconds and bytes per second: what it does in a cycle changes with the clock.

        Parameters
        ----------
        voltage_v : float, optional
            Supply of the domain; by default as it is (0.9 V at first).
        frequency_hz : float, optional
            Clock, which all domains share; by default as it is (2 GHz at first).
        domain : int or {"array", "check"}
            One group of array columns, all of them, or the checksum units. The clock can be changed with ``"array"``
            only; domains that keep their voltage get the errors of the new clock.
        seed : int, optional
            uint32 of the draws; by default as it is.
        transition_s : float
            Time that each domain needs to get there.

        Raises
        ------
        ValueError
            No model of timing errors is built in, there is no such domain, the point is beyond what the delay model
            covers, a single domain is to leave the common clock, all points together are more than the hardware has, or
            the memory is too slow for the clock to be counted in its cycles.
        AcceleratorClosedError
            After `close`.
        """
        self._require_errors("set_operating_point")
        with self._lock:
            points = self._points.with_voltage(domain, voltage_v, frequency_hz)
            self._move(points, seed=seed, transition_s=transition_s)

    def set_carry_lengths(self, lengths: NDArray[np.uint8]) -> None:
        """Let carries that are longer than each element's length come late (models with settled lengths).

        They hold until the operating point or the delay model changes.

        Parameters
        ----------
        lengths : uint8 array (rows, cols + check columns)
            Settled carry length of each processing element, 0 to 63; the array's columns first, then the check columns
            segment by segment.

        Raises
        ------
        ValueError
            The accelerator has another model of timing errors, or the table has the wrong shape or values.
        AcceleratorClosedError
            After `close`.
        """
        self._require_errors("set_carry_lengths", "settles")
        shape = (self.config.rows, self.config.cols + len(self.config.check_columns))
        if lengths.shape != shape or lengths.dtype != np.uint8:
            raise ValueError(f"lengths must be uint8 of shape {shape}, not {lengths.dtype} of shape {lengths.shape}")
        if lengths.size and lengths.max() > NOMINAL_LENGTH:
            raise ValueError(f"lengths must be in 0..{NOMINAL_LENGTH}, not {int(lengths.max())}")
        with self._using() as device:
            for domain in range(self.config.domains):
                device.set_point(domain, self._points.number(domain), lengths=lengths)

    @property
    def operating_points(self) -> tuple[DomainPoint, ...]:
        """Present point of each voltage domain, that of the checksum units last."""
        return tuple(self._points.wanted)
