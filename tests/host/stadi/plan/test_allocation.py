"""Rows and strides against brute force."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from brownout.host.stadi.plan.allocation import (
    balanced_rows,
    largest_ratio,
    largest_strides,
    proportional_rows,
    stride_choices,
)

ROWS = 7


def tables(count):
    increments = st.lists(st.integers(0, 9), min_size=ROWS, max_size=ROWS)
    return st.lists(increments, min_size=count, max_size=count).map(
        lambda rows: [np.concatenate([[0.0], 1 + np.cumsum(each)]) for each in rows]
    )


def divisions(count):
    return (each for each in itertools.product(range(1, ROWS + 1), repeat=count) if sum(each) == ROWS)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4).flatmap(tables))
def test_no_division_of_rows_is_done_sooner(times):
    def makespan(counts):
        return max(each[count] for each, count in zip(times, counts, strict=True))

    found = balanced_rows(times, ROWS)
    assert sum(found) == ROWS
    assert min(found) >= 1
    assert makespan(found) == min(map(makespan, divisions(len(times))))


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(8, 32))
def test_proportional_rows_are_within_one_of_the_quota_or_at_the_least(weights, rows):
    counts = proportional_rows(weights, rows)
    assert sum(counts) == rows
    assert min(counts) >= 1
    quota = np.array(weights) / sum(weights) * rows
    assert all(count == 1 or count < exact + 1 for count, exact in zip(counts, quota, strict=True))


def test_strides_follow_thresholds():
    relative = [1.0, 0.53, 0.52, 0.27, 0.26, 0.1]
    assert largest_strides(relative, 4) == [1, 1, 2, 2, 4, 4]
    assert largest_strides(relative, 2) == [1, 1, 2, 2, 2, 2]
    assert largest_strides(relative, 1) == [1] * 6


def test_slower_devices_never_have_smaller_strides():
    found = set(stride_choices([2, 1, 4], [0.5, 1.0, 0.2]))
    assert found == {(1, 1, 1), (1, 1, 2), (1, 1, 4), (2, 1, 2), (2, 1, 4)}


def test_threshold_of_a_device_without_fixed_costs():
    # Of 100 rows both hold 50 at half the speed and stride 2. 51 and 49 take 51 / 2r, which is less than the 50 of the
    # fast device from r = 0.51 on.
    assert largest_ratio(np.arange(101.0), 2) == 0.509
    assert largest_ratio(np.arange(101.0), 4) == 0.254
