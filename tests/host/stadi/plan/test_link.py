"""Links whose bandwidth changes, worked out by hand."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brownout.host.errors import PlanError
from brownout.host.stadi.plan.allocation import candidate_sets
from brownout.host.stadi.plan.link import BandwidthTrace, Link, Links
from brownout.host.stadi.plan.plan import Plan, Share
from brownout.host.stadi.plan.planner import Planner
from brownout.host.stadi.simulate.replanning import Replanner
from brownout.host.stadi.simulate.simulation import Simulation

from ..fakes import LinearCosts, fleet


def changing(*pieces, bytes_per_s=20.0, latency_s=0.0):
    starts, factors = zip((0.0, 1.0), *pieces, strict=True)
    return Link(bytes_per_s=bytes_per_s, latency_s=latency_s, trace=BandwidthTrace(starts, factors))


def equal(names, rows, steps, warmup=0):
    each = rows // len(names)
    spans = [(index * each, (index + 1) * each) for index in range(len(names))]
    shares = tuple(
        Share(device=name, stride=1, rows=span, warmup_rows=span) for name, span in zip(names, spans, strict=True)
    )
    return Plan(method="by hand", shares=shares, rows=rows, steps=steps, warmup=warmup)


def test_a_message_goes_on_with_the_new_bandwidth():
    link = changing((1.0, 0.1), (3.0, 0.0), bytes_per_s=10)
    # 5 bytes until 1 s, then one a second.
    assert link.end_s(0.5, 6) == pytest.approx(2.0)
    assert link.end_s(0.5, 8) == math.inf
    assert link.carried(0.5, 4.0) == 7.0
    assert [link.bandwidth(time) for time in (0.0, 1.0, 3.0)] == [10, 1, 0]
    assert changing((1.0, 0.0), (3.0, 1.0)).end_s(0.5, 20) == 3.5


@given(start=st.floats(0, 5), count=st.floats(0.001, 100))
def test_end_and_carried_are_inverse(start, count):
    link = changing((1.0, 0.1), (2.0, 0.0), (3.0, 2.0))
    assert link.carried(start, link.end_s(start, count)) == pytest.approx(count, rel=1e-9)


def test_synchronous_steps_and_sync_points_slow_down_exactly():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10, latent_bytes=5)
    links = Links(changing((1.5, 0.1), (4.0, 1.0), (5.5, 0.5), latency_s=0.5))
    timeline = Simulation(fleet("ab", links), costs).run(equal("ab", 4, 1, warmup=1))
    # Keys leave at 1 s: 10 bytes until 1.5, 5 until 4, 5 until 4.25, there at 4.75; computed at 5.75. Ten bytes of
    # latents take 1 s at half the bandwidth.
    assert timeline.latency_s == pytest.approx(5.75 + 1 + 0.5)
    assert timeline.exposed_s["a"] == pytest.approx(3.75 + 1.5)


def test_synchronous_messages_queue():
    costs = LinearCosts({"a": 3, "b": 3}, rows=6, exchanges=2, row_bytes=10)
    links = Links(Link(bytes_per_s=100, latency_s=0), {("a", "b"): Link(bytes_per_s=10, latency_s=0)})
    timeline = Simulation(fleet("ab", links), costs).run(equal("ab", 6, 1, warmup=1))
    # Stages of 1/3 s; a's messages of 30 bytes take 3 s, b's 0.3 s. The second one of a is ready at 1/3 + 0.3 + 1/3,
    # and leaves when the first one has left, at 1/3 + 3.
    assert timeline.latency_s == pytest.approx(1 / 3 + 3 + 3 + 1 / 3)
    predicted = Planner(fleet("ab", links), costs, steps=1, warmup=1).plan("uniform").prediction
    assert predicted.latency_s == pytest.approx(timeline.latency_s)


def test_messages_on_the_link_slow_down_and_are_measured():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10)
    seen = {}

    def watch(observation):
        seen[observation.step] = (observation.time_s, observation.bandwidths["a", "b"])
        return observation.plan

    timeline = Simulation(fleet("ab", Links(changing((1.5, 0.1), (6.5, 1.0)))), costs).run(equal("ab", 4, 4), watch)
    # Keys of the first step leave at 1 s: ten bytes until 1.5, ten until 6.5. The second step needs them at 3 s and is
    # done at 7.5; its own ones, ready at 3 s, leave at 6.5.
    assert timeline.latency_s == pytest.approx(7.5 + 4)
    assert seen[1] == pytest.approx((2.0, 11 / 1))
    assert seen[2] == pytest.approx((7.5, (9 + 20) / 5.5))
    assert seen[3] == pytest.approx((9.5, 20))


def test_a_constant_factor_is_another_bandwidth():
    costs = LinearCosts({"a": 2, "b": 1}, rows=8, row_bytes=10, latent_bytes=5)
    slow = fleet("ab", Links(Link(bytes_per_s=2.5)))
    traced = fleet("ab", Links(Link(bytes_per_s=25, trace=BandwidthTrace((0.0,), (0.1,)))))
    planners = [Planner(each, costs, steps=10) for each in (slow, traced)]
    plans = [planner.plan() for planner in planners]
    assert plans[0] == plans[1]
    times = [Simulation(planner.fleet, costs).run(plans[0].plan).latency_s for planner in planners]
    assert times[0] == pytest.approx(times[1], rel=1e-12)


def test_the_rest_is_made_alone_when_links_become_slow():
    costs = LinearCosts({"a": 1, "b": 1}, rows=4, row_bytes=10)
    devices = fleet("ab", Links(changing((5.5, 0.01))))
    planner = Planner(devices, costs, steps=8, warmup=0)
    timeline = Simulation(devices, costs).run(planner.plan().plan, Replanner(planner))
    # Keys of the third step leave at 5 s; half of them need another 50 s. The sync point at 6 s sees half the
    # bandwidth, which hides nothing worse; that at 56.5 sees all, and four steps of 4 s are left.
    assert [len(plan.shares) for plan in timeline.plans] == [2, 1]
    assert timeline.plans[1].first_step == 4
    assert timeline.latency_s == pytest.approx(55.5 + 1 + 4 * 4)


def failing(*pairs, time_s):
    trace = BandwidthTrace((0.0, time_s), (1.0, 0.0))
    dead = Link(bytes_per_s=1e30, latency_s=0, byte_j=0, trace=trace)
    return Links(Link(bytes_per_s=1e30, latency_s=0, byte_j=0), dict.fromkeys(pairs, dead))


def test_those_that_reach_each_other_finish():
    costs = LinearCosts({"a": 1, "b": 1, "c": 1}, rows=12, row_bytes=1, latent_bytes=1)
    devices = fleet("abc", failing(("b", "c"), time_s=9.0))
    planner = Planner(devices, costs, steps=6, warmup=0)
    plan = planner.plan().plan
    timeline = Simulation(devices, costs).run(plan, Replanner(planner))
    # Steps of 4 s. The sync point at 12 s waits for b's latents and is given up; four steps of 6 s are left.
    assert timeline.latency_s == pytest.approx(12.01 + 4 * 6)
    assert [{share.device for share in each.shares} for each in timeline.plans] == [{"a", "b", "c"}, {"a", "b"}]
    assert {each[:4] for each in timeline.segments if each.kind == "lost"} == {(n, "lost", 8.0, 12.0) for n in "abc"}

    def stay(observation):
        return observation.plan

    for replan, message in (
        (
            None,
            "the link from b to c failed before the sync point at step 3, and there is no re-planning; go on from "
            "step 2 with other devices",
        ),
        (stay, "the new plan needs the link from b to c, which has failed"),
    ):
        with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
            Simulation(devices, costs).run(plan, replan)


def test_a_link_that_fails_is_noticed_by_who_waits_for_it():
    costs = LinearCosts({"a": 1, "b": 1, "c": 1}, rows=12, row_bytes=1)
    devices = fleet("abc", failing(("b", "c"), time_s=9.0))
    planner = Planner(devices, costs, steps=6, warmup=0)
    replanner = Replanner(planner)
    # There are no latents. What left at 10 s has not moved at the sync point at 12 s.
    timeline = Simulation(devices, costs).run(planner.plan().plan, replanner)
    assert timeline.latency_s == pytest.approx(12 + 3 * 6)

    def late(observation):
        return replanner(observation) if observation.time_s > 13 else observation.plan

    # Otherwise the attention of the fourth step waits for it, at 14 s.
    timeline = Simulation(devices, costs).run(planner.plan().plan, late)
    assert timeline.latency_s == pytest.approx(14.01 + 3 * 6)
    # In warm-up it begins anew: the first exchange after 9 s is that at 10 s.
    planner = Planner(devices, costs, steps=6, warmup=4)
    timeline = Simulation(devices, costs).run(planner.plan().plan, Replanner(planner))
    assert timeline.latency_s == pytest.approx(10.01 + 6 * 6)


def test_a_failed_link_is_known_from_when_somebody_waits_for_it():
    costs = LinearCosts({"a": 1, "b": 1, "c": 0.5}, rows=12, row_bytes=1)
    devices = fleet("abc", failing(("b", "a"), ("c", "b"), time_s=1.0))
    seen, plans = [], iter([equal("bc", 12, 1, warmup=1), equal("c", 12, 1)])

    def replan(observation):
        seen.append({pair for pair, speed in observation.bandwidths.items() if not speed})
        return next(plans)

    timeline = Simulation(devices, costs).run(equal("abc", 12, 1, warmup=1), replan)
    # a waits for b from 2 s on, b for c from 4 s on only: that comes out when b and c go on together from 2.01, where c
    # takes 6 s for its stage. Then c is alone.
    assert seen == [{("b", "a")}, {("c", "b")}]
    assert timeline.latency_s == pytest.approx(2.01 + 6.01 + 24)


def test_one_device_finishes_when_all_links_fail():
    costs = LinearCosts({"a": 2, "b": 1}, rows=12, row_bytes=1, latent_bytes=1)
    devices = fleet("ab", failing(("a", "b"), ("b", "a"), time_s=9.0))
    planner = Planner(devices, costs, steps=6, warmup=0, max_stride=1)
    timeline = Simulation(devices, costs).run(planner.plan().plan, Replanner(planner))
    # Steps of 4 s; the third is lost at 12.01, then a makes four of 6 s.
    assert timeline.latency_s == pytest.approx(12.01 + 4 * 6)
    assert [share.device for share in timeline.plans[-1].shares] == ["a"]


def test_candidates_are_the_fastest_of_those_that_reach_each_other():
    links = {(a, b): 1.0 for a in "abcd" for b in "abcd" if a != b}
    assert set(candidate_sets("abcd", links)) == {frozenset("abcd"[:count]) for count in (1, 2, 3, 4)}
    cut = links | {("a", "c"): 0.0}
    assert {frozenset("abd"), frozenset("bcd")} <= set(candidate_sets("abcd", cut))
    assert not any({"a", "c"} <= each for each in candidate_sets("abcd", cut))
    # b's links are slow; without it the others are alike.
    slow = {pair: 0.1 if "b" in pair else 1.0 for pair in links}
    assert {frozenset("acd"), frozenset("abcd"), frozenset("ac")} <= set(candidate_sets("abcd", slow))


@pytest.mark.parametrize(
    ("starts", "factors", "message"),
    [
        ((), (), "BandwidthTrace needs as many starts_s as factors, and at least one, not 0 and 0"),
        ((0.5,), (1.0,), "BandwidthTrace.starts_s must begin with 0, not 0.5"),
        ((0.0,), (-0.5,), "BandwidthTrace.factors must be finite and not negative, not -0.5"),
        ((0.0,), (math.inf,), "BandwidthTrace.factors must be finite and not negative, not inf"),
    ],
)
def test_bad_traces_are_refused(starts, factors, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BandwidthTrace(starts, factors)
