"""Plans against published arithmetic and against brute force over all of them."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest

from brownout.host.errors import PlanError
from brownout.host.stadi.plan.link import BandwidthTrace, Link, Links
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.stadi.plan.planner import METHODS, Planner
from brownout.host.stadi.plan.prediction import bound_s
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import FREE_LINKS, LinearCosts, fleet


def latency(costs, devices, method, **options):
    planner = Planner(devices, costs, **options)
    return Simulation(devices, costs).run(planner.plan(method).plan).latency_s


@pytest.mark.parametrize(("ratio", "cut"), [(2, 1 / 3), (3, 1 / 2), (4, 3 / 5)])
def test_elastic_patches_cut_what_is_published(ratio, cut):
    costs, devices = LinearCosts({"a": ratio, "b": 1}, rows=240), fleet("ab")
    uniform, elastic = (latency(costs, devices, method) for method in ("uniform", "elastic"))
    assert 1 - elastic / uniform == pytest.approx(cut, abs=1e-9)


def test_stride_two_at_one_to_two_cuts_what_is_published():
    costs, devices = LinearCosts({"a": 2, "b": 1}, rows=240), fleet("ab")
    uniform, stadi = (latency(costs, devices, method) for method in ("uniform", "stadi"))
    assert 1 - stadi / uniform == pytest.approx(0.487, abs=5e-4)
    assert 1 - latency(costs, devices, "thresholds") / uniform == pytest.approx(0.487, abs=5e-4)


def test_halves_of_guidance_take_as_long_as_the_slower_one():
    costs, devices = LinearCosts({"a": 2, "b": 1}, rows=8), fleet("ab")
    assert latency(costs, devices, "guidance", steps=10) == pytest.approx(10 * 4)
    assert latency(costs, devices, "single", steps=10) == pytest.approx(10 * 4)


def all_plans(names, limits, rows, steps, warmup):
    """Every division of rows, in warm-up and after it, with every stride up to the limits."""
    divisions = [each for each in itertools.product(range(1, rows), repeat=len(names)) if sum(each) == rows]
    strides = [[stride for stride in (1, 2, 4) if stride <= limit] for limit in limits]
    for chosen in itertools.product(*strides):
        grown = warmup + (steps - warmup) % max(chosen)
        for counts, warm in itertools.product(divisions, repeat=2):
            ends, warm_ends = (list(itertools.accumulate(each)) for each in (counts, warm))
            shares = tuple(
                Share(device=name, stride=s, rows=(end - n, end), warmup_rows=(warm_end - w, warm_end))
                for name, s, n, w, end, warm_end in zip(names, chosen, counts, warm, ends, warm_ends, strict=True)
            )
            yield Plan(method="all", shares=shares, rows=rows, steps=steps, warmup=grown)


@pytest.mark.parametrize(
    ("speeds", "limits", "fixed", "row_bytes"),
    [
        ((4, 2.1, 1), (1, 1, 4), 0.5, 0),
        ((4, 2, 1), (1, 2, 4), 0.2, 0),
        ((3, 1), (1, 2), 1.0, 3),
        ((2, 2), (1, 1), 0.0, 1),
    ],
)
def test_no_plan_within_the_thresholds_is_faster(speeds, limits, fixed, row_bytes):
    names = "abc"[: len(speeds)]
    rows, steps = (6, 11) if len(speeds) == 3 else (9, 11)
    costs = LinearCosts(dict(zip(names, speeds, strict=True)), rows=rows, fixed=fixed, row_bytes=row_bytes)
    devices = fleet(names, Links(Link(bytes_per_s=10, latency_s=0.0)))
    planner = Planner(devices, costs, steps=steps, warmup=3)
    found = planner.plan().plan
    simulation = Simulation(devices, costs)
    best = min(simulation.run(plan).latency_s for plan in all_plans(names, limits, rows, steps, 3))
    # It goes by a closed form, and does not divide rows of the warm-up by their communication.
    assert simulation.run(found).latency_s <= best * 1.03


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bandwidth", [1e30, 2e4, 5e3])
def test_prediction_is_within_three_per_cent(method, bandwidth):
    costs = LinearCosts({"a": 40, "b": 21}, rows=32, fixed=2, exchanges=12, row_bytes=20, latent_bytes=20)
    devices = fleet("ab", Links(Link(bytes_per_s=bandwidth, latency_s=1e-4)), b={"load": LoadTrace.constant(0.2)})
    explained = Planner(devices, costs).plan(method)
    simulated = Simulation(devices, costs).run(explained.plan)
    assert explained.prediction.latency_s == pytest.approx(simulated.latency_s, rel=0.03)


@pytest.mark.parametrize("method", ["single", "uniform", "elastic", "steps", "thresholds", "stadi"])
@pytest.mark.parametrize("fixed", [0.0, 0.4])
def test_no_plan_beats_the_bound(method, fixed):
    names, trace = "abcd", LoadTrace((0.0, 9.0, 21.0), (0.1, 0.7, 0.3))
    costs = LinearCosts({"a": 4, "b": 4, "c": 2, "d": 1}, rows=32, fixed=fixed)
    devices = fleet(names, b={"load": trace})
    plan = Planner(devices, costs).plan(method).plan
    assert bound_s([plan], devices, costs) <= Simulation(devices, costs).run(plan).latency_s * (1 + 1e-9)


def test_bound_is_the_closed_form_of_static_devices():
    costs, devices = LinearCosts({"a": 2, "b": 1}, rows=12, fixed=0.5), fleet("ab")
    plan = Planner(devices, costs, steps=10, warmup=2).plan("thresholds").plan
    # tau = (P + sum alpha_i / c_i) / sum(s_i / c_i), with c = 1 / v and alpha / c = 0.5 for both.
    expected = 2 * (12 + 1) / (2 + 1) + 8 * (12 + 1) / (2 * 1 + 1 * 2)
    assert bound_s([plan], devices, costs) == pytest.approx(expected)


def test_a_device_that_costs_more_than_it_helps_is_left_out():
    costs, devices = LinearCosts({"a": 10, "b": 0.01}, rows=8, fixed=1), fleet("ab")
    explained = Planner(devices, costs).plan()
    assert [share.device for share in explained.plan.shares] == ["a"]
    assert explained.left_out == ("b",)
    assert "faster without b" in explained.table()


def test_of_devices_that_do_not_reach_each_other_the_fastest_group_is_used():
    costs = LinearCosts({"a": 4, "b": 3, "c": 3}, rows=60)
    devices = fleet("abc", Links(FREE_LINKS.default, {("a", "b"): None}))
    found = Planner(devices, costs).plan()
    assert [share.device for share in found.plan.shares] == ["a", "c"]
    assert found.left_out == ("b",)
    alone = fleet("abc", Links(FREE_LINKS.default, {("a", "b"): None, ("c", "a"): None}))
    assert [share.device for share in Planner(alone, costs).plan().plan.shares] == ["b", "c"]


def test_a_device_behind_slow_links_is_left_out_though_it_is_fast():
    costs = LinearCosts({"a": 1, "b": 1, "c": 1}, rows=12, row_bytes=10)
    slow = {pair: Link(bytes_per_s=1, latency_s=0) for pair in (("a", "b"), ("b", "a"), ("a", "c"), ("c", "a"))}
    found = Planner(fleet("abc", Links(FREE_LINKS.default, slow)), costs, warmup=0).plan()
    assert [share.device for share in found.plan.shares] == ["b", "c"]


def test_warmup_grows_until_the_rest_can_be_divided():
    costs, devices = LinearCosts({"a": 4, "b": 1}, rows=16), fleet("ab")
    plan = Planner(devices, costs, steps=50, warmup=4).plan("thresholds").plan
    assert (plan.warmup, plan.interval) == (6, 4)


def test_impossible_plans_are_refused_with_the_reason():
    costs, devices = LinearCosts({"a": 2, "b": 1, "c": 1}, rows=2), fleet("abc")

    def refused(message):
        return pytest.raises(PlanError, match=f"^{re.escape(message)}$")

    for method in ("stadi", "uniform"):
        with refused("3 devices cannot share 2 token rows; use at most 2 devices"):
            Planner(devices, costs).plan(method)
    with refused("halves of guidance need exactly two devices, not 3"):
        Planner(devices, costs).plan("guidance")
    with refused("halves of guidance need a batch of 2, not of 1"):
        Planner(fleet("ab"), LinearCosts({"a": 1, "b": 1}, rows=2, images=1)).plan("guidance")
    with refused("no device is free: all are lost or wholly taken by background load"):
        Planner(devices, costs).plan(availability={})
    with refused("max_stride must be one of 1, 2, 4, not 3"):
        Planner(devices, costs, max_stride=3)
    with refused("warmup must be in 0..5, because there are 5 steps, not 9; leave it out for as many as fit"):
        Planner(devices, costs, steps=5, warmup=9)
    down = fleet("ab", Links(FREE_LINKS.default, {("b", "a"): None}))
    with refused("the link from b to a is down; leave one of the two out, or use one device"):
        Planner(down, LinearCosts({"a": 2, "b": 1}, rows=2)).plan("elastic")
    silent = fleet("ab", Links(FREE_LINKS.default, {("b", "a"): Link(trace=BandwidthTrace((0.0,), (0.0,)))}))
    with refused("the link from b to a carries nothing; leave one of the two out, or use one device"):
        Planner(silent, LinearCosts({"a": 2, "b": 1}, rows=2)).plan("elastic")


def test_plans_that_miss_rows_or_steps_are_refused():
    share = Share(device="a", stride=2, rows=(0, 4), warmup_rows=(0, 4))
    made = {"method": "x", "rows": 4, "steps": 9, "warmup": 1}
    Plan(shares=(share,), **made)
    with pytest.raises(PlanError, match=r"^9 steps after warm-up cannot be divided into intervals of 4; lengthen"):
        Plan(shares=(replace(share, stride=4),), **made | {"warmup": 0})
    with pytest.raises(PlanError, match=r"^rows end at 3, but the image has 4$"):
        Plan(shares=(replace(share, rows=(0, 3)),), **made)
    with pytest.raises(PlanError, match=r"^rows of a are 1\.\.4, but must begin at 0, hold at least one row and end"):
        Plan(shares=(replace(share, rows=(1, 4)),), **made)
    with pytest.raises(PlanError, match=r"^the stride of a must be a power of two, not 3$"):
        Plan(shares=(replace(share, stride=3),), **made)
