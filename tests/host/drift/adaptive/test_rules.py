"""Rules against what they stand for, by experiment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brownout.cosim.reference import find_double_errors
from brownout.host.drift.adaptive.rules import best_theta, checkpoint_interval, rate_within_budget, unlocated_share
from brownout.hw.config import ChecksumConfig
from brownout.hw.residues import RESIDUE_MODULUS

S16 = ChecksumConfig(segment_cols=16, column_checks=False)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("rate", "staleness"), [(2e-2, 3000.0), (2e-2, 100.0), (3e-3, 2000.0)])
def test_theta_is_that_of_least_damage(rate, staleness, pairs):
    """Squared damage in segments of at most two errors: those that are located are corrected, others roll back all."""
    checksum = replace(S16, pairs=pairs)
    generator, cols = np.random.default_rng(1), 16
    errs = generator.random((100_000, cols)) < rate
    errs = errs[errs.sum(1) <= 2]
    sizes = errs * generator.choice([-1.0, 1.0], errs.shape) * 2.0 ** generator.integers(0, 31, errs.shape)
    total, squares, several = np.abs(sizes.sum(1)), (sizes**2).sum(1), errs.sum(1) > 1
    # To a residue, 0.024 of all double errors look like others.
    unlocated = several & (
        ~pairs | np.isin(total, [0.0, *2.0 ** np.arange(33)]) | (generator.random(len(errs)) < 0.024)
    )
    costs = []
    for theta in range(16):
        # A residue sees what cancels.
        flagged = (total >= 2.0**theta) | ((total == 0) & several)
        costs.append(squares[~flagged].sum() + (flagged & unlocated).sum() * cols * staleness**2)
    assert abs(int(np.argmin(costs)) - best_theta(rate, staleness, checksum)) <= 1


@pytest.mark.parametrize("segment_cols", [8, 16, 32])
@pytest.mark.parametrize("locators", [1, 2])
def test_share_of_unlocated_pairs_is_that_of_random_pairs(locators, segment_cols):
    checksum = ChecksumConfig(locators=locators, segment_cols=segment_cols, column_checks=False, pairs=True)
    generator = np.random.default_rng(segment_cols)
    places, unlocated, trials = range(segment_cols), 0, 400
    for _ in range(trials):
        columns = generator.choice(segment_cols, 2, replace=False)
        sizes = [int(generator.choice([-1, 1])) << int(generator.integers(0, 31)) for _ in columns]
        r = [sum(sizes)]
        for check in range(1, checksum.checks):
            weights = checksum.weights(check)
            r.append(sum(weights[c] * size for c, size in zip(columns, sizes, strict=True)) % RESIDUE_MODULUS)
        unlocated += len(find_double_errors(checksum, r, places)) != 1
    share = unlocated_share(checksum)
    assert abs(unlocated / trials - share) < 3 * (share * (1 - share) / trials) ** 0.5


def test_theta_rises_with_rate_and_staleness_only():
    assert best_theta(0.0, 1e6, S16) == 0
    assert best_theta(1e-2, 0.0, S16) == 0
    thetas = [best_theta(rate, 1000.0, S16) for rate in (1e-5, 1e-4, 1e-3, 1e-2)]
    assert thetas == sorted(set(thetas))
    assert best_theta(1e-2, 1e30, S16) == 31


def test_interval_keeps_what_is_rolled_back_as_stale_as_it_was():
    assert checkpoint_interval(0.02, 0.02, 10) == 10
    assert checkpoint_interval(0.04, 0.02, 10) == 4
    assert checkpoint_interval(0.01, 0.02, 10) == 21
    assert checkpoint_interval(1.0, 0.02, 10) == 1
    assert checkpoint_interval(0.0, 0.02, 10, longest=30) == 30
    # Mean age of what goes back, with rolled-back elements evenly spread over evaluations.
    ages = {interval: np.mean(np.arange(1, interval + 1)) for interval in range(1, 60)}
    for share in (0.005, 0.013, 0.05):
        interval = checkpoint_interval(share, 0.02, 10)
        assert share * ages[interval] <= 0.02 * ages[10] < share * ages[interval + 1]


def test_rate_within_budget_lies_on_the_profile():
    rates, distances = [1e-4, 1e-3, 1e-2], [1e-3, 4e-3, 4e-1]
    assert rate_within_budget(rates, distances, 4e-3) == pytest.approx(1e-3)
    assert rate_within_budget(rates, distances, 4e-2) == pytest.approx(10**-2.5)
    assert rate_within_budget(rates, distances, 2.5e-4) == pytest.approx(1e-5)
    # A dip is noise.
    assert rate_within_budget([1, 2, 4], [1.0, 0.5, 2.0], 2.0) == pytest.approx(4)
    assert rate_within_budget([1, 2, 4], [1.0, 0.5, 2.0], 1.0) <= 2


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"budget must be in 0..2, as far as the profile goes, not 3"):
        rate_within_budget([1, 2], [1.0, 2.0], 3)
    with pytest.raises(ValueError, match="rates must ascend, be positive"):
        rate_within_budget([2, 1], [1.0, 2.0], 1)
    with pytest.raises(ValueError, match="distances must be positive"):
        rate_within_budget([1, 2], [0.0, 2.0], 1)
    with pytest.raises(ValueError, match="rate and staleness must not be negative"):
        best_theta(-1, 1, 16)
    with pytest.raises(ValueError, match="1 <= design_interval <= longest"):
        checkpoint_interval(0.1, 0.1, 60)
