"""Schedules worked out by hand."""

from __future__ import annotations

import re

import pytest

from brownout.host.errors import PlanError
from brownout.host.stadi.plan.link import Link, Links
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.stadi.plan.planner import Planner
from brownout.host.stadi.simulate.interval import Failure
from brownout.host.stadi.simulate.replanning import Replanner
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import LinearCosts, fleet


def two(strides, counts, *, steps, warmup=0):
    first, rows = counts[0], sum(counts)
    shares = tuple(
        Share(device=name, stride=stride, rows=each, warmup_rows=each)
        for name, stride, each in zip("ab", strides, ((0, first), (first, rows)), strict=True)
    )
    return Plan(method="by hand", shares=shares, rows=rows, steps=steps, warmup=warmup)


def test_devices_use_the_newest_evaluation_whose_stride_has_ended():
    plan = two((1, 2), (2, 2), steps=10, warmup=2)
    fast, slow = plan.shares
    assert plan.intervals == ((0, 2), (2, 4), (4, 6), (6, 8), (8, 10))
    assert [plan.held(slow, step) for step in range(2, 8)] == [None, None, 2, 2, 4, 4]
    assert [plan.held(fast, step) for step in (2, 4, 6, 8)] == [None, 3, 5, 7]
    assert list(plan.sends(fast, slow)) == [3, 5, 7]
    assert list(plan.sends(slow, fast)) == [2, 4, 6]


def test_only_what_is_used_is_sent():
    costs = LinearCosts({"a": 2, "b": 1}, rows=4, row_bytes=10)
    plan = two((1, 2), (2, 2), steps=10, warmup=2)
    timeline = Simulation(fleet("ab"), costs).run(plan)
    # Two rows a device: two warm-up steps, then what test_devices_use_... lists.
    assert timeline.link_bytes == 2 * 10 * (2 * 2 + 3 + 3)


def test_synchronous_steps_wait_for_every_exchange():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10, latent_bytes=5)
    links = Links(Link(bytes_per_s=20, latency_s=0.5))
    timeline = Simulation(fleet("ab", links), costs).run(two((1, 1), (3, 1), steps=2, warmup=2))
    # a computes stages of 1.5 s, b of 0.5 s. b waits for a's three rows until 1.5 + 30 / 20 + 0.5 = 3.5; a goes on at
    # 1.5 and is done at 3, b at 4. Next step: a's keys leave at 4.5, b has them at 6.5 and is done at 7. b's leave at
    # 4.5 too, a has them at 5.5 and is done at 7. The sync point: a's rows are there at 7 + 15 / 20 + 0.5.
    assert timeline.latency_s == pytest.approx(8.25)
    assert timeline.busy_s == pytest.approx({"a": 6.0, "b": 2.0})
    assert [each for each in timeline.segments if each.device == "b"] == [
        ("b", "compute", 0.0, 0.5, 0),
        ("b", "wait", 0.5, 1.5, 0),
        ("b", "exchange", 1.5, 3.5, 0),
        ("b", "compute", 3.5, 4.0, 0),
        ("b", "compute", 4.0, 4.5, 1),
        ("b", "exchange", 4.5, 6.5, 1),
        ("b", "compute", 6.5, 7.0, 1),
        ("b", "exchange", 7.0, 8.25, 2),
    ]
    assert timeline.exposed_s["b"] == pytest.approx(2 + 2 + 1.25)


def test_asynchronous_exchange_hides_behind_computing_until_the_link_is_full():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10)
    plan = two((1, 1), (2, 2), steps=4)
    # A step takes 2 s; keys of the first stage leave at 1 s and are needed at 3 s.
    for seconds, latency in ((2.0, 8.0), (2.5, 8.5 + 2 * 0.5)):
        links = Links(Link(bytes_per_s=20 / seconds, latency_s=0))
        timeline = Simulation(fleet("ab", links), costs).run(plan)
        assert timeline.latency_s == pytest.approx(latency)
        assert timeline.exposed_s["a"] == pytest.approx(latency - 8)
        assert timeline.utilisation["a"] == pytest.approx(8 / latency)


def test_devices_meet_after_every_interval():
    costs = LinearCosts({"a": 2, "b": 1}, rows=6)
    timeline = Simulation(fleet("ab"), costs).run(two((1, 2), (2, 4), steps=4))
    # a: 1 s a step, b: 4 s for two steps.
    assert timeline.latency_s == 8
    assert timeline.utilisation == {"a": 0.5, "b": 1.0}
    assert [each[1:] for each in timeline.segments if each.device == "a"] == [
        ("compute", 0.0, 1.0, 0),
        ("compute", 1.0, 2.0, 1),
        ("wait", 2.0, 4.0, 2),
        ("compute", 4.0, 5.0, 2),
        ("compute", 5.0, 6.0, 3),
        ("wait", 6.0, 8.0, 4),
    ]


def test_background_load_slows_a_device_while_it_lasts():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4)
    loaded = fleet("ab", b={"load": LoadTrace((0.0, 3.0, 7.0), (0.0, 0.5, 0.0))})
    timeline = Simulation(loaded, costs).run(two((1, 1), (2, 2), steps=4))
    # b: 0-2, 2-5 (1 s free, 1 s of work at half), 5-8 (2 s at half, 1 s free), 8-10.
    assert timeline.latency_s == pytest.approx(10)
    assert timeline.free_s["b"] == pytest.approx(8)
    assert timeline.utilisation == pytest.approx({"a": 0.8, "b": 1.0})


def test_energy_is_evaluations_links_and_leakage():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10, leakage_w=3.0)
    links = Links(Link(bytes_per_s=1e30, latency_s=0, byte_j=0.5))
    timeline = Simulation(fleet("ab", links), costs).run(two((1, 1), (2, 2), steps=3))
    assert timeline.energy_j == pytest.approx(3 * 4 + 2 * 2 * 20 * 0.5 + 2 * 3.0 * timeline.latency_s)


