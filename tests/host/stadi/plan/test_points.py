"""Operating points against all combinations, by hand."""

from __future__ import annotations

import pytest

from brownout.host import DelayModel
from brownout.host.errors import PlanError
from brownout.host.stadi.plan.planner import Planner
from brownout.host.stadi.plan.points import at_guard_band, least_energy, least_latency, lowest_voltage_v
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import LinearCosts, fleet

LAW = DelayModel()


def planner(**options):
    return Planner(fleet("ab"), LinearCosts({"a": 2, "b": 1}, rows=12, **options), steps=10, warmup=2)


def test_slack_becomes_a_lower_voltage():
    each = planner(leakage_w=0.0)
    elastic = each.plan("elastic").prediction.latency_s
    # 2 * 4 + 8 * 3 = 32 s against 40: clocks of 0.8 take 40 s.
    found = least_energy(each, elastic, (1.0, 0.9, 0.8, 0.7))
    assert found.explained.prediction.latency_s <= elastic
    points = {(device.frequency_hz, device.voltage_v) for device in found.fleet.devices}
    assert points == {(1.6e9, LAW.voltage_at_rate(0, 1.6e9))}
    base = Simulation(at_guard_band(each.fleet), each.costs).run(found.explained.plan)
    joint = Simulation(found.fleet, each.costs).run(found.explained.plan)
    assert joint.energy_j / base.energy_j == pytest.approx((LAW.voltage_at_rate(0, 1.6e9) / 0.85) ** 2)
    assert found.energy_j == pytest.approx(joint.energy_j)


def test_an_early_finisher_is_slowed_down_at_equal_latency():
    # 5 rows: 3 and 2 at equal strides; a takes 1.5 s a step, b 2 s, so 0.75 of a's clock is enough.
    each = Planner(fleet("ab"), LinearCosts({"a": 2, "b": 1}, rows=5), steps=4, warmup=0, max_stride=1)
    found = least_energy(each, each.plan().prediction.latency_s, (1.0, 0.8, 0.75, 0.7))
    assert [device.frequency_hz for device in found.fleet.devices] == [1.5e9, 2e9]


def test_many_devices_are_slowed_down_one_after_another():
    names = "abcde"
    each = Planner(fleet(names), LinearCosts(dict.fromkeys(names, 1.0), rows=10), steps=8, warmup=0)
    latency = each.plan().prediction.latency_s
    found = least_energy(each, latency / 0.8, (1.0, 0.9, 0.8, 0.7))
    assert {device.frequency_hz for device in found.fleet.devices} == {1.6e9}


def test_clocks_that_are_too_slow_are_refused():
    each = planner()
    latency = each.plan().prediction.latency_s
    with pytest.raises(PlanError, match=r"^no plan at these clocks takes at most 31900\.00 ms$"):
        least_energy(each, 31.9, (1.0, 0.5))
    with pytest.raises(ValueError, match=r"^clocks must be shares in 0\.\.1 of each device's own clock, not \[1\.5\]$"):
        least_energy(each, latency, (1.5,))


def test_the_slow_device_is_overclocked_under_protection():
    each = planner()
    found = least_latency(each, 1e-3, among="b", method="elastic")
    assert [device.frequency_hz for device in found.fleet.devices] == [2e9, LAW.frequency_at_rate(1e-3)]
    assert found.fleet.devices[1].error_rate == pytest.approx(1e-3)
    # Speeds 2 and 1.69 divide 12 rows into 7 and 5, which take 3.5 s, where 8 and 4 take 4 s.
    assert found.explained.prediction.latency_s == pytest.approx(35)
    assert each.plan("elastic").prediction.latency_s == pytest.approx(40)


def test_a_straggler_that_would_lose_its_stride_is_left_as_it_is():
    each = planner()
    found = least_latency(each, 1e-3, among="b")
    assert found.fleet == each.fleet
    assert least_latency(each, 1e-3).explained.prediction.latency_s < found.explained.prediction.latency_s
    with pytest.raises(ValueError, match=r"^among names 'c', which is no device; there are a, b$"):
        least_latency(each, 1e-3, among="c")


def test_no_voltage_is_below_what_the_delay_model_covers():
    device = fleet("a").devices[0]
    assert lowest_voltage_v(device, 2e9) == LAW.voltage_at_rate(0)
    slowest = lowest_voltage_v(device, 0.5e9)
    # The table ends at 2.187 times the nominal delay; clocks are tried in steps of a hundredth.
    assert 2.187 / 1.011 < LAW.delay_at(slowest) <= 2.187
    with pytest.raises(ValueError, match="more than 0 of the outputs err"):
        lowest_voltage_v(device, 3e9)
