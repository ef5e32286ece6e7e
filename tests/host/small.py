"""A small accelerator with errors and checks for tests of several packages: one simulator serves them all."""

from __future__ import annotations

from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

RESIDUE = ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4)

CONFIG = AcceleratorConfig(
    rows=4,
    cols=4,
    block_rows=8,
    block_col_tiles=2,
    slab_bytes=8,
    voltage_domains=2,
    operating_points=3,
    timing_model="flip",
    checksum=RESIDUE,
    memory=MemoryConfig(size_bytes=1 << 21, row_bytes=512, banks=8, latency_cycles=20),
)
