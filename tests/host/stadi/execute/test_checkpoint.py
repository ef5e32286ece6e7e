"""Runs of fleets that are kept in a folder, and go on to the same image."""

from __future__ import annotations

import random
import re
import signal

import pytest
import torch

from brownout.host import CheckpointWarning, FileRefusedError, RunCheckpoint
from brownout.host.device.power.energy import EnergyModel
from brownout.host.errors import CheckpointError
from brownout.host.stadi.execute.worker import Evaluation, Worker
from brownout.host.stadi.simulate.interval import Failure
from brownout.host.storage.files import read_tensors, write_tensors
from brownout.host.storage.packing import pack, unpack

from ...checkpoints.test_kills import Nursery
from .tiny import plan
from .trouble import STEPS, Case, Trouble

pytestmark = pytest.mark.xdist_group("fleet_checkpoint")
"""Tests share workers, which take longer to start than most tests."""

FOUR = plan([2, 1, 2, 1], strides=[1, 2, 1, 2], steps=STEPS)


class Stop(Exception):  # noqa: N818  (no error)
    """The run is left."""


def leave_at(wanted):
    def callback(step, _latents):
        if step == wanted:
            raise Stop

    return callback


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


def assert_same(got, expected):
    assert torch.equal(got.latents, expected.latents)
    assert got.timeline.plans == expected.timeline.plans
    assert got.timeline.latency_s == pytest.approx(expected.timeline.latency_s)
    steps = {device: [each.step for each in seen] for device, seen in got.evaluations.items()}
    assert steps == {device: [each.step for each in seen] for device, seen in expected.evaluations.items()}
    assert got.lost == expected.lost


@pytest.mark.parametrize("step", [1, 3, 7, 9])
def test_a_run_goes_on_in_another_fleet(case, step, tmp_path):
    expected = case.expected(FOUR, [])
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path, callback=leave_at(step))
    seen = []
    with case.place() as placed:
        got = case.generate(placed, FOUR, checkpoint=tmp_path, callback=lambda at, _: seen.append(at))
    assert_same(got, expected)
    assert seen == [at for at in (1, 3, 5, 7, 9) if at > step]


def test_states_may_be_rarer_than_sync_points(case, tmp_path):
    options = RunCheckpoint(tmp_path, every=2)
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=options, callback=leave_at(5))
    seen = []
    got = case.generate(case.quiet, FOUR, checkpoint=options, callback=lambda at, _: seen.append(at))
    assert_same(got, case.expected(FOUR, []))
    assert seen == [5, 7, 9]


def test_a_run_goes_on_after_losses_and_with_further_ones(case, trouble, tmp_path):
    with case.place() as placed:
        trouble.fail("d1", 3)
        with pytest.raises(Stop):
            case.generate(placed, FOUR, checkpoint=tmp_path, callback=leave_at(5))
    with case.place() as placed:
        # d1 is back, but the run goes on without it.
        trouble.fail("d0", 7)
        got = case.generate(placed, FOUR, checkpoint=tmp_path)
        assert placed.alive == ["d1", "d2", "d3"]
    (start,) = (each.first_step for each in got.timeline.plans[2:])
    expected = case.expected(FOUR, [(3, ["d1"]), (start, ["d0"])])
    assert torch.equal(got.latents, expected.latents)
    assert got.timeline.plans == expected.timeline.plans
    assert got.lost.keys() == {"d0", "d1"}


def test_a_device_that_is_gone_when_a_run_goes_on_is_lost(case, tmp_path):
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path, callback=leave_at(3))
    with case.place() as placed:
        placed._workers._executor.kill("d2")
        got = case.generate(placed, FOUR, checkpoint=tmp_path)
    case.assert_as_expected(got, FOUR, [(3, ["d2"])])


def test_a_device_that_is_lost_while_it_is_kept(case, monkeypatch, tmp_path):
    keep = Worker.keep

    def failing(worker, step, with_held):
        if worker.worker_config.device.name == "d1" and step == 5:
            raise MemoryError("no room")
        return keep(worker, step, with_held)

    monkeypatch.setattr(Worker, "keep", failing)
    with case.place() as placed:
        got = case.generate(placed, FOUR, checkpoint=tmp_path)
    case.assert_as_expected(got, FOUR, [(5, ["d1"])])


def test_devices_that_stop_in_simulated_time_belong_to_the_run(case, tmp_path):
    before = case.expected(FOUR, []).timeline
    failures = [Failure("d1", before.latency_s / 2)]
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path, failures=failures, callback=leave_at(7))
    got = case.generate(case.quiet, FOUR, checkpoint=tmp_path, failures=failures)
    assert_same(got, case.generate(case.quiet, FOUR, failures=failures))
    with pytest.raises(CheckpointError, match=r"holds another run: 'failures' was "):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"replan": False}, "replan"),
        ({"use_clipped_model_output": True}, "use_clipped_model_output"),
        ({"plan": plan([3, 3], steps=STEPS)}, "plan"),
    ],
)
def test_another_run_is_refused(case, change, name, tmp_path):
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path, callback=leave_at(1))
    first = change.pop("plan", FOUR)
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(tmp_path))} holds another run: '{name}' was "):
        case.generate(case.quiet, first, checkpoint=tmp_path, **change)
    # Begun anew it is another image.
    got = case.generate(case.quiet, first, checkpoint=RunCheckpoint(tmp_path, overwrite=True), **change)
    assert torch.equal(got.latents, case.generate(case.quiet, first, **change).latents)


