"""Intervals and stopping, on damages whose mean is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from brownout.host.drift.characterisation.stopping import Stopping


def test_interval_is_students_with_the_error_shared_by_the_looks():
    values = [0.1, 0.4, 0.2, 0.9, 0.3]
    found = Stopping(images=20, batch=5, confidence=0.9).estimate(values, 1.0)
    low, high = stats.t.interval(1 - 0.1 / 4, 4, np.mean(values), stats.sem(values))
    assert (found.mean, found.upper, found.images) == (pytest.approx(0.38), pytest.approx(high, rel=1e-9), 5)
    assert found.lower == max(0, low)


def test_no_damage_seen_is_not_no_damage():
    found = Stopping(images=20, batch=20, confidence=0.95).estimate([0.0] * 20, 3.0)
    assert (found.mean, found.lower) == (0, 0)
    # The share of damaged images at which twenty good ones in a row have a probability of 2.5 %.
    assert (1 - found.upper / 3.0) ** 20 == pytest.approx(0.025)


def test_answers_are_as_sure_as_they_say():
    """Of true means just at the threshold, no more than 5 % of answers may fall on either side: all are wrong."""
    rule = Stopping(images=100, batch=20, confidence=0.95, relative=0.0, threshold=1.0)
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(400):
        values: list[float] = []
        while not rule.enough(values, 5.0):
            values += random.gamma(2.0, 0.5, 20).tolist()
        found = rule.estimate(values, 5.0)
        wrong += found.lower > 1.0 or found.upper < 1.0
    assert wrong / 400 < 0.05 + 0.02


@pytest.mark.parametrize(("mean", "images"), [(0.2, 20), (5.0, 20), (1.02, 100)])
def test_a_clear_answer_comes_early(mean, images):
    rule = Stopping(images=100, batch=20, relative=0.0, threshold=1.0)
    random = np.random.default_rng(2)
    values: list[float] = []
    while not rule.enough(values, 5.0):
        values += random.normal(mean, 0.3, 20).clip(0).tolist()
    assert len(values) == images


def test_a_narrow_interval_is_enough():
    rule = Stopping(images=100, batch=20, relative=0.1)
    assert rule.enough([1.0, 1.1] * 10, 5.0)
    assert not rule.enough([0.5, 1.6] * 10, 5.0)
    assert Stopping(images=100, batch=20, relative=0.0, absolute=0.5).enough([0.5, 1.6] * 10, 5.0)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"images must be a multiple of batch, and batch at least 2, not 50 and 20"):
        Stopping(images=50, batch=20)
    with pytest.raises(ValueError, match="relative must not be negative, but is -1"):
        Stopping(relative=-1)
    with pytest.raises(ValueError, match=r"confidence must be in \[0.5, 1\), not 1"):
        Stopping(confidence=1)
