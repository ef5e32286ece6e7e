"""What tells the runs of a fleet apart is the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json
import diffusers
from brownout.host.stadi.execute.request import Sampling
schedulers = diffusers.DDIMScheduler(), diffusers.DPMSolverMultistepScheduler()
print(json.dumps([Sampling(scheduler=each, conditions={}).facts for each in schedulers]))
"""


def test_a_scheduler_is_described_alike_whatever_the_order_of_sets():
    told = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[4],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert "num_train_timesteps" in told.pop()
