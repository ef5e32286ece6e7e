"""Bounds of paired differences: Student's t for means."""

from __future__ import annotations

import re

import pytest
import torch

from brownout.host.quality import paired_bound
from brownout.host.quality.paired import student_t_cdf, student_t_quantile

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30, 99, 1999, 20000])
def test_student_t_is_scipys(degrees):
    for t in (-2.5, 0.0, 0.3, 1.0, 1.645, 4.0):
        assert student_t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-10)
    for probability in (0.5, 0.9, 0.95, 0.975, 0.999):
        wanted = stats.t.ppf(probability, degrees)
        assert student_t_quantile(probability, degrees) == pytest.approx(wanted, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_bound_is_that_of_the_paired_t_test(generator, confidence):
    a = torch.rand(40, generator=generator, dtype=torch.float64)
    b = a + 0.1 * torch.randn(40, generator=generator, dtype=torch.float64)
    bound = paired_bound(a, b, confidence=confidence)
    below = stats.ttest_rel(a.numpy(), b.numpy(), alternative="less").confidence_interval(confidence)
    above = stats.ttest_rel(a.numpy(), b.numpy(), alternative="greater").confidence_interval(confidence)
    assert bound.upper == pytest.approx(below.high, rel=1e-9)
    assert bound.lower == pytest.approx(above.low, rel=1e-9)
    assert bound.mean == pytest.approx((a - b).mean().item(), rel=1e-12)
    assert (bound.samples, bound.confidence) == (40, confidence)


def test_pairing_removes_what_both_runs_share(generator):
    images = 100 * torch.rand(50, generator=generator, dtype=torch.float64)
    better = images - 0.01 + 0.001 * torch.randn(50, generator=generator, dtype=torch.float64)
    assert paired_bound(better, images).upper < 0
    assert paired_bound(images, better).upper > 0


def test_the_upper_bound_covers_the_mean_as_often_as_it_says():
    generator = torch.Generator().manual_seed(5)
    # Skewed, as distances are.
    differences = torch.empty(1000, 100).exponential_(generator=generator)
    covered = [paired_bound(row, torch.zeros(100)).upper >= 1 for row in differences]
    assert 0.90 <= sum(covered) / 1000 <= 0.97


def test_equal_runs_have_a_bound_of_zero():
    bound = paired_bound([0.5, 0.25, 0.125], [0.5, 0.25, 0.125])
    assert (bound.lower, bound.mean, bound.upper) == (0, 0, 0)


@pytest.mark.parametrize(
    ("a", "b", "confidence", "message"),
    [
        ([1.0, 2.0], [1.0], 0.95, "a and b must be of the same length (N,), not of shapes (2,) and (1,)"),
        ([1.0], [1.0], 0.95, "a bound needs at least two pairs, not 1"),
        ([1.0, 2.0], [1.0, 2.0], 95, "confidence must be in [0.5, 1), not 95"),
        (
            [1.0, float("inf")],
            [1.0, 2.0],
            0.95,
            "pair 1 is not finite (inf and 2.0); compare a metric that is, such as the squared error in place of PSNR",
        ),
    ],
)
def test_bad_pairs_are_refused(a, b, confidence, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        paired_bound(a, b, confidence=confidence)
