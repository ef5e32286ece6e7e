"""A small accelerator that errs, and a step hook that changes how much."""

from __future__ import annotations

from dataclasses import replace

from brownout.host import Protection
from brownout.hw.config import MemoryConfig

from ..small import CONFIG as SMALL

CONFIG = replace(SMALL, memory=MemoryConfig(size_bytes=1 << 23, row_bytes=512, banks=8))

# What is located is marked, so that much is rolled back.
MARKING = Protection(on_uncorrectable="suppress", correct=False)


class InterruptedRunError(Exception):
    """Ends a run early."""


class Undervolting:
    """Sets another operating point before each evaluation, and may interrupt one."""

    def __init__(self, accelerator, interrupt=None):
        self.accelerator, self.interrupt = accelerator, interrupt
        self.seen = []

    def __call__(self, evaluation, timestep):
        self.seen.append((evaluation, timestep))
        if evaluation == self.interrupt:
            raise InterruptedRunError
        self.accelerator.set_operating_point(voltage_v=0.64 - 0.01 * (evaluation % 3), frequency_hz=1.9e9)
        self.accelerator.set_operating_point(domain=1, voltage_v=0.66)