def test_a_damaged_state_is_refused_and_the_one_before_is_used(case, tmp_path):
    with pytest.raises(Stop):
        case.generate(case.quiet, FOUR, checkpoint=tmp_path, callback=leave_at(5))
    last = max(tmp_path.glob("state-*"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    with pytest.warns(CheckpointWarning, match="is damaged"):
        got = case.generate(case.quiet, FOUR, checkpoint=tmp_path)
    assert_same(got, case.expected(FOUR, []))


def test_what_is_packed_comes_back(tmp_path):
    value = {
        ("a", 1): [torch.arange(3), (None, True, 1.5)],
        "evaluation": Evaluation(1, 2, None, (0.1, 0.2), 3.0),
    }
    tensors = {}
    tree = pack(value, tensors)
    write_tensors(tmp_path / "x", "test", tensors, {"tree": tree})
    read, details = read_tensors(tmp_path / "x", "test", dict)
    got = unpack(details["tree"], read)
    assert torch.equal(got[("a", 1)][0], torch.arange(3))
    assert got[("a", 1)][1] == (None, True, 1.5)
    assert got["evaluation"] == value["evaluation"]


@pytest.mark.parametrize("value", [object(), EnergyModel, {1, 2}])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(TypeError, match=r"^a checkpoint or a message cannot hold a "):
        pack(value, {})


@pytest.mark.parametrize(
    "module", ["os", "brownout.hostile", "brownout.host.storage.files", "brownout.host.device.power.energy"]
)
def test_only_dataclasses_of_a_closed_set_are_made(module):
    name = {"brownout.host.storage.files": "write_tensors", "brownout.host.device.power.energy": "EnergyModel"}.get(
        module, "system"
    )
    with pytest.raises(FileRefusedError, match=rf"^this has values that cannot be: {module}\.{name} is no dataclass"):
        unpack(["dataclass", module, name, {}], {})


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (["tensor", "7"], "'7'"),
        (["tensor"], "not enough values"),
        (["set", 1], "there are no values of kind 'set'"),
        ([], "there are no values of kind None"),
        ({"a": 1}, "has an object where a value should be"),
        (["dict", [1]], "cannot be"),
        (["dict", [["list"], 1]], "unhashable"),
        (["float", "big"], "'big'"),
    ],
)
def test_what_was_not_packed_is_refused(tree, reason):
    with pytest.raises(FileRefusedError, match=reason):
        unpack(tree, {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step": "1"}, r"Evaluation.step of this has a wrong form: .* valid integer, not '1'"),
        ({"rows": 2.0}, r"Evaluation.rows of this has a wrong form"),
        ({"energy_j": ["float", "nan"]}, r"Evaluation.energy_j of this has a wrong form: .* finite number"),
        ({"stage_s": ["list", 0.1]}, r"Evaluation.stage_s of this has a wrong form: .* valid tuple"),
        ({"more": 1}, r"Evaluation has no 'more'"),
    ],
)
def test_fields_of_dataclasses_have_their_types(change, reason):
    tree = pack(Evaluation(1, 2, None, (0.1, 0.2), 3.0), {})
    assert unpack(tree, {}) == Evaluation(1, 2, None, (0.1, 0.2), 3.0)
    tree[3].update(change)
    with pytest.raises(FileRefusedError, match=reason):
        unpack(tree, {})


@pytest.fixture(scope="module")
def nursery():
    opened = Nursery("fleet", "tests.host.stadi.execute.nursery")
    yield opened
    opened.close()


def kill_and_resume(nursery, folder, kills, expected):
    for kill in kills:
        nursery.start(folder, kill)
        ended = nursery.wait()
        if ended["status"] == 0:
            break
        assert ended["status"] == -signal.SIGKILL
    images, _, passed = nursery.run(folder)
    assert torch.equal(images, expected)
    return passed


def test_a_coordinator_that_is_killed_goes_on_to_the_same_image(nursery, tmp_path):
    expected, _, points = nursery.run(tmp_path / "undisturbed")
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    for part in range(3):
        kill = rng.randrange(points * part // 3, points * (part + 1) // 3) + 1
        passed = kill_and_resume(nursery, tmp_path / str(part), [kill], expected)
    # Of a run that had come far, little is computed again.
    assert passed < points * 2 // 3


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_kills_of_the_coordinator(nursery, tmp_path):
    expected, _, points = nursery.run(tmp_path / "undisturbed")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for trial in range(30):
        kills = [rng.randrange(points) + 1 for _ in range(rng.choice([1, 1, 2, 4]))]
        kill_and_resume(nursery, tmp_path / str(trial), kills, expected)
