"""How sure a measured damage is, and when it is sure enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ...quality.paired import check_confidence, student_t_quantile
from ...storage.decoding import Count


@dataclass(frozen=True)
class DamageEstimate:
    """Mean damage with an interval.

    Attributes
    ----------
    mean, lower, upper : float
        `lower` and `upper` enclose the true mean.
    images : int
        How many it is from.
    """

    mean: float
    lower: float
    upper: float
    images: Count


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """When to stop measuring a slice.

    After each batch there is a look at the result. Bounds hold for all looks together (Bonferroni: each takes its share
    of the error), so that stopping at a lucky moment does not make a claim wrong more often than `confidence` says.

    Attributes
    ----------
    images : int
        Largest number of images of each slice at each operating point.
    batch : int
        Number of images between two looks.
    confidence : float
        Confidence of intervals, and of answers.
    relative, absolute : float
        Enough is known when the interval's half width is below `relative` times the mean, or below `absolute`.
    threshold : float, optional
        The question is whether damage is above or below it: the interval on one side of it is an answer.
    """

    images: int = 100
    batch: int = 20
    confidence: float = 0.95
    relative: float = 0.25
    absolute: float = 0.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.batch < 2 or self.images < self.batch or self.images % self.batch:
            raise ValueError(
                f"Stopping.images must be a multiple of batch, and batch at least 2, not {self.images} and {self.batch}"
            )
        for name in ("relative", "absolute"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Stopping.{name} must not be negative, but is {getattr(self, name)!r}")

    @property
    def looks(self) -> int:
        """Most looks at one result."""
        return self.images // self.batch

    @property
    def look_confidence(self) -> float:
        """Of a one-sided bound at one look, for `confidence` at all together."""
        return 1 - (1 - self.confidence) / self.looks

    def estimate(self, values: Sequence[float], scale: float) -> DamageEstimate:
        """Mean of damages, with a two-sided interval at `confidence` for all looks.

        By Student's t. If no image is damaged, that says nothing about the next: then the upper bound is the largest
        share of damaged images that would still go unseen so often, times `scale`.

        Parameters
        ----------
        values : sequence of float
            Damage of each image, at least two.
        scale : float
            Damage of a picture that is lost.
        """
        count, mean = len(values), fmean(values)
        one_sided = (1 + self.look_confidence) / 2
        if not any(values):
            return DamageEstimate(0.0, 0.0, scale * (1 - (1 - one_sided) ** (1 / count)), count)
        margin = student_t_quantile(one_sided, count - 1) * stdev(values) / math.sqrt(count)
        return DamageEstimate(mean, max(0.0, mean - margin), mean + margin, count)

    def enough(self, values: Sequence[float], scale: float) -> bool:
        """Whether no more images are needed."""
        if len(values) >= self.images:
            return True
        if len(values) < 2:
            return False
        found = self.estimate(values, scale)
        if self.threshold is not None and (found.lower > self.threshold or found.upper < self.threshold):
            return True
        return (found.upper - found.lower) / 2 <= max(self.absolute, self.relative * found.mean)
