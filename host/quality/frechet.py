"""Frechet distance between Gaussians fitted to two sets of feature vectors, with its uncertainty.

FID is this distance on the features of one particular Inception network; on other features it is not FID.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RESAMPLES = 200
CONFIDENCE = 0.95


def _check_features(features: torch.Tensor, name: str) -> torch.Tensor:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(
            f"{name} must be floating-point feature vectors (N, D), not {features.dtype} {tuple(features.shape)}"
        )
    samples, dimensions = features.shape
    if samples <= dimensions:
        raise ValueError(
            f"{name} has {samples} samples of {dimensions} dimensions, so its covariance is singular; "
            f"give at least {dimensions + 1} samples"
        )
    values = features.double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite; check the images that it was made from")
    return values


def _check_both(features_a: torch.Tensor, features_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = _check_features(features_a, "features_a"), _check_features(features_b, "features_b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features_a has {a.shape[1]} dimensions but features_b has {b.shape[1]}; use one network for both"
        )
    return a, b


def _covariance(features: torch.Tensor) -> torch.Tensor:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    covariance_a, covariance_b = _covariance(a), _covariance(b)
    # The root of S_a S_b has the trace of that of R S_b R with R = root of S_a, which is symmetric and so has real
    # eigenvalues by construction. Rounding makes eigenvalues of dead features slightly negative.
    values, vectors = torch.linalg.eigh(covariance_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = root @ covariance_b @ root
    mixed = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return max((means + covariance_a.trace() + covariance_b.trace() - 2 * mixed).item(), 0.0)


def frechet_distance(features_a: torch.Tensor, features_b: torch.Tensor) -> float:
    """Squared Frechet distance between Gaussians fitted to two sets of feature vectors.

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) with sample covariances S, in float64.

    Parameters
    ----------
    features_a, features_b : torch.Tensor
        (N, D) and (M, D), N and M greater than D.

    Returns
    -------
    float
        Not negative. Finite samples bias it upwards: two samples of one distribution are about
        `seed_to_seed_floor` apart.

    Raises
    ------
    ValueError
        Wrong shapes or dtypes, values that are not finite, or no more samples than dimensions.
    """
    return _distance(*_check_both(features_a, features_b))


@dataclass(frozen=True, kw_only=True)
class FrechetResult:
    """A Frechet distance and how far it depends on which images happened to be drawn.

    Attributes
    ----------
    distance : float
        Result of `frechet_distance`.
    low, high : float
        Interval of the distance at these sample sizes: that of the bootstrap, moved so that its mean is `distance`,
        because resampled sets lie further apart than the sets themselves. Compare it with distances of sets of the
        same sizes, such as the seed-to-seed floor.
    bias : float
        How much of `distance` comes from finite samples, by the bootstrap: the mean of resampled distances less
        `distance`.
    samples_a, samples_b : int
        Sizes of the sets.
    confidence : float
        Confidence of the two-sided interval.
    resamples : int
        Bootstrap resamples.
    """

    distance: float
    low: float
    high: float
    bias: float
    samples_a: int
    samples_b: int
    confidence: float
    resamples: int


class _Strata:
    """Feature vectors sorted by class, to be resampled within classes; one class without labels."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor | None, name: str) -> None:
        if labels is None:
            labels = torch.zeros(len(features), dtype=torch.int64)
        if labels.shape != (len(features),):
            raise ValueError(f"{name} must be of shape ({len(features)},), not {tuple(labels.shape)}")
        self.features = features[labels.argsort().to(features.device)]
        sizes = labels.unique(return_counts=True)[1].cpu()
        self.sizes = sizes.repeat_interleave(sizes)
        self.starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)

    def resample(self, generator: torch.Generator) -> torch.Tensor:
        draws = torch.rand(len(self.sizes), dtype=torch.float64, generator=generator)
        chosen = self.starts + (draws * self.sizes).long()
        return self.features[chosen.to(self.features.device)]


def frechet_with_interval(
    features_a: torch.Tensor,
    features_b: torch.Tensor,
    *,
    labels_a: torch.Tensor | None = None,
    labels_b: torch.Tensor | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FrechetResult:
    """Frechet distance with a bootstrap interval: both sets are resampled with replacement.

    Give the labels of sets with a fixed number of images per class: they are then resampled within classes. Otherwise
    the interval contains a lottery over classes that never took place, several times as wide as the rest.

    Parameters
    ----------
    features_a, features_b : torch.Tensor
        Arguments of `frechet_distance`.
    labels_a, labels_b : torch.Tensor, optional
        int64 (N,) and (M,).
    confidence : float
        Confidence of the two-sided interval, in (0, 1).
    resamples : int
        Number of them, at least 20.
    seed : int
        Seed of the bootstrap; the same seed gives the same interval.

    Raises
    ------
    ValueError
        As `frechet_distance`, there is not one label for each vector, or `confidence` or `resamples` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), not {confidence!r}")
    if resamples < 20:
        raise ValueError(f"resamples must be at least 20, not {resamples}")
    a, b = _check_both(features_a, features_b)
    distance = _distance(a, b)
    generator = torch.Generator().manual_seed(seed)
    strata_a, strata_b = _Strata(a, labels_a, "labels_a"), _Strata(b, labels_b, "labels_b")
    resampled = torch.tensor(
        [_distance(strata_a.resample(generator), strata_b.resample(generator)) for _ in range(resamples)],
        dtype=torch.float64,
    )
    bias = resampled.mean().item() - distance
    low, high = (torch.quantile(resampled, tail).item() - bias for tail in ((1 - confidence) / 2, (1 + confidence) / 2))
    return FrechetResult(
        distance=distance,
        low=max(low, 0.0),
        high=high,
        bias=bias,
        samples_a=len(a),
        samples_b=len(b),
        confidence=confidence,
        resamples=resamples,
    )


@dataclass(frozen=True, kw_only=True)
class SeedFloor:
    """Frechet distances between runs that differ in their noise alone: what no comparison can resolve.

    Attributes
    ----------
    mean, largest : float
        Mean and largest of the distances between all pairs of runs.
    pairs : int
        Pairs of runs.
    samples : int
        Images of each run.
    """

    mean: float
    largest: float
    pairs: int
    samples: int


def seed_to_seed_floor(runs: Sequence[torch.Tensor]) -> SeedFloor:
    """Frechet distances between all pairs of runs of one model with different seeds.

    Parameters
    ----------
    runs : sequence of torch.Tensor
        Feature vectors (N, D) of two or more runs with the same labels; `N` as in the comparison that the floor is for.

    Raises
    ------
    ValueError
        There are fewer than two runs, their sizes differ, or as `frechet_distance`.
    """
    if len(runs) < 2:
        raise ValueError(f"the floor needs at least two runs with different seeds, not {len(runs)}")
    if len(sizes := sorted({len(run) for run in runs})) > 1:
        raise ValueError(f"runs must have the same number of images, not {sizes}: the distance depends on it")
    distances = [frechet_distance(a, b) for a, b in itertools.combinations(runs, 2)]
    return SeedFloor(
        mean=math.fsum(distances) / len(distances),
        largest=max(distances),
        pairs=len(distances),
        samples=len(runs[0]),
    )
