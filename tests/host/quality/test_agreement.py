"""Class agreement and its paired difference, against enumeration and numerical optimisation."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host.quality import agreement_difference, class_agreement, recognised
from brownout.host.quality.agreement import mcnemar_p_value, tango_bounds

optimize = pytest.importorskip("scipy.optimize")
stats = pytest.importorskip("scipy.stats")


class Brightest(nn.Module):
    """The class is the brightest of the pixels in the first row."""

    def forward(self, images):
        return images[:, 0, 0]


def pairs(both, only_a, only_b, neither):
    """Recognised images of two runs with these counts."""
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return torch.tensor(a), torch.tensor(b)


def plain_score(difference, only_a, only_b, samples):
    """Tango's statistic with the constrained maximum of the likelihood found numerically."""

    def loss(q):
        cells = (q + difference, q, 1 - 2 * q - difference)
        counts = (only_a, only_b, samples - only_a - only_b)
        return -sum(count * math.log(max(cell, 1e-300)) for count, cell in zip(counts, cells, strict=True) if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (only_a - only_b - samples * difference) / math.sqrt(samples * (2 * q + difference - difference**2))


def test_agreement_is_the_share_of_images_seen_as_their_label():
    images = torch.zeros(250, 1, 3, 3)
    images[range(250), 0, 0, torch.arange(250) % 3] = 1
    labels = torch.arange(250) % 3
    labels[:50] = (labels[:50] + 1) % 3
    assert recognised(images, labels, Brightest()).tolist() == [False] * 50 + [True] * 200
    assert class_agreement(images, labels, Brightest()) == 0.8


def test_labels_must_fit_the_images():
    with pytest.raises(ValueError, match=r"^2 images need labels of shape \(2,\), not \(3,\)$"):
        class_agreement(torch.zeros(2, 1, 3, 3), torch.zeros(3, dtype=torch.int64), Brightest())


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (3, 0), (1, 9), (6, 6), (12, 25), (700, 640)])
def test_the_p_value_is_the_exact_binomial_test(only_a, only_b):
    wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_p_value(only_a, only_b) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    ("only_a", "only_b", "samples"), [(1, 0, 44), (12, 2, 50), (5, 5, 100), (0, 4, 200), (30, 45, 2000)]
)
def test_bounds_are_where_the_score_test_stops_refusing(only_a, only_b, samples):
    lower, upper = tango_bounds(only_a, only_b, samples, 0.95)
    assert lower < (only_a - only_b) / samples < upper
    assert plain_score(lower, only_a, only_b, samples) == pytest.approx(1.6448536, abs=1e-4)
    assert plain_score(upper, only_a, only_b, samples) == pytest.approx(-1.6448536, abs=1e-4)


def test_bounds_have_a_width_where_no_image_differs():
    z_squared = 1.6448536269514722**2
    wanted = z_squared / (2000 + z_squared)
    assert tango_bounds(0, 0, 2000, 0.95) == pytest.approx((-wanted, wanted), rel=1e-9)


def test_bounds_swap_with_the_runs():
    lower, upper = tango_bounds(7, 3, 100, 0.95)
    assert tango_bounds(3, 7, 100, 0.95) == pytest.approx((-upper, -lower), abs=1e-12)


@pytest.mark.parametrize(("p_a", "p_b"), [(0.1, 0.1), (0.05, 0.15), (0.3, 0.2)])
def test_bounds_cover_the_true_difference(p_a, p_b):
    """By enumeration of all outcomes of 40 pairs."""
    samples = 40
    counts = [(x, y) for x, y in itertools.product(range(26), repeat=2) if x + y <= samples]
    chance = stats.multinomial.pmf([(x, y, samples - x - y) for x, y in counts], samples, [p_a, p_b, 1 - p_a - p_b])
    assert chance.sum() > 0.9999
    bounds = np.array([tango_bounds(x, y, samples, 0.95) for x, y in counts])
    assert 0.93 <= chance[bounds[:, 0] <= p_a - p_b].sum() <= 0.98
    assert 0.93 <= chance[bounds[:, 1] >= p_a - p_b].sum() <= 0.98


def test_the_difference_counts_pairs():
    found = agreement_difference(*pairs(80, 4, 10, 6))
    assert (found.a, found.b, found.difference) == (0.84, 0.9, -0.06)
    assert (found.only_a, found.only_b, found.samples, found.confidence) == (4, 10, 100, 0.95)
    assert (found.lower, found.upper) == tango_bounds(4, 10, 100, 0.95)
    assert found.p_value == mcnemar_p_value(4, 10)


def test_a_loss_of_a_hundredth_takes_2000_images():
    assert agreement_difference(*pairs(1980, 5, 10, 5)).loses_at_most(0.01)
    assert not agreement_difference(*pairs(1950, 5, 25, 20)).loses_at_most(0.01)
    message = "a claim about a loss of 0.01 needs at least 2000 images, not 1999; generate more, or report the bounds"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        agreement_difference(*pairs(1999, 0, 0, 0)).loses_at_most(0.01)
    assert agreement_difference(*pairs(400, 0, 0, 0)).loses_at_most(0.05)
    with pytest.raises(ValueError, match=r"^loss must be in \(0, 1\), not 0$"):
        agreement_difference(*pairs(400, 0, 0, 0)).loses_at_most(0)


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(TypeError, match=r"^recognised_b must be bool, not torch.float32; make it with recognised\(\)$"):
        agreement_difference(torch.ones(2, dtype=torch.bool), torch.ones(2))
    with pytest.raises(ValueError, match=r"must be of the same length \(N,\), not of shapes \(2,\) and \(3,\)$"):
        agreement_difference(torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool))
