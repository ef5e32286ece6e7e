"""Confidence bounds of a paired mean difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch


def student_t_cdf(t: float, degrees: int) -> float:
    """Student's t distribution function for whole degrees of freedom, by the finite series.

    Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(degrees))
    cosine_squared = math.cos(angle) ** 2
    odd = degrees % 2
    # Terms are products of (2k-1)/(2k) or (2k)/(2k+1) with cos^2; none for one degree of freedom.
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= cosine_squared * (2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k))
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return (1 + inside) / 2


@lru_cache(maxsize=1024)
def student_t_quantile(probability: float, degrees: int) -> float:
    """Inverse of `student_t_cdf` for probabilities in [0.5, 1), by bisection."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, degrees) < probability:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, degrees) < probability else (low, middle)
    return high


def check_confidence(confidence: float) -> None:
    """Refuse a confidence outside [0.5, 1).

    Raises
    ------
    ValueError
        The message names the value.
    """
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be in [0.5, 1), not {confidence!r}")


@dataclass(frozen=True, kw_only=True)
class PairedBound:
    """Mean of paired differences a - b, with one-sided bounds.

    Attributes
    ----------
    mean : float
        Mean of a - b.
    lower, upper : float
        One-sided bounds: the true mean lies below `upper` with probability `confidence`, and above `lower` with the
        same probability. Both together hold with ``2 * confidence - 1``.
    standard_error : float
        Standard error of the mean.
    samples : int
        Pairs.
    confidence : float
        Confidence of each bound.
    """

    mean: float
    lower: float
    upper: float
    standard_error: float
    samples: int
    confidence: float


def paired_bound(
    a: torch.Tensor | Sequence[float], b: torch.Tensor | Sequence[float], *, confidence: float = 0.95
) -> PairedBound:
    """One-sided bounds of the mean of a - b by Student's t on the differences.

    "The one-sided 95 % bound of the paired mean distance a - b is <= 0" is ``paired_bound(a, b).upper <= 0``.

    Parameters
    ----------
    a, b : torch.Tensor or sequence of float
        (N,): the same metric of the same images (same noise, same label) in two runs.
    confidence : float
        Confidence of each bound, in [0.5, 1).

    Raises
    ------
    ValueError
        They differ in length, there are fewer than two pairs, a value is not finite, or `confidence` is out of range.
    """
    check_confidence(confidence)
    left, right = (torch.as_tensor(values, dtype=torch.float64) for values in (a, b))
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(
            f"a and b must be of the same length (N,), not of shapes {tuple(left.shape)} and {tuple(right.shape)}"
        )
    if len(left) < 2:
        raise ValueError(f"a bound needs at least two pairs, not {len(left)}")
    difference = left - right
    if not bool(torch.isfinite(difference).all()):
        pair = int((~torch.isfinite(difference)).nonzero()[0])
        raise ValueError(
            f"pair {pair} is not finite ({left[pair].item()} and {right[pair].item()}); "
            "compare a metric that is, such as the squared error in place of PSNR"
        )
    mean = difference.mean().item()
    standard_error = (difference.std() / math.sqrt(len(difference))).item()
    margin = student_t_quantile(confidence, len(difference) - 1) * standard_error
    return PairedBound(
        mean=mean,
        lower=mean - margin,
        upper=mean + margin,
        standard_error=standard_error,
        samples=len(difference),
        confidence=confidence,
    )
