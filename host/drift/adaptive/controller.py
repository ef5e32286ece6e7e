"""Keeps the rate of errors at what quality allows, whatever the chip's delays do: docs/adaptive.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from brownout.hw.config import AcceleratorConfig

from ...device.power.timing import NOMINAL_FREQUENCY_HZ, DelayModel
from ...storage.decoding import Count, check
from ..operating_point import GUARD_BAND_V, OperatingPoint
from .estimate import PUBLISHED_CURVE, DelayEstimator, RateCurve, RateEstimate, mean_flagged_share, wilson_interval


def voltage_ladder(
    lowest_v: float,
    highest_v: float,
    *,
    step_v: float = 0.01,
    frequency_hz: float = NOMINAL_FREQUENCY_HZ,
    check_share: float = 0.5,
) -> list[OperatingPoint]:
    """Operating points of falling voltage, from `highest_v` in steps down to `lowest_v` or just above.

    Parameters
    ----------
    lowest_v, highest_v, step_v : float
        Ends of the ladder, and distance of its rungs, in volts.
    frequency_hz : float
        Clock of all points, in hertz.
    check_share : float
        Where the checksum units' voltage is between that of the array (0) and 0.85 V (1).

    Raises
    ------
    ValueError
        There is none.
    """
    if not (step_v > 0 and lowest_v <= highest_v):
        raise ValueError(
            f"lowest_v must not be above highest_v, and step_v positive: {lowest_v}, {highest_v}, {step_v}"
        )
    count = math.floor((highest_v - lowest_v) / step_v + 1e-9) + 1
    voltages = [round(highest_v - index * step_v, 6) for index in range(count)]
    return [
        OperatingPoint(
            voltage_v=voltage,
            frequency_hz=frequency_hz,
            check_voltage_v=round(max(voltage, voltage + check_share * (GUARD_BAND_V - voltage)), 6),
        )
        for voltage in voltages
    ]


@dataclass(frozen=True)
class Record:
    """One evaluation, as the controller saw it.

    Attributes
    ----------
    evaluation : int
        Number of the evaluation, over all runs.
    voltage_v, frequency_hz : float
        What it began at.
    checks, detected : float
        What its checks found.
    rate, rate_low, rate_high : float or None
        Errors per output at that operating point, by all evidence after the evaluation; None while there is none.
    factor, factor_high : float or None
        Delays over those of the delay model.
    changed : bool
        It contradicted what was known before.
    emergency : bool
        The rate was beyond the hard limit: what came later in the evaluation ran at the safe point.
    recovering : bool
        All of it ran at the safe point, after an emergency.
    """

    evaluation: int
    voltage_v: float
    frequency_hz: float
    checks: float
    detected: float
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    factor: float | None
    factor_high: float | None
    changed: bool
    emergency: bool
    recovering: bool


@dataclass(frozen=True)
class _Values:
    """State of a controller."""

    evaluation: int
    rung: Count
    recovering: Count
    since_step: Count
    estimator: dict[str, Any]
    records: list[Record]


class RateController:
    """Chooses, after each evaluation, the most aggressive operating point at which not too much will err.

    The upper end of the estimated delay factor says what each candidate would err; up to `target_rate` is allowed. Up
    to the candidate that follows from it goes at once, down only where there is room for `hysteresis` too, at most
    `max_steps` candidates at a time and not more often than every `dwell` evaluations. Where nothing errs, that is
    evidence too, the more the more was checked, so that the controller feels its way down. If so little may err that it
    would never be seen, it tries the next candidate after `patience` evaluations, unless even the hard limit might be
    exceeded there.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator, with checksum units.
    delay_model : DelayModel
        Model of the chip as it was characterised.
    candidates : sequence of OperatingPoint
        Points to choose from, safest first (`voltage_ladder`). Even the first one must be able to err in the worst
        case: where nothing can, nothing is checked and nothing learned.
    target_rate : float
        Errors per output that quality allows.
    hard_limit : float, optional
        Rate that is an emergency; by default three times the target.
    worst_factor : float
        Largest delay factor to be expected. It is assumed until less is known, and exceeded only where the most likely
        factor is larger. What is safe at it runs without checks.
    margin : float
        Relative delay that is kept in reserve beyond the confidence interval.
    hysteresis : float
        Relative delay that must be free beside that before a step down.
    max_steps, dwell, patience : int
        Limits as above: candidates, evaluations, evaluations.
    recovery : int
        Evaluations at the safe point after an emergency.
    curve, z, forgetting
        Parameters of `DelayEstimator`.

    Attributes
    ----------
    evaluation : int
        Number of the present evaluation, over all runs; -1 before the first.
    records : list of Record
        One for each evaluation that is over.

    Raises
    ------
    ValueError
        Candidates are out of order, have no voltages or cannot err, or the target is not between 0 and the hard limit.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        delay_model: DelayModel,
        candidates: Sequence[OperatingPoint],
        target_rate: float,
        *,
        hard_limit: float | None = None,
        worst_factor: float = 1.1,
        margin: float = 0.005,
        hysteresis: float = 0.005,
        max_steps: int = 3,
        dwell: int = 1,
        patience: int = 5,
        recovery: int = 1,
        curve: RateCurve = PUBLISHED_CURVE,
        z: float = 3.0,
        forgetting: float = 0.5,
    ) -> None:
        hard_limit = 3 * target_rate if hard_limit is None else hard_limit
        if not 0 < target_rate <= hard_limit:
            raise ValueError(
                f"target_rate must be positive and not above hard_limit={hard_limit!r}, not {target_rate!r}"
            )
        if min(max_steps, dwell, patience) < 1 or recovery < 0:
            raise ValueError(
                "max_steps, dwell and patience must be at least 1 and recovery 0, not "
                f"{max_steps}, {dwell}, {patience} and {recovery}"
            )
        self.estimator = DelayEstimator(config, delay_model, curve, z=z, forgetting=forgetting)
        self.candidates = tuple(candidates)
        if not self.candidates or any(each.error_rate is not None for each in self.candidates):
            raise ValueError("candidates must be operating points with voltages, one or more")
        self._delays = [self.estimator.delay(each) for each in self.candidates]
        if sorted(set(self._delays)) != self._delays:
            raise ValueError(f"candidates must be of increasing relative delay, not {self._delays}")
        if not self.estimator.rates(self.candidates[0], worst_factor)[0] > 0:
            raise ValueError(
                f"even the first candidate must err at worst_factor={worst_factor:g}, but {self.candidates[0]} "
                "does not; leave it out"
            )
        self.target_rate, self.hard_limit, self.worst_factor = target_rate, hard_limit, worst_factor
        self.margin, self.hysteresis = margin, hysteresis
        self.max_steps, self.dwell, self.patience, self.recovery = max_steps, dwell, patience, recovery
        self._limit = curve.largest_delay(target_rate)
        self._hard_delay = curve.largest_delay(hard_limit)
        self.evaluation = -1
        self.records: list[Record] = []
        self._open = self._emergency = False
        self._recovering = self._since_step = 0
        self._rung = self._admissible(worst_factor, 0.0)

    def describe(self) -> dict[str, Any]:
        """Its parameters, as JSON."""
        names = ("target_rate", "hard_limit", "worst_factor", "margin", "hysteresis", "max_steps", "dwell", "patience")
        return {
            **{name: getattr(self, name) for name in (*names, "recovery")},
            "law": asdict(self.estimator.delay_model),
            "candidates": [asdict(each) for each in self.candidates],
            "z": self.estimator.z,
            "forgetting": self.estimator.forgetting,
        }

    @property
    def assumed_delay_model(self) -> DelayModel:
        """Law of the worst case, by which safe is what cannot err."""
        delay_model = self.estimator.delay_model
        return replace(delay_model, delay_factor=delay_model.delay_factor * self.worst_factor)

    @property
    def candidate(self) -> OperatingPoint:
        """What the controller has chosen."""
        return self.candidates[self._rung]

    @property
    def point(self) -> OperatingPoint | None:
        """What is to be run at now; None for the safe point, in and after an emergency."""
        return None if self._emergency or self._recovering else self.candidate

    def rate(self, point: OperatingPoint) -> float | None:
        """Errors per output at an operating point, as far as it is known."""
        known = self.estimator.estimate
        return None if known is None else self.estimator.rates(point, known.value)[0]

    def _admissible(self, factor: float, reserve: float) -> int:
        """Most aggressive candidate whose rate is within the target; the first one if none is."""
        limit = self._limit / (factor * (1 + self.margin) * (1 + reserve))
        return max((index for index, delay in enumerate(self._delays) if delay <= limit), default=0)

    def begin_evaluation(self) -> None:
        """Another evaluation begins, and the one before is over."""
        self.end_evaluation()
        self.evaluation += 1
        self._open = True

    def observe(self, point: OperatingPoint, theta: int, checks: Mapping[int, int], detected: int) -> None:
        """Take in what the checks of a product have found.

        Parameters
        ----------
        point : OperatingPoint
            What the product ran at.
        theta : int
            Theta with which the product was checked.
        checks : mapping
            Width of segments to how many were checked.
        detected : int
            How many of them were flagged.
        """
        estimator = self.estimator
        estimator.add(point, theta, checks, detected)
        if self._emergency:
            return
        evidence = next(each for each in estimator.present if (each.point, each.theta) == (point, theta))
        rates = estimator.rates(point, self._hard_delay / estimator.delay(point))
        limit = mean_flagged_share(estimator.config, evidence.checks, *rates, theta)
        self._emergency = wilson_interval(evidence.detected, evidence.total, estimator.doubt)[0] > limit

    def end_evaluation(self) -> None:
        """The evaluation is over: learn from it, and choose what the next one runs at."""
        if not self._open:
            return
        self._open = False
        estimator, ran_at = self.estimator, self.candidate
        checks, detected = sum(e.total for e in estimator.present), sum(e.detected for e in estimator.present)
        recovering, emergency = self._recovering > 0, self._emergency
        changed = estimator.end_evaluation()
        known = estimator.estimate
        rate = None
        if known is not None:
            rate = RateEstimate(*(estimator.rates(ran_at, each)[0] for each in (known.value, known.low, known.high)))
        self.records.append(
            Record(
                self.evaluation,
                ran_at.voltage_v,
                ran_at.frequency_hz,
                checks,
                detected,
                None if rate is None else rate.value,
                None if rate is None else rate.low,
                None if rate is None else rate.high,
                None if known is None else known.value,
                None if known is None else known.high,
                changed,
                emergency,
                recovering,
            )
        )
        self._recovering = self.recovery if emergency else max(0, self._recovering - 1)
        self._emergency = False
        self._since_step += 1
        if checks and known is not None:
            # Few checks do not make a chip worse than the worst case.
            self._choose(min(known.high, max(known.value, self.worst_factor)), detected > 0)

    def _choose(self, factor: float, errs: bool) -> None:
        best = self._admissible(factor, 0.0)
        if best < self._rung:
            self._rung, self._since_step = best, 0
        elif self._since_step >= self.dwell:
            below = min(self._admissible(factor, self.hysteresis), self._rung + self.max_steps)
            probe = not errs and self._since_step >= self.patience and self._rung + 1 < len(self.candidates)
            if below > self._rung:
                self._rung, self._since_step = below, 0
            elif probe and self.estimator.rates(self.candidates[self._rung + 1], factor)[0] <= self.hard_limit:
                self._rung, self._since_step = self._rung + 1, 0

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, and the records, for JSON; between evaluations, it ends the last one."""
        self.end_evaluation()
        return {
            "evaluation": self.evaluation,
            "rung": self._rung,
            "recovering": self._recovering,
            "since_step": self._since_step,
            "estimator": self.estimator.state(),
            "records": [asdict(each) for each in self.records],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same candidates.

        Raises
        ------
        ValueError
            There is no such candidate.
        """
        check(dict(state), _Values, "the state of the controller")
        if not 0 <= state["rung"] < len(self.candidates):
            raise ValueError(f"state has candidate {state['rung']!r}, but there are {len(self.candidates)}")
        self.evaluation, self._rung = state["evaluation"], state["rung"]
        self._recovering, self._since_step = state["recovering"], state["since_step"]
        self._open = self._emergency = False
        self.estimator.load_state(state["estimator"])
        self.records = [Record(**each) for each in state["records"]]
