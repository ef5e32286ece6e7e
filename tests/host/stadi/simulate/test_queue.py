"""Queues worked out by hand and against brute force over all assignments and all groups."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brownout.host.errors import PlanError
from brownout.host.stadi.plan.load import LoadTrace
from brownout.host.stadi.plan.planner import Planner
from brownout.host.stadi.simulate.queue import MOST_DEVICES, ImageQueue, QueueServer

from ..fakes import LinearCosts, fleet

ROWS, STEPS = 12, 5


def server(speeds, *, fixed=0.0, changes=None, leakage_w=0.0):
    costs = LinearCosts(speeds, rows=ROWS, fixed=fixed, leakage_w=leakage_w)
    return QueueServer(Planner(fleet(list(speeds), **(changes or {})), costs, steps=STEPS, warmup=1))


def alone(speed, fixed=0.0):
    return STEPS * (ROWS + fixed) / speed


def test_one_by_one_queues():
    # Two devices: five steps of 6 s.
    found = server({"a": 1, "b": 1}).serve(ImageQueue.all_at_once(4), "one_by_one")
    assert [image.end_s for image in found.images] == pytest.approx([30, 60, 90, 120])
    assert found.mean_latency_s == pytest.approx(75)
    assert found.p95_latency_s == pytest.approx(120)
    assert found.images_per_s == pytest.approx(4 / 120)
    # Every 40 s one: none waits.
    found = server({"a": 1, "b": 1}).serve(ImageQueue.at_rate(4, 1 / 40), "one_by_one")
    assert [image.latency_s for image in found.images] == pytest.approx([30] * 4)
    assert found.images_per_s == pytest.approx(4 / 150)


def test_whole_images_go_to_who_is_done_first():
    # 20 and 66.7 s: the slow device takes the fourth image, which the fast one would have at 80 s only.
    found = server({"a": 3, "b": 0.9}).serve(ImageQueue.all_at_once(5), "whole_images")
    assert [(image.start_s, image.group) for image in found.images] == [(0, 0), (20, 0), (40, 0), (0, 1), (60, 0)]
    assert found.end_s == pytest.approx(80)
    # An image that comes while the fast device works waits for it.
    found = server({"a": 3, "b": 0.9}).serve(ImageQueue((0.0, 5.0)), "whole_images")
    assert [(image.start_s, image.group) for image in found.images] == [(0, 0), (20, 0)]
    assert found.images[1].latency_s == pytest.approx(35)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=3), st.integers(1, 6))
def test_no_assignment_of_whole_images_is_done_sooner(speeds, count):
    names = "abc"[: len(speeds)]
    found = server(dict(zip(names, speeds, strict=True))).serve(ImageQueue.all_at_once(count), "whole_images")
    times = [alone(speed) for speed in speeds]
    best_end = best_mean = float("inf")
    for assignment in itertools.product(range(len(speeds)), repeat=count):
        counts = [assignment.count(index) for index in range(len(speeds))]
        best_end = min(best_end, max(n * t for n, t in zip(counts, times, strict=True)))
        total = sum(t * n * (n + 1) / 2 for n, t in zip(counts, times, strict=True))
        best_mean = min(best_mean, total / count)
    assert found.end_s == pytest.approx(best_end)
    assert found.mean_latency_s == pytest.approx(best_mean)


def partitions(names):
    """By labels, in another way than the code under test."""
    seen = set()
    for labels in itertools.product(range(len(names)), repeat=len(names)):
        groups = frozenset(
            frozenset(name for name, label in zip(names, labels, strict=True) if label == each) for each in set(labels)
        )
        if groups not in seen:
            seen.add(groups)
            yield groups


@pytest.mark.parametrize("speeds", [(2, 2, 1), (3, 2, 1), (4, 1, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [float("inf"), 1.3])
def test_no_groups_have_more_throughput_within_the_limit(speeds, count, limit):
    serving = server(dict(zip("abc", speeds, strict=True)), fixed=2.0)
    queue = ImageQueue.all_at_once(count)
    limit_s = limit * serving.serve(queue, "one_by_one").p95_latency_s
    found = serving.serve(queue, "groups", limit_s)
    best = 0.0
    for groups in partitions("abc"):
        times = [
            serving.planner.plan(availability=dict.fromkeys(sorted(group), 1.0)).prediction.latency_s
            for group in groups
        ]
        for assignment in itertools.product(range(len(times)), repeat=count):
            # With less than 20 images the 95th percentile is the largest latency, which is the makespan.
            end = max(assignment.count(index) * time for index, time in enumerate(times))
            if end <= limit_s * (1 + 1e-9):
                best = max(best, count / end)
    assert found.images_per_s == pytest.approx(best)


def test_fixed_costs_favour_whole_images_and_short_limits_favour_one_by_one():
    serving, queue = server({"a": 1, "b": 1}, fixed=6.0), ImageQueue.all_at_once(4)
    # Together 5 * (6 + 6) = 60 s an image; alone 90 s.
    whole, together = (serving.serve(queue, policy) for policy in ("whole_images", "one_by_one"))
    assert (whole.end_s, together.end_s) == pytest.approx((180, 240))
    assert serving.serve(queue, "groups").groups == whole.groups
    spaced = ImageQueue.at_rate(4, 1 / 60)
    assert serving.serve(spaced, "groups", 80).groups == together.groups
    message = (
        "groups has a 95th percentile of 60 s at best, above the limit of 50 s; ask for fewer images per second, "
        "or add devices"
    )
    with pytest.raises(PlanError, match=f"^{re.escape(message)}$"):
        serving.serve(spaced, "groups", 50)


def test_energy_counts_the_leakage_of_idle_devices():
    serving = server({"a": 3, "b": 0.9}, leakage_w=2.0)
    found = serving.serve(ImageQueue.all_at_once(2), "whole_images")
    # a makes both in 40 s; 12 J an evaluation, 2 W of both devices.
    assert found.energy_j == pytest.approx(2 * STEPS * ROWS + 2 * 2.0 * 40)
    assert found.image_j == pytest.approx(found.energy_j / 2)


def test_loads_that_change_are_met_when_an_image_begins():
    # From 60 s on half of b is taken: 60 s an image, then 120.
    load = LoadTrace((0.0, 60.0), (0.0, 0.5))
    found = server({"b": 1}, changes={"b": {"load": load}}).serve(ImageQueue.all_at_once(2), "one_by_one")
    assert [image.end_s for image in found.images] == pytest.approx([60, 180])
    taken = {"b": {"load": LoadTrace((0.0, 60.0, 90.0), (0.0, 1.0, 0.0))}}
    with pytest.raises(PlanError, match=r"^no device is free at 60 s, when an image is to begin$"):
        server({"b": 1}, changes=taken).serve(ImageQueue.all_at_once(2), "one_by_one")


def test_impossible_queues_are_refused():
    def refused(message, error=ValueError):
        return pytest.raises(error, match=f"^{re.escape(message)}$")

    with refused("ImageQueue.arrivals_s must hold at least one image"):
        ImageQueue.all_at_once(0)
    with refused("ImageQueue.arrivals_s must be finite and must not fall, but 1.0 follows 2.0"):
        ImageQueue((2.0, 1.0))
    with refused("images_per_s must be positive, not 0"):
        ImageQueue.at_rate(3, 0)
    with refused("policy must be one of 'one_by_one', 'whole_images', 'groups', not 'fair'", PlanError):
        server({"a": 1}).serve(ImageQueue.all_at_once(1), "fair")
    many = {f"d{index}": 1 for index in range(MOST_DEVICES + 1)}
    with refused("groups are searched for at most 8 devices, not 9; divide the fleet", PlanError):
        server(many).serve(ImageQueue.all_at_once(1), "groups")
