"""Whole pipelines that are interrupted, lose their simulator, and go on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from brownout.cosim.errors import SimulatorDied
from brownout.cosim.simulator import Simulator
from brownout.host import (
    Accelerator,
    CheckpointError,
    CheckpointWarning,
    OffloadedPipeline,
    RunCheckpoint,
    calibrate_pipeline,
)

from ..pipelines.tiny import make, noise
from .undervolting import CONFIG, MARKING, InterruptedRunError, Undervolting


@pytest.fixture(scope="module")
def calibration():
    tiny = make("dit")
    return calibrate_pipeline(tiny.pipeline, [tiny.call], timestep_groups=2)


def run(backend, calibration, scheduler, *, interrupt=None, generator=None, **options):
    """Images, stats, report and the calls of the step hook, in an accelerator of its own."""
    tiny = make("dit")
    tiny.pipeline.scheduler = scheduler.from_config(tiny.pipeline.scheduler.config)
    with Accelerator(CONFIG, backend=backend, protection=MARKING) as accelerator:
        with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=calibration) as pipe:
            hook = Undervolting(accelerator, interrupt)
            given = {"generator": noise(3) if generator is None else generator, "class_labels": [5]}
            images = pipe(**tiny.call | given | options, on_step=hook).images
            layers = [{**vars(layer), "accelerator": None} for layer in pipe.report()]
            return images, pipe.stats, layers, hook.seen


def assert_same(got, expected):
    assert np.array_equal(got[0], expected[0])
    assert got[1:] == expected[1:]


@pytest.mark.parametrize(
    "scheduler", [diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler, diffusers.HeunDiscreteScheduler]
)
def test_solvers_with_a_memory_come_to_the_same_point(scheduler, calibration, tmp_path):
    options = {"num_inference_steps": 5}
    expected = run("twin", calibration, scheduler, **options)
    assert expected[1]["suppressed"] > expected[1]["suppressed_unwritten"] > 0
    for interrupt in (0, 1, 3, 4):
        with pytest.raises(InterruptedRunError):
            run("twin", calibration, scheduler, interrupt=interrupt, **options, checkpoint=tmp_path)
    assert_same(run("twin", calibration, scheduler, **options, checkpoint=tmp_path), expected)


def test_the_same_pipeline_with_another_solver_is_another_run(calibration, tmp_path):
    with pytest.raises(InterruptedRunError):
        run("twin", calibration, diffusers.DDIMScheduler, interrupt=3, num_inference_steps=5, checkpoint=tmp_path)
    with pytest.raises(
        CheckpointError, match=r"another run: in evaluation 0, 'timestep' was int64 \(2,\) \[800, 800\] and is .*\[999"
    ):
        run(
            "twin",
            calibration,
            diffusers.DPMSolverMultistepScheduler,
            num_inference_steps=5,
            checkpoint=tmp_path,
        )


def test_noise_that_nobody_seeded_is_that_of_the_first_run(calibration, tmp_path):
    """Without a generator diffusers draws from that of PyTorch."""
    tiny = make("dit")
    with Accelerator(CONFIG, backend="twin") as accelerator:
        with OffloadedPipeline.from_pipe(tiny.pipeline, accelerator, calibration=calibration) as pipe:
            torch.seed()
            first = pipe(**tiny.call, checkpoint=tmp_path).images
            torch.seed()
            assert np.array_equal(pipe(**tiny.call, checkpoint=str(tmp_path)).images, first)
            assert not np.array_equal(pipe(**tiny.call).images, first)


def kill_at(monkeypatch, *commands):
    """Kill the simulator before the given commands, counted over all simulators."""
    run_commands, counted = Simulator.run, []

    def counting(simulator, *args, **kwargs):
        counted.append(None)
        if len(counted) in commands:
            os.kill(simulator.pid, signal.SIGKILL)
        return run_commands(simulator, *args, **kwargs)

    monkeypatch.setattr(Simulator, "run", counting)
    return counted


@pytest.mark.rtl
def test_a_lost_simulator_is_replaced_and_the_image_and_counts_are_the_same(calibration, tmp_path, monkeypatch):
    expected = run("twin", calibration, diffusers.DDIMScheduler, num_inference_steps=3)
    generator = noise(3)
    counted = kill_at(monkeypatch, 45)
    with pytest.warns(CheckpointWarning, match=r"^the simulator .*; going on with another simulator \(1 of 2\)$"):
        got = run(
            "rtl",
            calibration,
            diffusers.DDIMScheduler,
            num_inference_steps=3,
            generator=generator,
            checkpoint=RunCheckpoint(tmp_path, restarts=2),
        )
    assert len(counted) > 60
    assert np.array_equal(got[0], expected[0])
    assert got[1:3] == expected[1:3]
    # What has been replayed is announced again.
    assert got[3][-3:] == expected[3]
    assert len(got[3]) > 3


@pytest.mark.rtl
def test_a_simulator_is_replaced_so_often_and_no_more(calibration, tmp_path, monkeypatch):
    kill_at(monkeypatch, *range(10, 10_000))
    with pytest.warns(CheckpointWarning) as warned, pytest.raises(SimulatorDied):
        run(
            "rtl",
            calibration,
            diffusers.DDIMScheduler,
            num_inference_steps=3,
            checkpoint=RunCheckpoint(tmp_path, restarts=1),
        )
    assert len([each for each in warned if each.category is CheckpointWarning]) == 1
    # The twin goes on with what the RTL has left.
    expected = run("twin", calibration, diffusers.DDIMScheduler, num_inference_steps=3)
    assert_same(run("twin", calibration, diffusers.DDIMScheduler, num_inference_steps=3, checkpoint=tmp_path), expected)


@pytest.mark.soak
@pytest.mark.rtl
@pytest.mark.timeout(3600)
def test_simulators_killed_at_any_moment_are_replaced(calibration, tmp_path):
    options = {"num_inference_steps": 4}
    expected = run("twin", calibration, diffusers.DDIMScheduler, **options)
    began = time.monotonic()
    assert np.array_equal(run("rtl", calibration, diffusers.DDIMScheduler, **options)[0], expected[0])
    wall_s = time.monotonic() - began
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    killed = []
    for trial in range(15):
        ended = threading.Event()

        def kill(ended=ended):
            while not ended.wait(rng.random() * 1.5 * wall_s):
                path = Path(f"/proc/{os.getpid()}/task")
                for child in {int(each) for task in path.iterdir() for each in (task / "children").read_text().split()}:
                    os.kill(child, signal.SIGKILL)
                    killed.append(trial)  # noqa: B023

        killer = threading.Thread(target=kill)
        killer.start()
        got = None
        while got is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CheckpointWarning)
                    checkpoint = RunCheckpoint(tmp_path / str(trial), restarts=50)
                    got = run("rtl", calibration, diffusers.DDIMScheduler, **options, checkpoint=checkpoint)
            except SimulatorDied:
                # Killed before the run began, or when its cycles were reported.
                continue
        ended.set()
        killer.join()
        assert np.array_equal(got[0], expected[0])
        assert got[1:3] == expected[1:3]
    print(f"{len(killed)} simulators killed in 15 runs of {wall_s:.1f} s")
    assert len(killed) > 10
