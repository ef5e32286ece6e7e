"""A small accelerator that errs, and a step hook that changes how much."""

from __future__ import annotations

from brownout.host import Protection
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

CONFIG = AcceleratorConfig(
    rows=4,
    cols=4,
    block_rows=8,
    block_col_tiles=2,
    slab_bytes=8,
    voltage_domains=2,
    operating_points=3,
    timing_model="flip",
    checksum=ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4),
    memory=MemoryConfig(size_bytes=1 << 23, row_bytes=512, banks=8),
)


# What is located is marked, so that much is rolled back.
MARKING = Protection(on_mark="suppress", correct=False)


class Interrupted(Exception):  # noqa: N818
    """Ends a run early."""


class Undervolting:
    """Sets another operating point before each evaluation, and may interrupt one."""

    def __init__(self, accelerator, interrupt=None):
        self.accelerator, self.interrupt = accelerator, interrupt
        self.seen = []

    def __call__(self, evaluation, timestep):
        self.seen.append((evaluation, timestep))
        if evaluation == self.interrupt:
            raise Interrupted
        self.accelerator.set_operating_point(voltage_v=0.64 - 0.01 * (evaluation % 3), frequency_hz=1.9e9)
        self.accelerator.set_operating_point(domain=1, voltage_v=0.66)
