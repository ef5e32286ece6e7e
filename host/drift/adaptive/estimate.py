"""How often products err, and how slow the chip has become, from what its checks find: docs/adaptive.md.

Only what a program can know at run time is used: how many checks there were and how many of them flagged something.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from brownout.hw.config import AcceleratorConfig

from ...device.power.timing import DelayModel, error_rate_of_delay, largest_delay
from ...storage import decoding
from ...storage.decoding import NotNegative
from ..operating_point import OperatingPoint

OUTPUT_BITS = 31
"""Bits of an output that an error may hit, all alike."""

RESIDUE_THETA = 32
"""Up to this theta, a residue that is not zero counts even if the plain check is zero."""

BISECTIONS = 40
NEGLIGIBLE = 1e-3
"""Share of all evidence below which what an old operating point has left is dropped."""


@dataclass(frozen=True)
class RateEstimate:
    """A number that is known from counts.

    Attributes
    ----------
    value : float
        Most likely value.
    low, high : float
        Ends of the confidence interval.
    """

    value: float
    low: float
    high: float


def wilson_interval(hits: float, trials: float, z: float) -> tuple[float, float]:
    """Confidence interval of a share (Wilson, JASA 22(158), 1927); counts may be fractions.

    Parameters
    ----------
    hits, trials : float
        0 <= hits <= trials.
    z : float
        Half of its width in standard deviations.
    """
    if not trials:
        return 0.0, 1.0
    share, extra = hits / trials, z * z / trials
    middle = (share + extra / 2) / (1 + extra)
    half = z / (1 + extra) * math.sqrt(share * (1 - share) / trials + extra / (4 * trials))
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half)


@lru_cache(maxsize=4096)
def segment_widths(config: AcceleratorConfig, n: int) -> Mapping[int, int]:
    """How many segments of which width the checks see in a row of `n` outputs."""
    widths: dict[int, int] = {}
    for start in range(0, n, config.cols):
        for segment in config.segments:
            width = min(segment.stop, n - start) - segment.start
            if width > 0:
                widths[width] = widths.get(width, 0) + 1
    return widths


@dataclass(frozen=True)
class RateCurve:
    """Errors over relative delay.

    Attributes
    ----------
    rate : callable
        ``rate(relative_delay)``: errors per output. Must not fall.
    check_rate : callable
        Errors per sum of a row check, at the delay of the checksum units.
    """

    rate: Callable[[float], float]
    check_rate: Callable[[float], float]

    def largest_delay(self, rate: float, start: float = 0.5, end: float = 4.0) -> float:
        """Largest relative delay, in a range, at which no more than `rate` of outputs err."""
        return _last(lambda delay: self.rate(delay) <= rate, start, end)


def _published_rate(relative_delay: float) -> float:
    return error_rate_of_delay(min(relative_delay, largest_delay()))


PUBLISHED_CURVE = RateCurve(_published_rate, _published_rate)
"""That of the `flip` model; beyond the end of the published table, the rate is that of its end."""


def measured_curve(delays: Sequence[float], rates: Sequence[float]) -> RateCurve:
    """A curve through measured points, on lines in the logarithm of the rate, which go on beyond the last two.

    Errors of the checks are taken as part of the rate, as `estimate_rate` does with a check rate of 0.

    Parameters
    ----------
    delays, rates : sequence of float
        Relative delays, ascending, and errors per output there; at least two. Below the first delay with errors, the
        rate is 0.

    Raises
    ------
    ValueError
        They are too few, or not in order.
    """
    x, y = np.asarray(delays, float), np.asarray(rates, float)
    if len(x) != len(y) or (y > 0).sum() < 2 or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
        raise ValueError(
            f"delays must ascend and rates must not fall, with two points or more that err, not {list(delays)!r}, "
            f"{list(rates)!r}"
        )
    x, logs = x[y > 0], np.log(y[y > 0])

    def rate(relative_delay: float) -> float:
        if relative_delay < x[0]:
            return 0.0
        piece = min(int(np.searchsorted(x, relative_delay, side="right")) - 1, len(x) - 2)
        slope = (logs[piece + 1] - logs[piece]) / (x[piece + 1] - x[piece])
        return min(1.0, math.exp(logs[piece] + slope * (relative_delay - x[piece])))

    return RateCurve(rate, lambda relative_delay: 0.0)


def flagged_share(config: AcceleratorConfig, width: int, rate: float, check_rate: float, theta: int = 0) -> float:
    """Probability that a check flags a segment: some output or check in it errs by 2^theta or more.

    One error for each sum that errs, in one bit of those of its width, all alike: bits below theta go unseen. Errors
    that add up to more or less than each of them are neglected.
    """
    checksum = config.checksum
    if checksum is None:
        raise ValueError("flagged_share needs checksum units; give AcceleratorConfig a ChecksumConfig")
    clean = (1 - rate * max(0, OUTPUT_BITS - theta) / OUTPUT_BITS) ** width
    for check in range(checksum.checks):
        bits = checksum.check_bits(check)
        seen = max(0, bits - theta) / bits
        if checksum.modulus(check):
            seen = float(theta <= RESIDUE_THETA)
        clean *= 1 - check_rate * seen
    return 1 - clean


def mean_flagged_share(
    config: AcceleratorConfig, checks: Mapping[int, float], rate: float, check_rate: float, theta: int
) -> float:
    """`flagged_share`, averaged over checked segments: width to number."""
    total = sum(checks.values())
    return sum(n * flagged_share(config, w, rate, check_rate, theta) for w, n in checks.items()) / total


def _last(holds: Callable[[float], bool], start: float, end: float) -> float:
    """Last number of a range at which something holds that holds up to some number only."""
    if holds(end):
        return end
    for _ in range(BISECTIONS):
        middle = (start + end) / 2
        start, end = (middle, end) if holds(middle) else (start, middle)
    return start


def estimate_rate(
    config: AcceleratorConfig,
    checks: Mapping[int, float],
    detected: float,
    *,
    check_rate: float = 0.0,
    theta: int = 0,
    z: float = 3.0,
) -> RateEstimate:
    """Errors per output, from how many segments were flagged.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator, with checksum units.
    checks : mapping
        Width of segments to how many were checked.
    detected : float
        How many were flagged.
    check_rate : float
        Errors per sum of a row check.
    theta : int
        Theta with which products were checked; bits below it are taken to err as often as the others.
    z : float
        Half width of the interval in standard deviations of the flagged share.

    Raises
    ------
    ValueError
        There were no checks, or more were flagged than there were.
    """
    total = sum(checks.values())
    if not 0 <= detected <= total or not total:
        raise ValueError(f"detected must be in 0..{total:g} (checks, more than none), not {detected!r}")

    def rate(share: float) -> float:
        return _last(lambda p: mean_flagged_share(config, checks, p, check_rate, theta) <= share, 0.0, 1.0)

    low, high = wilson_interval(detected, total, z)
    return RateEstimate(rate(detected / total) if detected else 0.0, rate(low) if low else 0.0, rate(high))


@dataclass
class Evidence:
    """What checks found at one operating point.

    Attributes
    ----------
    point : OperatingPoint
    theta : int
    checks : dict
        Width of segments to number of checks; fractions where some are forgotten.
    detected : float
        Number of flagged segments.
    """

    point: OperatingPoint
    theta: int
    checks: dict[int, float] = field(default_factory=dict)
    detected: float = 0.0

    @property
    def total(self) -> float:
        """All checks."""
        return sum(self.checks.values())

    def add(self, checks: Mapping[int, float], detected: float) -> None:
        """More of the same."""
        for width, count in checks.items():
            self.checks[width] = self.checks.get(width, 0.0) + count
        self.detected += detected

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON; states call the point a setting."""
        found = asdict(self)
        return {"setting": found.pop("point"), **found}

    def scale(self, factor: float) -> None:
        """Count it as less than it was."""
        self.checks = {width: count * factor for width, count in self.checks.items()}
        self.detected *= factor


