"""Devices that fail, hang or send nonsense: the image is finished, or the error says why not."""

from __future__ import annotations

import random
import re
import time

import pytest
import torch

from brownout.host.errors import FleetError
from brownout.host.stadi.execute import fleet as fleet_module
from brownout.host.stadi.execute.executor import Done, Failed, Lost, Stopped
from brownout.host.stadi.execute.worker import Worker
from brownout.host.stadi.execute.worker_group import at_fault
from brownout.host.stadi.simulate.interval import Failure

from .tiny import dit_conditions, make_image, plan, scheduler
from .trouble import STEPS, Case, Flipper, Trouble, Unreliable, at_evaluation, descriptors, threads

pytestmark = pytest.mark.xdist_group("fleet_failures")
"""Tests share workers, which take longer to start than most tests."""

FOUR = plan([2, 1, 2, 1], strides=[1, 2, 1, 2], steps=STEPS)
"""Warm-up of one step, then sync points every two."""


@pytest.fixture(scope="module")
def case():
    made = Case()
    yield made
    made.close()


@pytest.fixture
def trouble(monkeypatch):
    made = Trouble(monkeypatch)
    yield made
    made.release.set()


@pytest.mark.parametrize(
    ("how", "device", "step", "start"),
    [
        ("fail", "d0", 0, 0),
        ("fail_at_exchange", "d3", 0, 0),
        ("fail_at_exchange", "d1", 1, 1),
        ("fail", "d0", 5, 5),
        ("fail_at_exchange", "d3", 7, 7),
        ("fail", "d2", 8, 7),
    ],
)
def test_an_image_is_finished_by_the_others_from_the_last_sync_point(case, trouble, how, device, step, start):
    with case.place() as placed:
        getattr(trouble, how)(device, step)
        got = case.generate(placed, FOUR)
        assert placed.alive == [name for name in ("d0", "d1", "d2", "d3") if name != device]
        case.assert_as_expected(got, FOUR, [(start, [device])])
        assert got.lost == placed.lost
        assert got.lost[device].startswith("RuntimeError: ")


def test_two_devices_at_once_and_one_later(case, trouble):
    with case.place() as placed:
        placed._workers._executor.kill("d1")
        placed._workers._executor.kill("d2")
        trouble.fail("d3", 5)
        got = case.generate(placed, FOUR)
        case.assert_as_expected(got, FOUR, [(0, ["d1", "d2"]), (5, ["d3"])])
        assert placed.alive == ["d0"]
        assert got.lost["d1"] == "its worker was ended"


def test_when_nobody_is_left_the_error_names_every_reason(case, trouble):
    with case.place(2) as placed:
        trouble.fail("d1", 3, MemoryError("no room"))
        trouble.fail("d0", 3)
        message = (
            "no device is left at step 3: d0: RuntimeError: the simulator ended with status -11; "
            "d1: MemoryError: no room"
        )
        with pytest.raises(FleetError, match=f"^{re.escape(message)}$"):
            case.generate(placed, plan([3, 3], strides=[1, 2], steps=STEPS))
        with pytest.raises(FleetError, match=r"^no device is left \(d0: .*; d1: .*\); make a new fleet$"):
            case.generate(placed, "stadi")


def test_a_fleet_that_was_closed_says_so(case):
    placed = case.place(1)
    placed.close()
    with pytest.raises(FleetError, match=r"^no device is left \(they were closed\); make a new fleet$"):
        case.generate(placed, "stadi")


def test_without_replanning_the_error_says_where_it_stopped(case, trouble):
    with case.place() as placed:
        trouble.fail("d1", 3)
        with pytest.raises(FleetError, match=r"^devices were lost at step 3, and replan=False: d1: RuntimeError: .*;"):
            case.generate(placed, FOUR, replan=False)
        # The next image is made by the others.
        assert {share.device for share in case.generate(placed, "elastic").timeline.plans[0].shares} == {
            "d0",
            "d2",
            "d3",
        }


