"""Error rates and delay factors from what checks flag."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, DelayModel, Protection
from brownout.host.drift.adaptive.estimate import (
    DelayEstimator,
    estimate_rate,
    flagged_share,
    measured_curve,
    segment_widths,
    wilson_interval,
)
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.strategies import RESIDUE_DOUBLE_ERRORS
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

CONFIG = AcceleratorConfig(rows=32, cols=32, timing_model="flip", checksum=RESIDUE_DOUBLE_ERRORS)


def flagged(generator, segments, width, rate, check_rate, theta):
    """How many of so many segments are flagged, drawn output by output."""
    sums = np.zeros(segments, np.int64)
    for bits, columns, p in ((31, width, rate), (33, 1, check_rate)):
        hits = generator.random((segments, columns)) < p
        sign = generator.choice([-1, 1], (segments, columns))
        sums += (hits * sign * (1 << generator.integers(0, bits, (segments, columns)))).sum(1)
    residue_errs = generator.random(segments) < check_rate
    large = (sums != 0) & (np.abs(sums) >= 1 << theta)
    return int((large | (sums == 0) & residue_errs).sum())


@pytest.mark.parametrize(("rate", "check_rate", "theta"), [(1e-3, 0.0, 0), (1e-2, 2e-3, 0), (3e-3, 3e-3, 8)])
def test_interval_holds_the_rate_in_most_of_many_draws(rate, check_rate, theta):
    generator = np.random.default_rng(1)
    estimates = [
        estimate_rate(
            CONFIG,
            {16: 6000, 1: 1000},
            flagged(generator, 6000, 16, rate, check_rate, theta)
            + flagged(generator, 1000, 1, rate, check_rate, theta),
            check_rate=check_rate,
            theta=theta,
            z=1.96,
        )
        for _ in range(120)
    ]
    covered = sum(each.low <= rate <= each.high for each in estimates)
    assert 0.88 <= covered / 120 <= 1
    assert np.mean([each.value for each in estimates]) == pytest.approx(rate, rel=0.05)


def test_wilson_interval_is_that_of_the_textbook():
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 and 0 of 20 at 95 %.
    assert wilson_interval(81, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20, 1.959964) == pytest.approx((0, 0.1611), abs=5e-5)


def test_segments_have_the_widths_that_are_checked():
    config = AcceleratorConfig(rows=8, cols=8, drain_lanes=2, checksum=ChecksumConfig(scheme="residue", segment_cols=3))
    assert segment_widths(config, 8) == {3: 2, 2: 1}
    assert segment_widths(config, 20) == {3: 5, 2: 2, 1: 1}
    with Accelerator(replace(config, timing_model="flip"), backend="twin") as accelerator:
        a, w = torch.ones(5, 4, dtype=torch.int8), torch.ones(4, 20, dtype=torch.int8)
        accelerator.gemm(a, w, protection=Protection())
        assert accelerator.check_counts["checks"] == 5 * sum(segment_widths(config, 20).values())


@pytest.mark.parametrize("theta", [0, 9])
def test_twin_flags_as_often_as_predicted(theta):
    rate, check_rate = 6e-3, 2e-3
    config = AcceleratorConfig(rows=32, cols=32, timing_model="flip", checksum=RESIDUE_DOUBLE_ERRORS)
    low = 0
    with Accelerator(config, backend="twin") as accelerator:
        a, w = torch.zeros(600, 8, dtype=torch.int8), torch.zeros(8, 90, dtype=torch.int8)
        for seed in range(20):
            accelerator.set_error_rate(rate, seed, check_rate)
            before = dict(accelerator.check_counts)
            accelerator.gemm(a, w, protection=Protection(theta=theta))
            after = accelerator.check_counts
            checks = {width: 600 * count for width, count in segment_widths(config, 90).items()}
            assert sum(checks.values()) == after["checks"] - before["checks"]
            found = estimate_rate(
                config, checks, after["detected"] - before["detected"], check_rate=check_rate, theta=theta, z=1.96
            )
            low += found.low <= rate <= found.high
    assert low >= 17


def test_blind_bits_and_checks_that_err_change_the_share():
    assert flagged_share(CONFIG, 16, 1e-3, 0) == pytest.approx(1 - 0.999**16)
    assert flagged_share(CONFIG, 1, 0, 0.1) == pytest.approx(1 - 0.9**2)
    assert flagged_share(CONFIG, 10, 0.31, 0, theta=30) == pytest.approx(1 - 0.99**10)
    assert flagged_share(CONFIG, 10, 0.31, 0, theta=31) == 0
    # A residue alone is seen up to 32.
    assert flagged_share(CONFIG, 10, 0, 0.5, theta=33) == 0


def evidence(estimator, generator, point, factor, count=50_000):
    rate, check_rate = (
        DelayModel(delay_factor=factor).error_rate(voltage, 2e9) for voltage in (point.voltage_v, point.check_voltage_v)
    )
    estimator.add(point, 0, {16: count}, generator.binomial(count, 1 - (1 - rate) ** 16 * (1 - check_rate) ** 2))
    return estimator.end_evaluation()


def test_delay_factor_is_found_from_several_settings_and_followed():
    estimator, generator = DelayEstimator(CONFIG, DelayModel()), np.random.default_rng(3)
    points = [OperatingPoint(voltage_v=v, check_voltage_v=0.8) for v in (0.7, 0.68)]
    for point in points:
        assert not evidence(estimator, generator, point, 1.03)
    assert estimator.estimate.low <= 1.03 <= estimator.estimate.high
    assert estimator.estimate.value == pytest.approx(1.03, abs=0.004)
    assert evidence(estimator, generator, points[0], 1.09)
    assert estimator.estimate.value == pytest.approx(1.09, abs=0.004)
    # What was dropped no longer counts.
    assert len(estimator.past) == 1


def test_no_errors_bound_the_factor_from_above():
    estimator = DelayEstimator(CONFIG, DelayModel())
    estimator.add(OperatingPoint(voltage_v=0.8), 0, {16: 100_000}, 0)
    estimator.end_evaluation()
    first = estimator.estimate.high
    # 9 / 1.6e6 = 5.6e-6 errors per output, which the delay model has at 1.138, and 0.8 V at 1.265.
    assert first == pytest.approx(1.138 / 1.265, abs=0.003)
    estimator.add(OperatingPoint(voltage_v=0.8), 0, {16: 400_000}, 0)
    estimator.end_evaluation()
    assert estimator.estimate.high < first


def test_state_goes_through_json():
    estimator, generator = DelayEstimator(CONFIG, DelayModel()), np.random.default_rng(3)
    point = OperatingPoint(voltage_v=0.7, check_voltage_v=0.8)
    evidence(estimator, generator, point, 1.02)
    other = DelayEstimator(CONFIG, DelayModel())
    other.load_state(json.loads(json.dumps(estimator.state())))
    for each in (estimator, other):
        evidence(each, np.random.default_rng(4), point, 1.02)
    assert other.estimate == estimator.estimate


def test_measured_curve_goes_through_its_points_and_on():
    curve = measured_curve([1.0, 1.2, 1.3], [0.0, 1e-4, 1e-3])
    assert curve.rate(1.1) == 0
    assert curve.rate(1.25) == pytest.approx(10**-3.5)
    assert curve.rate(1.4) == pytest.approx(1e-2)
    assert curve.largest_delay(1e-2) == pytest.approx(1.4)
    assert curve.largest_delay(1e-9) == pytest.approx(1.2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"detected must be in 0..5 \(checks, more than none\), not 6"):
        estimate_rate(CONFIG, {16: 5}, 6)
    with pytest.raises(ValueError, match="DelayEstimator needs checksum units"):
        DelayEstimator(AcceleratorConfig(), DelayModel())
    with pytest.raises(ValueError, match="an operating point without voltages says nothing about delays"):
        DelayEstimator(CONFIG, DelayModel()).add(OperatingPoint(error_rate=0.1), 0, {16: 5}, 1)
    with pytest.raises(ValueError, match="delays must ascend"):
        measured_curve([1.0, 0.9], [1e-3, 1e-2])
