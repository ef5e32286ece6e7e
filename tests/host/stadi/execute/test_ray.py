"""Workers as Ray actors; only where Ray is installed."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from brownout.host.errors import FleetError
from brownout.host.stadi.execute import fleet as fleet_module

from .tiny import CONFIG, HALF, plan
from .trouble import STEPS, Case, at_evaluation

THREE = plan([3, 2, 1], strides=[1, 1, 2], steps=STEPS)


@pytest.fixture(scope="module")
def case():
    made = Case()
    yield made
    made.close()


@pytest.fixture(scope="module")
def placed(case):
    pytest.importorskip("ray")
    with case.place(3, executor="ray", patience_s=6) as made:
        yield made


def send(placed, device, number):
    os.kill(placed._workers._executor.pid(device), number)


def test_actors_make_the_same_bits(case, placed):
    got = case.generate(placed, THREE)
    assert torch.equal(got.latents, case.expected(THREE, []).latents)
    assert got.lost == {}


def test_each_actor_takes_a_device_of_its_class(placed):
    import ray

    from brownout.host.stadi.execute.ray import resource_of

    assert [resource_of(config) for config in (CONFIG, HALF)] == ["brownout:8x8", "brownout:8x4"]
    assert {name: ray.cluster_resources()[name] for name in ("brownout:8x8", "brownout:8x4")} == {
        "brownout:8x8": 2,
        "brownout:8x4": 1,
    }
    assert not {"brownout:8x8", "brownout:8x4"} & ray.available_resources().keys()


def test_a_cluster_without_the_devices_is_refused(case, placed):
    message = "the fleet needs 4 of the Ray resource 'brownout:8x8', but the cluster has 2; start nodes with "
    with pytest.raises(FleetError, match=f"^{re.escape(message)}"):
        fleet_module.Fleet([CONFIG] * 4, executor="ray").place(case.model, case.calibration)


def test_an_actor_that_is_killed(case, placed):
    at_evaluation(placed, "d0", 3, lambda: send(placed, "d2", signal.SIGKILL))
    got = case.generate(placed, THREE)
    assert got.lost.keys() == {"d2"}
    assert got.lost["d2"].startswith(("its actor ended: ", "no sign"))
    case.assert_as_expected(got, THREE, [(got.timeline.plans[1].first_step, ["d2"])])


def test_an_actor_that_hangs(case, placed):
    first = plan([3, 3], steps=STEPS)
    number = placed._workers._executor.pid("d1")
    at_evaluation(placed, "d0", 3, lambda: send(placed, "d1", signal.SIGSTOP))
    got = case.generate(placed, first)
    case.assert_as_expected(got, first, [(got.timeline.plans[1].first_step, ["d1"])])
    deadline = time.monotonic() + 30
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    hung = Path(f"/proc/{number}").exists()
    if hung:
        os.kill(number, signal.SIGKILL)
    assert not hung


def test_without_ray_the_error_says_what_to_install(case, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "brownout.host.stadi.execute.ray", raising=False)
    with pytest.raises(FleetError, match=r"^executor='ray' needs Ray \(.*\); install brownout\[ray\]$"):
        case.place(1, executor="ray")
