"""Bytes and schedules of coded exchange, worked out by hand."""

from __future__ import annotations

import re

import pytest

from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.link import Link, Links
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.stadi.plan.planner import Planner
from brownout.host.stadi.plan.prediction import Predictor
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import LinearCosts, fleet


def two(strides, *, steps, warmup=0):
    shares = tuple(
        Share(device=name, stride=stride, rows=rows, warmup_rows=rows)
        for name, stride, rows in zip("ab", strides, ((0, 2), (2, 4)), strict=True)
    )
    return Plan(method="by hand", shares=shares, rows=4, steps=steps, warmup=warmup)


def coded(keyframe_interval=None, *, coded_row_bytes=5, **options):
    # What a row takes is given; bits and block do not matter.
    coding = ExchangeCoding(4, 1, keyframe_interval)
    return LinearCosts(
        {"a": 1, "b": 1}, rows=4, row_bytes=10, coded_row_bytes=coded_row_bytes, coding=coding, **options
    )


def test_bytes_are_bits_and_scales():
    assert ExchangeCoding(4, 64).bytes(130) == 65 + 3
    assert ExchangeCoding(2, 72).bytes(144) == 36 + 2
    assert ExchangeCoding(3, 8).bytes(3) == 2 + 1
    assert [ExchangeCoding(4, 64, 3).is_keyframe(number) for number in range(7)] == [True, False, False] * 2 + [True]
    assert [ExchangeCoding(4, 64).is_keyframe(number) for number in range(3)] == [True, False, False]


def test_messages_are_counted_from_the_last_synchronous_step():
    plan = two((1, 2), steps=10, warmup=2)
    fast, slow = plan.shares
    assert list(plan.sends(fast, slow)) == [3, 5, 7]
    assert [plan.message_number(fast, slow, step) for step in (3, 5, 7)] == [1, 2, 3]
    plan = two((1, 1), steps=4)
    assert [plan.message_number(*plan.shares, step) for step in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(("keyframe_interval", "rows_bytes"), [(None, 5 + 5 + 5), (3, 5 + 5 + 10), (1, 30), (2, 20)])
def test_synchronous_steps_and_keyframes_are_whole(keyframe_interval, rows_bytes):
    costs, devices, plan = coded(keyframe_interval), fleet("ab"), two((1, 2), steps=10, warmup=2)
    # Two rows a device and three messages each way, after two synchronous steps.
    timeline = Simulation(devices, costs).run(plan)
    assert timeline.link_bytes == 2 * 2 * 20 + 2 * 2 * rows_bytes
    linked = fleet("ab", Links(Link(bytes_per_s=1e30, latency_s=0, byte_j=1.0)))
    predicted = Predictor(linked, costs, {"a": 1.0, "b": 1.0}).energy_j(plan)
    assert predicted == pytest.approx(Simulation(linked, costs).run(plan).energy_j)


@pytest.mark.parametrize(("keyframe_interval", "latency_s"), [(1, 9.5), (None, 8.5), (2, 9.0)])
def test_coded_messages_hide_where_whole_ones_do_not(keyframe_interval, latency_s):
    # A step takes 2 s, a whole message 2.5 s, a coded one 1.25 s; without synchronous steps the first one is whole.
    devices = fleet("ab", Links(Link(bytes_per_s=8, latency_s=0)))
    timeline = Simulation(devices, coded(keyframe_interval)).run(two((1, 1), steps=4))
    assert timeline.latency_s == pytest.approx(latency_s)


def test_coding_makes_a_second_device_worth_its_link():
    devices = fleet("ab", Links(Link(bytes_per_s=2, latency_s=0)))
    whole = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10)
    plans = [Planner(devices, costs, warmup=1).plan() for costs in (whole, coded(coded_row_bytes=2))]
    assert [len(found.plan.shares) for found in plans] == [1, 2]
    # Alone 50 steps of 4 s; together one synchronous step of 2 + 10 s, then 2 s a step, in which 4 bytes arrive.
    assert [found.prediction.latency_s for found in plans] == pytest.approx([200, 12 + 49 * 2])
    fast = fleet("ab", Links(Link(bytes_per_s=2000, latency_s=0)))
    same = [Planner(fast, costs, warmup=1).plan().prediction.latency_s for costs in (whole, coded(coded_row_bytes=2))]
    assert same[0] == same[1]


@pytest.mark.parametrize("keyframe_interval", [None, 4, 2, 1])
@pytest.mark.parametrize("bandwidth", [20.0, 8.0, 5.0, 3.0])
def test_prediction_is_within_three_per_cent(keyframe_interval, bandwidth):
    devices, costs = fleet("ab", Links(Link(bytes_per_s=bandwidth, latency_s=0))), coded(keyframe_interval)
    explained = Planner(devices, costs).plan("uniform")
    simulated = Simulation(devices, costs).run(explained.plan).latency_s
    assert explained.prediction.latency_s == pytest.approx(simulated, rel=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "ExchangeCoding.bits must be in 1..7, not 0; whole keys and values have 8 and need no coding"),
        ((8, 8), "ExchangeCoding.bits must be in 1..7, not 8; whole keys and values have 8 and need no coding"),
        ((4, 0), "ExchangeCoding.block must be at least 1, not 0"),
        ((4, 8, 0), "ExchangeCoding.keyframe_interval must be at least 1, or None for no keyframes, not 0"),
    ],
)
def test_bad_codings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ExchangeCoding(*arguments)