def test_a_synchronous_image_stays_that_of_one_device(case, trouble):
    alone = case.generate(case.quiet, plan([6], steps=STEPS))
    with case.place() as placed:
        trouble.fail("d2", 6)
        got = case.generate(placed, FOUR, mode="full_sync")
        assert torch.equal(got.latents, alone.latents)
        assert all(each.warmup == STEPS or len(each.shares) == 1 for each in got.timeline.plans)
        assert len(got.timeline.plans) == 2


def test_halves_of_guidance_are_finished_by_one_device(case, trouble):
    with case.place(2) as placed:
        trouble.fail("d1", 4)
        got = case.generate(placed, "guidance")
    assert torch.equal(got.latents, case.generate(case.quiet, plan([6], steps=STEPS)).latents)
    assert [each.first_step for each in got.timeline.plans] == [0, 4]


def test_an_idle_device_takes_over_when_all_others_are_lost(case, trouble):
    """It holds nothing of them, so it begins in step."""
    two = plan([3, 3], steps=STEPS)
    with case.place(3) as placed:
        trouble.fail("d0", 4)
        trouble.fail("d1", 4)
        got = case.generate(placed, two)
    assert got.timeline.plans[-1].shares[0].device == "d2"
    assert set(got.lost) == {"d0", "d1"}


def test_an_idle_device_that_is_gone_does_not_matter(case):
    two = plan([3, 3], steps=STEPS)
    with case.place(3) as placed:
        placed._workers._executor.kill("d2")
        got = case.generate(placed, two)
        assert placed.alive == ["d0", "d1"]
    assert torch.equal(got.latents, case.generate(case.quiet, two).latents)
    assert set(got.lost) == {"d2"}


def test_losses_and_devices_that_stop_in_simulated_time_go_together(case, trouble):
    before = case.generate(case.quiet, FOUR).timeline
    stop = Failure("d3", before.latency_s * 0.8)
    with case.place() as placed:
        trouble.fail("d1", 3)
        got = case.generate(placed, FOUR, failures=[stop])
    assert set(got.lost) == {"d1"}
    gone = [{share.device for share in each.shares} for each in got.timeline.plans]
    assert gone[0] == {"d0", "d1", "d2", "d3"}
    assert all("d1" not in each for each in gone[1:])


def test_a_device_that_hangs_is_given_up_after_patience_and_nobody_else_is(case, trouble):
    with case.place(patience_s=1.0) as placed:
        trouble.hang("d2", 4)
        began = time.monotonic()
        got = case.generate(placed, FOUR)
        assert time.monotonic() - began < 30
        assert placed.alive == ["d0", "d1", "d3"]
        assert re.search(r"waited 1 s for .* of d2 at step 4; d2 hangs or is very slow", got.lost["d2"])
        case.assert_as_expected(got, FOUR, [(3, ["d2"])])
        trouble.release.set()


def test_a_device_that_is_alone_and_hangs_is_an_error(case, trouble):
    with case.place(1, patience_s=0.4) as placed:
        trouble.hang("d0", 4)
        with pytest.raises(FleetError, match=r"^no device is left at step 4: d0: no sign of life for 0\.6 s$"):
            case.generate(placed, plan([6], steps=STEPS))
        trouble.release.set()


def test_a_slow_device_is_waited_for(case, monkeypatch):
    step_of = Worker._step

    def slow(worker, *arguments):
        if worker.worker_config.device.name == "d1":
            time.sleep(0.4)
        return step_of(worker, *arguments)

    monkeypatch.setattr(Worker, "_step", slow)
    with case.place(patience_s=1.2) as placed:
        got = case.generate(placed, FOUR)
    assert got.lost == {}


def test_damaged_messages_are_sent_again_and_change_nothing(case, monkeypatch):
    flipper = Flipper(share=0.2, seed=1)
    monkeypatch.setattr(Unreliable, "spoil", staticmethod(flipper))
    monkeypatch.setitem(fleet_module.EXECUTORS, "inline", Unreliable)
    with case.place() as placed:
        got = case.generate(placed, FOUR)
    assert got.lost == {}
    assert got.damaged == flipper.count > 5
    assert torch.equal(got.latents, case.generate(case.quiet, FOUR).latents)


