"""Runs that are killed at any moment, and go on to the same image."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from brownout.host.storage.files import read_tensors


class Nursery:
    """See ``nursery.py``; another module may add runs to it."""

    def __init__(self, run: str, module: str = "tests.host.checkpoints.nursery") -> None:
        root = Path(__file__).parents[3]
        command = [sys.executable, "-m", module, run]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, folder, kill=None, keep=True):
        out = folder.with_suffix(".result")
        request = {"folder": str(folder), "kill": kill, "out": str(out), "keep": keep}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return out

    def wait(self):
        return json.loads(self.process.stdout.readline())

    def run(self, folder, kill=None, keep=True):
        out = self.start(folder, kill, keep)
        ended = self.wait()
        if kill is not None:
            assert ended == {"status": -signal.SIGKILL, "passed": None}
            assert not out.exists()
            return None
        assert ended["status"] == 0
        tensors, facts = read_tensors(out, "result", dict)
        out.unlink()
        return tensors["images"], facts, ended["passed"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def nursery(request):
    opened = Nursery(request.param)
    yield opened
    opened.close()


def assert_same(got, expected):
    assert torch.equal(got[0], expected[0])
    assert got[1] == expected[1]


@pytest.mark.parametrize("nursery", ["suppress"], indirect=True)
def test_a_run_killed_at_any_point_goes_on_to_the_same_image_and_counts(nursery, tmp_path):
    expected = nursery.run(tmp_path / "undisturbed", keep=False)
    stats = expected[1]["stats"]
    assert min(stats[name] for name in ("injected", "corrected", "suppressed", "energy_j")) > 0
    assert stats["suppressed"] > stats["suppressed_unwritten"] > 0
    kept = nursery.run(tmp_path / "kept")
    assert_same(kept, expected)
    points = kept[2]
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    # One in each part of the run.
    kills = [rng.randrange(points * part // 4, points * (part + 1) // 4) + 1 for part in range(4)]
    for kill in kills:
        folder = tmp_path / str(kill)
        nursery.run(folder, kill)
        print(f"killed at point {kill} of {points}")
        resumed = nursery.run(folder)
        assert_same(resumed, expected)
    # Of a run that had come far, little is computed again.
    assert resumed[2] < points // 2
    # Killed again and again, at each try.
    folder, tries = tmp_path / "often", 0
    while True:
        nursery.start(folder, kill=points // 4)
        tries += 1
        if nursery.wait()["status"] == 0:
            break
    assert tries > 3
    assert_same(nursery.run(folder), expected)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("nursery", "trials"), [("suppress", 60), ("carry", 12), ("rtl", 12)], indirect=["nursery"])
def test_many_kills(nursery, trials, tmp_path):
    expected = nursery.run(tmp_path / "undisturbed", keep=False)
    began = time.monotonic()
    points = nursery.run(tmp_path / "kept")[2]
    wall_s = time.monotonic() - began
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    killed = 0
    for trial in range(trials):
        folder = tmp_path / str(trial)
        for _ in range(rng.choice([1, 1, 2, 4])):
            if trial % 2:
                nursery.start(folder, kill=rng.randrange(points) + 1)
            else:
                # From outside, at any moment.
                nursery.start(folder)
                time.sleep(rng.random() * wall_s)
                children = Path(f"/proc/{nursery.process.pid}/task/{nursery.process.pid}/children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
            killed += nursery.wait()["status"] == -signal.SIGKILL
        assert_same(nursery.run(folder), expected)
    print(f"{killed} kills in {trials} runs of {points} points, {wall_s:.2f} s each")
    assert killed > trials // 2
