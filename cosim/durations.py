"""How long builds take, for the notices before them."""

from __future__ import annotations

import os

from brownout.hw.config import AcceleratorConfig

EMISSION_CPU_S = 3.0
"""Measured on one core of a 2-core cloud machine, as are the others: Verilog, which one core emits."""

EMISSION_CPU_S_PER_COLUMN = 0.25

MODEL_CPU_S = 8.0
"""Verilator's output, on all cores."""

MODEL_CPU_S_PER_ELEMENT = {True: 0.14, False: 0.036}
"""By whether the model is fully optimised (`brownout.cosim.build.FULLY_OPTIMISED_PES`)."""

LIBRARIES_CPU_S = 25.0
"""Verilator's library and headers and the memory model, once in a build folder."""

CYCLE_MODEL_CPU_S = 5.0

KERNELS_CPU_S = 8.0
"""One command, on one core."""


def cores() -> int:
    """How many programs can run at a time."""
    return max(1, len(os.sched_getaffinity(0)))


def simulator_seconds(config: AcceleratorConfig, *, optimised: bool, libraries: bool) -> float:
    """Seconds for a simulator of `config`; `libraries`: with what all simulators share."""
    model = MODEL_CPU_S + MODEL_CPU_S_PER_ELEMENT[optimised] * config.rows * config.cols
    shared = LIBRARIES_CPU_S if libraries else 0.0
    return EMISSION_CPU_S + EMISSION_CPU_S_PER_COLUMN * config.cols + (model + shared) / cores()


def seconds_text(seconds: float) -> str:
    """A duration in one or two digits."""
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} s"
    return f"about {round(seconds / 60)} minutes"