def test_a_device_whose_messages_are_always_damaged_is_given_up(case, monkeypatch):
    monkeypatch.setattr(Unreliable, "spoil", staticmethod(Flipper(always="d1")))
    monkeypatch.setitem(fleet_module.EXECUTORS, "inline", Unreliable)
    with case.place() as placed:
        got = case.generate(placed, FOUR)
    assert re.search(r"^d\d got .* of d1 at step 0 damaged 4 times; check the link from d1$", got.lost["d1"])
    case.assert_as_expected(got, FOUR, [(0, ["d1"])])
    assert got.damaged >= 4


def test_wrong_arguments_cost_no_device(case):
    wrong = {"class_labels": torch.tensor([99])}
    with case.place() as placed:
        with pytest.raises(FleetError, match=r"^device d\d cannot do what it was asked to: IndexError: "):
            make_image(
                placed,
                case.noise,
                scheduler=scheduler(),
                conditions=wrong,
                unconditional=dit_conditions(1)[1],
                guidance_scale=2.0,
                num_inference_steps=STEPS,
                plan=FOUR,
            )
        assert placed.alive == ["d0", "d1", "d2", "d3"]
        assert torch.equal(case.generate(placed, FOUR).latents, case.generate(case.quiet, FOUR).latents)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_image_that_is_interrupted_does_not_disturb_the_next_one(case, error):
    with case.place() as placed:

        def stop():
            raise error

        at_evaluation(placed, "d0", 3, stop)
        with pytest.raises(error):
            case.generate(placed, FOUR)
        got = case.generate(placed, FOUR)
    assert torch.equal(got.latents, case.generate(case.quiet, FOUR).latents)
    assert got.lost == {}


def test_threads_and_descriptors_are_given_back(case, trouble):
    before = threads(), descriptors()
    with case.place() as placed:
        trouble.fail("d1", 3)
        case.generate(placed, FOUR)
    assert (threads(), descriptors()) == before


def test_only_who_is_waited_for_last_is_blamed():
    waits = {name: Failed(f"waits for {other}", culprit=other) for name, other in (("a", "b"), ("b", "c"))}
    assert at_fault(waits | {"c": Lost("no sign of life")}) == {"c": "no sign of life"}
    assert at_fault(waits | {"c": Failed("MemoryError")}) == {"c": "MemoryError"}
    assert at_fault(waits | {"c": Stopped()}) == {"c": "waits for c"}
    assert at_fault(waits | {"c": Done(None)}) == {"c": "waits for c"}
    assert at_fault({"a": Done(None), "b": Stopped()}) == {}


def test_of_devices_that_blame_each_other_the_first_blamed_is_given_up():
    circle = {name: Failed(f"waits for {other}", culprit=other) for name, other in (("b", "a"), ("a", "b"))}
    assert at_fault(circle) == {"a": "waits for a"}
    circle["c"] = Failed("waits for b", culprit="b")
    assert at_fault(circle) == {"a": "waits for a"}


def random_trouble(case, trouble, rng):
    """An image with up to three failures at random places."""
    with case.place(patience_s=5.0) as placed:
        planned = []
        for device in rng.sample(["d0", "d1", "d2", "d3"], rng.choice([1, 1, 2, 3])):
            step = rng.randrange(STEPS)
            how = rng.choice(["fail", "fail_at_exchange"])
            getattr(trouble, how)(device, step)
            planned.append((device, step, how))
        print(planned)
        got = case.generate(placed, FOUR)
        trouble.planned.clear()
        case.assert_by_plans(got, FOUR)


@pytest.mark.parametrize("seed", range(2))
def test_failures_at_random_places(case, trouble, seed):
    random_trouble(case, trouble, random.Random(seed))


@pytest.mark.soak
def test_many_failures_at_random_places(case, trouble):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(100):
        random_trouble(case, trouble, rng)
