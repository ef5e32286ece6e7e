"""Workers in processes that are killed, stopped and cut off: one fleet serves these tests, until nobody is left."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from brownout.host.errors import FleetError

from .tiny import plan
from .trouble import STEPS, Case, Relays, at_evaluation, children, descriptors, threads

pytestmark = pytest.mark.xdist_group("fleet_processes")
"""Tests share workers, which take longer to start than most tests."""

PATIENCE_S = 6.0


def whole(names):
    """Displaced plan for these devices."""
    rows = {4: [2, 1, 2, 1], 3: [2, 2, 2], 2: [3, 3], 1: [6]}[len(names)]
    return plan(rows, strides=[1, 2, 1, 2][: len(names)], steps=STEPS)


def renamed(wanted, names):
    """A plan for other devices."""
    shares = (replace(share, device=name) for share, name in zip(wanted.shares, names, strict=True))
    return replace(wanted, shares=tuple(shares))


@pytest.fixture(scope="module")
def case():
    made = Case()
    yield made
    made.close()


def own_threads():
    """Without those of fleets in this process."""
    return {thread for thread in threads() if not thread.name.startswith("worker")}


@pytest.fixture(scope="module")
def relays():
    with pytest.MonkeyPatch.context() as patch:
        yield Relays(patch, every=9)


@pytest.fixture(scope="module")
def placed(case, relays):
    before = children(), own_threads(), descriptors()
    made = case.place(executor="process", patience_s=PATIENCE_S)
    yield made
    made.close()
    for thread in relays.threads:
        thread.join(10)
    relays.close()
    assert (children(), own_threads(), descriptors()) == before


def send(placed, device, number):
    os.kill(placed._workers._executor.pid(device), number)


def damaged_bytes_change_nothing(case, placed, relays):
    got = case.generate(placed, whole(placed.alive))
    assert torch.equal(got.latents, case.expected(whole(placed.alive), []).latents)
    assert got.lost == {}
    assert got.damaged == relays.damaged > 5


def a_process_that_is_killed_in_mid_interval(case, placed, _relays):
    at_evaluation(placed, "d0", 3, lambda: send(placed, "d3", signal.SIGKILL))
    first = whole(placed.alive)
    began = time.monotonic()
    got = case.generate(placed, first)
    assert time.monotonic() - began < PATIENCE_S
    assert placed.alive == ["d0", "d1", "d2"]
    assert got.lost == {"d3": "its process was ended by SIGKILL"}
    case.assert_as_expected(got, first, [(3, ["d3"])])


def a_process_that_hangs(case, placed, _relays):
    first = whole(placed.alive)
    hung = placed._workers._executor.pid("d2")
    at_evaluation(placed, "d0", 4, lambda: send(placed, "d2", signal.SIGSTOP))
    began = time.monotonic()
    got = case.generate(placed, first)
    assert PATIENCE_S < time.monotonic() - began < 3 * PATIENCE_S
    assert placed.alive == ["d0", "d1"]
    assert re.search(r"d2 hangs or is very slow|no sign of life for 9 s", got.lost["d2"])
    case.assert_by_plans(got, first)
    placed._workers._executor._processes["d2"].wait(5)
    assert not Path(f"/proc/{hung}").exists()


def a_torn_connection_costs_one_of_both_devices(case, placed, relays):
    at_evaluation(placed, "d0", 4, relays.tear.set)
    first = whole(placed.alive)
    got = case.generate(placed, first)
    assert not relays.tear.is_set()
    assert [reason.partition(" ")[2] for reason in got.lost.values()] == ["sent bytes that are no message"]
    case.assert_by_plans(got, first)


def a_process_that_is_killed_at_a_sync_point_leaves_nobody(case, placed, _relays):
    (last,) = placed.alive

    def kill(step, _latents):
        if step == 4:
            send(placed, last, signal.SIGKILL)

    alone = renamed(plan([6], steps=STEPS), [last])
    with pytest.raises(FleetError, match=rf"^no device is left at step 4: .*{last}: its process was ended by SIGKILL$"):
        case.generate(placed, alone, callback=kill)


@pytest.mark.soak
def test_processes_are_lost_one_after_another_until_nobody_is_left(case, placed, relays):
    """One fleet for all, because four processes take longer to start than all of this."""
    damaged_bytes_change_nothing(case, placed, relays)
    a_process_that_is_killed_in_mid_interval(case, placed, relays)
    a_process_that_hangs(case, placed, relays)
    a_torn_connection_costs_one_of_both_devices(case, placed, relays)
    a_process_that_is_killed_at_a_sync_point_leaves_nobody(case, placed, relays)


SCRIPT = """
import os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have us ignore it
sys.path.insert(0, {root!r})
from tests.host.stadi.execute.trouble import Case
from tests.host.stadi.execute.tiny import plan
case = Case()
placed = case.place(2, executor="process")
print(*(placed._workers._executor.pid(name) for name in placed.alive), flush=True)
kill = lambda step, latents: step < 4 or os.kill(os.getpid(), signal.{kill})
case.generate(placed, plan([3, 3], steps=9), callback=kill)
"""


@pytest.mark.soak
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGINT"])
def test_processes_end_with_their_coordinator(kill):
    code = SCRIPT.format(root=str(Path(__file__).parents[4]), kill=kill)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    pids = [int(number) for number in done.stdout.split()]
    assert len(pids) == 2, done.stderr
    assert done.returncode == -signal.SIGKILL if kill == "SIGKILL" else "KeyboardInterrupt" in done.stderr
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def hurt(pids, number):
    for pid in pids:
        # Those that were given up in the meantime are gone.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_kills_at_random_moments(case):
    """Each fleet makes images until nobody is left."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    kills = 0
    while kills < 30:
        hit = set()
        with case.place(executor="process", patience_s=PATIENCE_S) as placed:
            began = time.monotonic()
            case.generate(placed, whole(placed.alive))
            duration = time.monotonic() - began
            while placed.alive:
                victims = rng.sample(placed.alive, min(len(placed.alive), rng.choice([1, 1, 1, 2, 4])))
                number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
                first = renamed(whole(placed.alive), placed.alive)
                kills += len(victims)
                delay = rng.random() * duration
                print(first.steps, [share.device for share in first.shares], victims, number, delay)
                pids = [placed._workers._executor.pid(each) for each in victims]
                timer = threading.Timer(delay, hurt, (pids, number))
                timer.start()
                began = time.monotonic()
                got = None
                with contextlib.suppress(FleetError):
                    got = case.generate(placed, first)
                hit.update(victims)
                assert placed.lost.keys() <= hit
                assert got is not None or not placed.alive, placed.lost
                if got is not None:
                    case.assert_by_plans(got, first)
                assert time.monotonic() - began < duration + 4 * PATIENCE_S
                timer.join()