def test_a_plan_is_made_anew_when_a_device_slows_down():
    costs = LinearCosts({"a": 1, "b": 1}, rows=12)
    loaded = fleet("ab", b={"load": LoadTrace((0.0, 30.0), (0.0, 2 / 3))})
    planner = Planner(loaded, costs, steps=20, warmup=0, max_stride=1)
    simulation = Simulation(loaded, costs)
    plan = planner.plan().plan
    stays, moves = simulation.run(plan), simulation.run(plan, Replanner(planner))
    # 6 s a step. The one that begins at 30 takes 18 s and shows the load; then 9 and 3 rows take 9 s.
    assert stays.latency_s == pytest.approx(30 + 15 * 18)
    assert moves.latency_s == pytest.approx(30 + 18 + 14 * 9)
    assert [[share.count for share in each.shares] for each in moves.plans] == [[6, 6], [9, 3]]
    assert moves.plans[1].first_step == 6


def test_the_others_finish_from_the_last_sync_point_when_a_device_is_lost():
    costs = LinearCosts({"a": 1, "b": 1}, rows=12)
    devices = fleet("ab")
    planner = Planner(devices, costs, steps=6, warmup=0)
    simulation = Simulation(devices, costs)
    failure = Failure("b", 14.0, patience_s=1.0)
    timeline = simulation.run(planner.plan().plan, Replanner(planner), [failure])
    # Two steps by 12 s; a is done with the third at 18 and waits until 19, then does four steps of 12 s alone.
    assert timeline.latency_s == pytest.approx(19 + 4 * 12)
    assert timeline.busy_s == pytest.approx({"a": 12 + 48, "b": 12})
    assert [each for each in timeline.segments if each.kind == "lost"] == [
        ("a", "lost", 12.0, 18.0, 2),
        ("b", "lost", 12.0, 14.0, 2),
    ]
    assert ("a", "wait", 18.0, 19.0, 3) in timeline.segments


def test_a_loss_that_cannot_be_repaired_says_why():
    costs, devices = LinearCosts({"a": 1, "b": 1}, rows=12), fleet("ab")
    planner = Planner(devices, costs, steps=6, warmup=0)
    plan, simulation = planner.plan().plan, Simulation(devices, costs)
    with pytest.raises(
        PlanError,
        match=re.escape(
            "b stopped before the sync point at step 3, and there is no re-planning; go on from step 2 with "
            "other devices"
        ),
    ):
        simulation.run(plan, None, [Failure("b", 14.0)])
    with pytest.raises(PlanError, match=r"^no device is free: all are lost or wholly taken by background load$"):
        simulation.run(plan, Replanner(planner), [Failure("b", 14.0), Failure("a", 15.0)])
    with pytest.raises(PlanError, match=r"^the plan uses 'b', but the fleet has a$"):
        Simulation(fleet("a"), costs).run(plan)


def test_a_device_that_stopped_while_it_was_not_used_is_given_up_when_it_is_asked():
    costs, devices = LinearCosts({"a": 1, "b": 1}, rows=12), fleet("ab")
    whole = (0, 12)

    def alone(name, first_step):
        share = Share(device=name, stride=1, rows=whole, warmup_rows=whole)
        return Plan(method="by hand", shares=(share,), rows=12, steps=4, warmup=0, first_step=first_step)

    def replan(seen):
        return alone("a" if seen.lost else "b", seen.step) if seen.step == 1 else seen.plan

    timeline = Simulation(devices, costs).run(alone("a", 0), replan, [Failure("b", 5.0, patience_s=1.0)])
    # b is asked at 12 s, and given up at 13.
    assert timeline.latency_s == pytest.approx(13 + 3 * 12)


def test_a_loss_in_warmup_begins_anew():
    costs, devices = LinearCosts({"a": 1, "b": 1, "c": 1}, rows=12), fleet("abc")
    planner = Planner(devices, costs, steps=8, warmup=4)
    timeline = Simulation(devices, costs).run(planner.plan().plan, Replanner(planner), [Failure("c", 1.0, 0.0)])
    assert [(plan.first_step, plan.warmup, len(plan.shares)) for plan in timeline.plans] == [(0, 4, 3), (0, 4, 2)]
    assert timeline.latency_s == pytest.approx(16 + 8 * 6)


def test_a_stride_that_is_no_longer_needed_is_given_up():
    costs = LinearCosts({"a": 2, "b": 1}, rows=12)
    # From the end of warm-up on, a is as slow as b: six rows each take 6 s a step, as they do with stride 2.
    loaded = fleet("ab", a={"load": LoadTrace((0.0, 8.0), (0.0, 0.5))})
    planner = Planner(loaded, costs, steps=10, warmup=2)
    plan = planner.plan().plan
    timeline = Simulation(loaded, costs).run(plan, Replanner(planner))
    assert [[share.stride for share in each.shares] for each in timeline.plans] == [[1, 2], [1, 1]]
    assert timeline.latency_s == pytest.approx(Simulation(loaded, costs).run(plan).latency_s)


def test_models_that_keep_too_little_begin_new_plans_with_a_synchronous_step():
    costs = LinearCosts({"a": 1, "b": 1}, rows=12)
    loaded = fleet("ab", b={"load": LoadTrace((0.0, 30.0), (0.0, 2 / 3))})
    planner = Planner(loaded, costs, steps=20, warmup=0, max_stride=1)
    timeline = Simulation(loaded, costs).run(planner.plan().plan, Replanner(planner, resynchronise=True))
    assert [(each.first_step, each.warmup) for each in timeline.plans] == [(0, 0), (6, 1)]
