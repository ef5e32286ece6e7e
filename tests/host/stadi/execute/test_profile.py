"""Measured speeds are those that plans are made with."""

from __future__ import annotations

import re

import pytest

from brownout.host.errors import PlanError
from brownout.host.stadi.execute.fleet import Fleet
from brownout.host.stadi.execute.profile import profile

from .tiny import CONFIG, HALF, calibrated, devices, dit, dit_conditions, latents


@pytest.fixture(scope="module")
def model():
    made = dit()
    return made, calibrated(made, latents(1), dit_conditions(1)[0])


def test_each_device_is_measured_with_few_and_many_rows(model):
    with Fleet(devices(CONFIG, HALF), executor="inline").place(*model) as placed:
        found = profile(placed, latents(1), dit_conditions(1)[0])
    assert {name: sorted(each.seconds) for name, each in found.items()} == {"d0": [1, 5], "d1": [1, 5]}
    for each in found.values():
        assert each.planned_error < 1e-9
        few, many = each.seconds[1], each.seconds[5]
        assert each.line.per_row_s == pytest.approx((many - few) / 4)
        assert each.line.fixed_s == pytest.approx(few - each.line.per_row_s)
    assert found["d1"].seconds[5] > found["d0"].seconds[5]


def test_one_device_has_one_time(model):
    with Fleet(devices(CONFIG), executor="inline").place(*model) as placed:
        found = profile(placed, latents(1), dit_conditions(1)[0])["d0"]
    assert list(found.seconds) == [6]
    assert found.line.fixed_s == 0
    assert found.line.per_row_s == pytest.approx(found.seconds[6] / 6)


def test_more_devices_than_rows_are_refused(model):
    message = "7 devices cannot share 6 token rows; use at most 6 devices"
    with (
        Fleet(devices(*[CONFIG] * 7), executor="inline").place(*model) as placed,
        pytest.raises(PlanError, match=f"^{re.escape(message)}$"),
    ):
        profile(placed, latents(1), dit_conditions(1)[0])
