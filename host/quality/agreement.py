"""Class agreement: does the classifier see what was asked for, and how do two runs differ in that?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch

from .features import BATCH
from .images import check_images
from .paired import check_confidence

IMAGES_PER_UNIT_LOSS = 20
"""A claim about a loss of x needs this many / x images: 2,000 for 0.01."""


@torch.no_grad()
def recognised(
    images: torch.Tensor, labels: torch.Tensor, classifier: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Which images are classified as their label.

    Parameters
    ----------
    images : torch.Tensor
        (N, C, H, W) in [0, 1].
    labels : torch.Tensor
        int64 (N,): the class that each image was asked for.
    classifier : callable
        Network from images to class scores (N, num_classes), in eval mode.

    Returns
    -------
    torch.Tensor
        bool (N,).

    Raises
    ------
    TypeError, ValueError
        `images` are not images, or there is not one label for each.
    """
    check_images(images)
    if labels.shape != (len(images),):
        raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), not {tuple(labels.shape)}")
    pairs = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([classifier(part).argmax(1) == wanted for part, wanted in pairs])


def class_agreement(
    images: torch.Tensor, labels: torch.Tensor, classifier: Callable[[torch.Tensor], torch.Tensor]
) -> float:
    """Share of images that are classified as their label; as `recognised`."""
    return recognised(images, labels, classifier).double().mean().item()


@dataclass(frozen=True, kw_only=True)
class AgreementDifference:
    """Class agreement of run a minus that of run b, on the same noise and labels.

    Attributes
    ----------
    a, b : float
        Class agreement of each run.
    difference : float
        a - b.
    lower, upper : float
        One-sided bounds of the difference, each at `confidence`, by Tango's score method.
    p_value : float
        Two-sided exact McNemar test of "no difference".
    only_a, only_b : int
        Images that are recognised in one run alone; only these inform.
    samples : int
        Pairs of images.
    confidence : float
        Confidence of each bound.
    """

    a: float
    b: float
    difference: float
    lower: float
    upper: float
    p_value: float
    only_a: int
    only_b: int
    samples: int
    confidence: float

    def loses_at_most(self, loss: float) -> bool:
        """Whether run a is shown to agree by at most `loss` less than run b: ``lower >= -loss``.

        Raises
        ------
        ValueError
            `loss` is not in (0, 1), or there are too few images for it: 20 / loss, so 2,000 for 0.01.
        """
        if not 0 < loss < 1:
            raise ValueError(f"loss must be in (0, 1), not {loss!r}")
        needed = math.ceil(round(IMAGES_PER_UNIT_LOSS / loss, 6))
        if self.samples < needed:
            raise ValueError(
                f"a claim about a loss of {loss:g} needs at least {needed} images, not {self.samples}; "
                "generate more, or report the bounds"
            )
        return self.lower >= -loss


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test: the discordant pairs against a fair coin."""
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1))
    # Whole numbers until the end: 2^discordant exceeds a float from 1,024 pairs on.
    return min(1.0, 2 * tail / (1 << discordant))


def _score(difference: float, only_a: int, only_b: int, samples: int) -> float:
    """Tango's score statistic for a true `difference`; falls as `difference` grows."""
    # q is the most likely probability of "b alone" given the difference: the larger root of
    # 2n q^2 + linear q + constant.
    linear = -only_a - only_b + (2 * samples - only_a + only_b) * difference
    constant = -only_b * difference * (1 - difference)
    root = math.sqrt(max(linear * linear - 8 * samples * constant, 0.0))
    # Of the two forms of the root, the one that does not cancel.
    q = (root - linear) / (4 * samples) if linear <= 0 else -2 * constant / (linear + root)
    variance = samples * (2 * q + difference * (1 - difference))
    gap = only_a - only_b - samples * difference
    if variance <= 0:
        return math.copysign(math.inf, gap) if gap else 0.0
    return gap / math.sqrt(variance)


def tango_bounds(only_a: int, only_b: int, samples: int, confidence: float) -> tuple[float, float]:
    """One-sided lower and upper score bounds of a difference of paired proportions.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17 (1998). Unlike Wald's interval it has a width where no pair differs.
    """
    z = NormalDist().inv_cdf(confidence)

    def solve(wanted: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _score(middle, only_a, only_b, samples) > wanted else (low, middle)
        return (low + high) / 2

    return solve(z), solve(-z)


def agreement_difference(
    recognised_a: torch.Tensor, recognised_b: torch.Tensor, *, confidence: float = 0.95
) -> AgreementDifference:
    """Compare class agreement of two runs image by image.

    Parameters
    ----------
    recognised_a, recognised_b : torch.Tensor
        bool (N,) from `recognised`: run a and run b with the same noise and labels.
    confidence : float
        Confidence of each one-sided bound, in [0.5, 1).

    Raises
    ------
    TypeError
        They are not bool.
    ValueError
        They differ in length or are empty, or `confidence` is out of range.
    """
    check_confidence(confidence)
    for name, values in (("recognised_a", recognised_a), ("recognised_b", recognised_b)):
        if values.dtype != torch.bool:
            raise TypeError(f"{name} must be bool, not {values.dtype}; make it with recognised()")
    if recognised_a.ndim != 1 or recognised_a.shape != recognised_b.shape or not len(recognised_a):
        raise ValueError(
            "recognised_a and recognised_b must be of the same length (N,), not of shapes "
            f"{tuple(recognised_a.shape)} and {tuple(recognised_b.shape)}"
        )
    samples = len(recognised_a)
    only_a = int((recognised_a & ~recognised_b).sum())
    only_b = int((~recognised_a & recognised_b).sum())
    lower, upper = tango_bounds(only_a, only_b, samples, confidence)
    return AgreementDifference(
        a=recognised_a.double().mean().item(),
        b=recognised_b.double().mean().item(),
        difference=(only_a - only_b) / samples,
        lower=lower,
        upper=upper,
        p_value=mcnemar_p_value(only_a, only_b),
        only_a=only_a,
        only_b=only_b,
        samples=samples,
        confidence=confidence,
    )