@dataclass(frozen=True)
class _Evidence:
    """`Evidence` in a state, by the names there."""

    setting: OperatingPoint
    theta: int
    checks: dict[str, NotNegative]
    detected: NotNegative


@dataclass(frozen=True)
class _Values:
    """State of an estimator."""

    estimate: RateEstimate | None
    evidence: list[_Evidence]


class DelayEstimator:
    """By which factor all delays differ from those of the delay model, from flagged shares at points that are known.

    The factor is that at which the delay model predicts as many flagged segments as there were, over all evidence: what
    was found at other points counts too. Evidence fades with every evaluation, and is dropped where the last evaluation
    contradicts it: something has changed.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator, with checksum units.
    delay_model : DelayModel
        Model of the chip as it was characterised; its own `delay_factor` is what the estimated one multiplies.
    curve : RateCurve
        Errors over relative delay.
    z : float
        Half width of intervals, in standard deviations of flagged shares.
    forgetting : float
        Weight of evidence after one more evaluation, 0 to 1.
    doubt : float
        Standard deviations of the last evaluation from all before that mean a change.
    factors : (float, float)
        Bounds between which the factor is sought.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        delay_model: DelayModel,
        curve: RateCurve = PUBLISHED_CURVE,
        *,
        z: float = 3.0,
        forgetting: float = 0.5,
        doubt: float = 4.0,
        factors: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        if config.checksum is None:
            raise ValueError("DelayEstimator needs checksum units; give AcceleratorConfig a ChecksumConfig")
        if not 0 <= forgetting <= 1:
            raise ValueError(f"forgetting must be in 0..1, not {forgetting!r}")
        self.config, self.delay_model, self.curve = config, delay_model, curve
        self.z, self.forgetting, self.doubt, self.factors = z, forgetting, doubt, factors
        self.past: list[Evidence] = []
        self.present: list[Evidence] = []
        self.estimate: RateEstimate | None = None

    def delay(self, point: OperatingPoint) -> float:
        """Relative delay of the array at a point, by the delay model."""
        return self.delay_model.relative_delay(point.voltage_v, point.frequency_hz)

    def rates(self, point: OperatingPoint, factor: float) -> tuple[float, float]:
        """Errors per output, and per sum of a row check, at a point of a chip that is slower by a factor."""
        voltage = point.voltage_v if point.check_voltage_v is None else point.check_voltage_v
        check_delay = self.delay_model.relative_delay(voltage, point.frequency_hz)
        return self.curve.rate(factor * self.delay(point)), self.curve.check_rate(factor * check_delay)

    def add(self, point: OperatingPoint, theta: int, checks: Mapping[int, float], detected: float) -> None:
        """Note what the checks of a product found.

        Raises
        ------
        ValueError
            The point has error rates, not voltages.
        """
        if point.error_rate is not None:
            raise ValueError(f"an operating point without voltages says nothing about delays: {point}")
        for each in self.present:
            if each.theta == theta and each.point == point:
                break
        else:
            each = Evidence(point, theta)
            self.present.append(each)
        each.add(checks, detected)

    def _predicted(self, evidence: Sequence[Evidence], factor: float) -> float:
        flagged = 0.0
        for each in evidence:
            rate, check_rate = self.rates(each.point, factor)
            flagged += each.total * mean_flagged_share(self.config, each.checks, rate, check_rate, each.theta)
        return flagged / sum(each.total for each in evidence)

    def _solve(self, evidence: Sequence[Evidence], z: float) -> RateEstimate:
        """Factor from evidence; the ends of the interval are those of `factors` where the evidence gives none."""
        detected, total = sum(each.detected for each in evidence), sum(each.total for each in evidence)
        low, high = wilson_interval(detected, total, z)
        shares = (detected / total, low, high)
        value, least, most = (
            _last(lambda factor, share=share: self._predicted(evidence, factor) <= share, *self.factors)  # type: ignore[misc]
            for share in shares
        )
        return RateEstimate(value, least if low else self.factors[0], most)

    def end_evaluation(self) -> bool:
        """Take the evaluation's evidence over into the estimate.

        Returns
        -------
        bool
            Whether it contradicts what was known before.
        """
        if not self.present:
            return False
        detected, total = sum(each.detected for each in self.present), sum(each.total for each in self.present)
        changed = False
        if self.estimate is not None:
            low, high = wilson_interval(detected, total, self.doubt)
            changed = self._predicted(self.present, self.estimate.high) < low
            changed |= self._predicted(self.present, self.estimate.low) > high
        if changed:
            self.past = []
        for each in self.past:
            each.scale(self.forgetting)
        self.past = [each for each in self.past if each.total > NEGLIGIBLE * total]
        for fresh in self.present:
            for old in self.past:
                if (old.point, old.theta) == (fresh.point, fresh.theta):
                    old.add(fresh.checks, fresh.detected)
                    break
            else:
                self.past.append(fresh)
        self.present = []
        self.estimate = self._solve(self.past, self.z)
        return changed

    def state(self) -> dict[str, Any]:
        """All that is known, for JSON; to be taken between evaluations."""
        estimate = None if self.estimate is None else asdict(self.estimate)
        return {"estimate": estimate, "evidence": [each.to_dict() for each in self.past]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        decoding.check(dict(state), _Values, "the state of the estimator")
        self.estimate = None if state["estimate"] is None else RateEstimate(**state["estimate"])
        self.past, self.present = [], []
        for each in state["evidence"]:
            checks = {int(width): count for width, count in each["checks"].items()}
            self.past.append(Evidence(OperatingPoint(**each["setting"]), each["theta"], checks, each["detected"]))
