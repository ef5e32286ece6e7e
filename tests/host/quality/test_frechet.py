"""The Frechet distance against scipy's matrix root and closed forms, and its interval against repetition."""

from __future__ import annotations

import re
import statistics

import numpy as np
import pytest
import torch

from brownout.host.quality import frechet_distance, frechet_with_interval, seed_to_seed_floor


def draw(generator, samples, dimensions=8, shift=0.0, scale=1.0):
    mixing = torch.eye(dimensions, dtype=torch.float64) + 0.3
    return scale * torch.randn(samples, dimensions, generator=generator, dtype=torch.float64) @ mixing + shift


def standardised(generator, samples, dimensions):
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    values = torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)
    values -= values.mean(0)
    return values @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(values.T))).T


def test_it_is_that_of_scipys_matrix_root(generator):
    linalg = pytest.importorskip("scipy.linalg")
    a, b = draw(generator, 300), draw(generator, 200, shift=0.2, scale=1.3)
    x, y = a.numpy(), b.numpy()
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * linalg.sqrtm(cov_x @ cov_y).real)
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_diagonal_gaussians_have_a_closed_form(generator):
    a, b = standardised(generator, 100, 5), standardised(generator, 80, 5)
    sigma_a = torch.tensor([1, 2, 3, 0.5, 0.1], dtype=torch.float64)
    sigma_b = torch.tensor([2, 2, 1, 0.0, 0.1], dtype=torch.float64)
    means = torch.tensor([0, 1, 0, 0, -2], dtype=torch.float64)
    wanted = (means.square().sum() + (sigma_a - sigma_b).square().sum()).item()
    assert frechet_distance(a * sigma_a, b * sigma_b + means) == pytest.approx(wanted, rel=1e-9)


def test_it_is_zero_on_itself_and_symmetric_and_grows_with_noise(generator):
    a, b = draw(generator, 200), draw(generator, 150, shift=0.5)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    noise = torch.randn(a.shape, generator=generator, dtype=torch.float64)
    values = [frechet_distance(a + strength * noise, a) for strength in (0.1, 0.3, 1, 3)]
    assert values == sorted(values)


def test_dead_features_do_not_matter(generator):
    a, b = draw(generator, 100), draw(generator, 100, shift=0.3)
    dead = torch.zeros(100, 3, dtype=torch.float64)
    wider = frechet_distance(torch.cat([a, dead], 1), torch.cat([b, dead], 1))
    assert wider == pytest.approx(frechet_distance(a, b), rel=1e-7)


def test_the_interval_is_deterministic_and_contains_the_distance(generator):
    a, b = draw(generator, 100), draw(generator, 100, shift=0.3)
    result = frechet_with_interval(a, b, resamples=50, seed=3)
    assert result == frechet_with_interval(a, b, resamples=50, seed=3)
    assert result != frechet_with_interval(a, b, resamples=50, seed=4)
    assert result.low < result.distance < result.high
    assert result.distance == frechet_distance(a, b)
    assert (result.samples_a, result.samples_b, result.resamples, result.confidence) == (100, 100, 50, 0.95)


def test_interval_and_bias_are_those_of_repeated_experiments():
    generator = torch.Generator().manual_seed(1)
    results, unshifted = [], []
    for seed in range(50):
        a, b = torch.randn(2, 200, 6, generator=generator, dtype=torch.float64)
        results.append(frechet_with_interval(a, b + 0.3, resamples=40, seed=seed))
        unshifted.append(frechet_distance(a, b))
    expected = statistics.fmean(result.distance for result in results)
    covered = sum(result.low <= expected <= result.high for result in results)
    assert 44 <= covered <= 50
    # Without the shift the distributions are equal, and all of the distance is bias.
    bias = statistics.fmean(result.bias for result in results)
    assert bias == pytest.approx(statistics.fmean(unshifted), rel=0.1)


def test_fixed_class_counts_narrow_the_interval_to_what_varies():
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(200) % 4
    centres = 10 * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    runs = [centres[labels] + torch.randn(200, 6, generator=generator, dtype=torch.float64) for _ in range(20)]
    by_class = [
        frechet_with_interval(a, b, labels_a=labels, labels_b=labels, resamples=60)
        for a, b in zip(runs[::2], runs[1::2], strict=True)
    ]
    expected = statistics.fmean(result.distance for result in by_class)
    assert sum(result.low <= expected <= result.high for result in by_class) >= 9
    lottery = frechet_with_interval(runs[0], runs[1], resamples=60)
    assert lottery.high - lottery.low > 5 * (by_class[0].high - by_class[0].low)


def test_strata_follow_the_labels_whatever_their_order(generator):
    labels = torch.tensor([7, 3, 7, 3, 7, 3, 7, 3])
    # Constant within a class: resampling within classes changes nothing.
    features = (labels == 7).double()[:, None].repeat(1, 2)
    other = draw(generator, 8, 2)
    result = frechet_with_interval(features, features, labels_a=labels, labels_b=labels, resamples=20)
    assert (result.low, result.high, result.bias) == pytest.approx((0, 0, 0), abs=1e-12)
    with pytest.raises(ValueError, match=r"^labels_b must be of shape \(8,\), not \(3,\)$"):
        frechet_with_interval(features, other, labels_a=labels, labels_b=labels[:3])


def test_the_floor_is_over_all_pairs_of_runs(generator):
    runs = [draw(generator, 100) for _ in range(3)]
    distances = [frechet_distance(runs[i], runs[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    floor = seed_to_seed_floor(runs)
    assert floor.mean == pytest.approx(statistics.fmean(distances), rel=1e-12)
    assert floor.largest == max(distances)
    assert (floor.pairs, floor.samples) == (3, 100)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (8, 8),
            "features_b has 8 samples of 8 dimensions, so its covariance is singular; give at least 9 samples",
        ),
        ((9,), "features_b must be floating-point feature vectors (N, D), not torch.float32 (9,)"),
        ((9, 7), "features_a has 8 dimensions but features_b has 7; use one network for both"),
    ],
)
def test_bad_features_are_refused(shape, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        frechet_distance(torch.zeros(9, 8), torch.zeros(shape))


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"^features_a must be finite; check the images that it was made from$"):
        frechet_distance(torch.full((9, 8), float("nan")), torch.zeros(9, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 95}, "confidence must be in (0, 1), not 95"),
        ({"resamples": 3}, "resamples must be at least 20, not 3"),
    ],
)
def test_bad_settings_of_the_interval_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        frechet_with_interval(torch.zeros(9, 8), torch.zeros(9, 8), **arguments)


def test_a_floor_needs_runs_of_one_size(generator):
    with pytest.raises(ValueError, match=r"^the floor needs at least two runs with different seeds, not 1$"):
        seed_to_seed_floor([draw(generator, 20)])
    with pytest.raises(ValueError, match=r"^runs must have the same number of images, not \[20, 30\]: "):
        seed_to_seed_floor([draw(generator, 20), draw(generator, 30)])
