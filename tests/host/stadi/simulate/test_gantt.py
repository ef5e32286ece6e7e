"""The chart shows each segment where and as long as it was."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from brownout.host.stadi.plan.device import DeviceSpec, FleetSpec
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.stadi.simulate.gantt import LEFT, RIGHT, WIDTH, gantt_svg, legend, sync_points
from brownout.host.stadi.simulate.interval import Failure
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import CONFIG, FREE_LINKS, LinearCosts


def simulate(failures=(), replan=None):
    """Two equal devices with two rows each, 1 s per row: a synchronous step, then four with strides 1 and 2."""
    fleet = FleetSpec(tuple(DeviceSpec(name=name, config=CONFIG) for name in ("a", "b<c")), FREE_LINKS)
    costs = LinearCosts({"a": 1.0, "b<c": 1.0}, rows=4)
    shares = (
        Share(device="a", stride=1, rows=(0, 2), warmup_rows=(0, 2)),
        Share(device="b<c", stride=2, rows=(2, 4), warmup_rows=(2, 4)),
    )
    plan = Plan(method="test", shares=shares, rows=4, steps=5, warmup=1)
    return Simulation(fleet, costs).run(plan, replan, failures), costs, fleet


def rectangles(svg):
    root = ET.fromstring(svg)
    scale = 10 / (WIDTH - LEFT - RIGHT)
    for rectangle in root.iter("rect"):
        kind = rectangle.get("class").split()[0]
        start = (float(rectangle.get("x")) - LEFT) * scale
        yield float(rectangle.get("y")), kind, start, float(rectangle.get("width")) * scale


def test_bars_are_where_devices_compute_and_wait():
    timeline, _, _ = simulate()
    assert timeline.latency_s == 10
    bars = [(y, kind, round(start, 1), round(length, 1)) for y, kind, start, length in rectangles(gantt_svg(timeline))]
    first, second = sorted({y for y, *_ in bars})
    assert [bar[1:] for bar in bars if bar[0] == first] == [
        ("warm", 0, 2),
        *(("compute", 2 + 2 * i, 2) for i in range(4)),
    ]
    assert [bar[1:] for bar in bars if bar[0] == second] == [
        ("warm", 0, 2),
        ("compute", 2, 2),
        ("wait", 4, 2),
        ("compute", 6, 2),
        ("wait", 8, 2),
    ]


def test_sync_points_are_marked():
    timeline, _, _ = simulate()
    assert sync_points(timeline) == [2, 6]
    assert gantt_svg(timeline).count('class="meeting"') == 2


def test_names_are_escaped_and_shares_told():
    timeline, _, _ = simulate()
    svg = gantt_svg(timeline)
    assert "b&lt;c" in svg
    assert "100% busy" in svg
    assert "60% busy" in svg


def test_time_lost_and_unused_devices_are_shown():
    timeline, *_ = simulate([Failure("b<c", 7.0)], _alone)
    svg = gantt_svg(timeline, devices=["a", "b<c", "d"])
    assert any(kind == "lost" for _, kind, _, _ in rectangles(svg))
    assert "unused" in svg
    assert "in vain" in legend([timeline])
    assert "in vain" not in legend([simulate()[0]])


def _alone(seen):
    if not seen.lost:
        return seen.plan
    share = Share(device="a", stride=1, rows=(0, 4), warmup_rows=(0, 4))
    return Plan(method="test", shares=(share,), rows=4, steps=5, warmup=0, first_step=seen.step)


def test_charts_can_share_an_axis():
    timeline, _, _ = simulate()
    half = gantt_svg(timeline, until_s=20)
    assert max(start + length for _, _, start, length in rectangles(half)) == pytest.approx(5, abs=0.02)
    assert "20 s" in half
