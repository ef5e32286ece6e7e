"""Accelerators that many tests share: each is one simulator to build, so each is odd in several ways at once.

The memory is no part of the hardware: accelerators that differ only there share a simulator.
"""

from __future__ import annotations

from typing import Any

from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

SMALL_MEMORY = MemoryConfig(size_bytes=1 << 22)

SMALL_BLOCKS: dict[str, Any] = {"block_rows": 8, "block_col_tiles": 2, "slab_bytes": 8}
"""Many blocks and slabs of any product."""

_PLAIN: dict[tuple[int, int], dict[str, Any]] = {
    (1, 1): {"bus_bytes": 4},
    (2, 2): {},
    (3, 5): {"bus_bytes": 64},
    (4, 4): SMALL_BLOCKS,
    (16, 4): {},
}


def plain(rows: int, cols: int) -> AcceleratorConfig:
    """Without checks and errors. Sizes that are not listed are for soaks."""
    return AcceleratorConfig(rows=rows, cols=cols, **_PLAIN.get((rows, cols), {}), memory=SMALL_MEMORY)


RESIDUE = ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4)


def protected(checksum: ChecksumConfig | None, rows: int = 4, cols: int = 4, **fields: Any) -> AcceleratorConfig:
    """A small array, by default with small blocks."""
    settings = {**SMALL_BLOCKS, "memory": SMALL_MEMORY, **fields}
    return AcceleratorConfig(rows=rows, cols=cols, checksum=checksum, **settings)


POINTS = {
    model: protected(RESIDUE, timing_model=model, voltage_domains=2, operating_points=3) for model in ("flip", "carry")
}
"""Domains and operating points, by the model of timing errors: what the host's tests mostly use."""

RESIDUE_FLIP = AcceleratorConfig(
    rows=3,
    cols=9,
    block_rows=16,
    timing_model="flip",
    voltage_domains=2,
    checksum=ChecksumConfig(scheme="residue", segment_cols=4, group_rows=8),
    memory=SMALL_MEMORY,
)
"""A segment of one column."""

RESIDUE_CARRY = AcceleratorConfig(
    rows=4,
    cols=6,
    bus_bytes=64,
    block_rows=16,
    timing_model="carry",
    voltage_domains=2,
    checksum=ChecksumConfig(scheme="residue", locators=2, segment_cols=4, group_rows=8),
    memory=SMALL_MEMORY,
)
"""Two locators and a wide bus."""

WEIGHTED = protected(
    ChecksumConfig(scheme="weighted", locators=2, column_checks=False, segment_cols=3),
    **{"rows": 3, "cols": 5, "bus_bytes": 64, "drain_lanes": 2, "block_rows": 128, "slab_bytes": 64},
    timing_model="flip",
)

CLASSIC = protected(
    ChecksumConfig(scheme="classic", group_rows=7, segment_cols=2),
    **{"rows": 5, "cols": 3, "bus_bytes": 4, "drain_lanes": 1, "block_rows": 7, "read_outstanding": 2},
    timing_model="flip",
)

MATCHED = protected(
    ChecksumConfig(scheme="matched", group_rows=1, segment_cols=4),
    **{"rows": 8, "block_rows": 5, "write_outstanding": 1},
    timing_model="flip",
)
"""Column checks over single rows."""

PAIRS = AcceleratorConfig(
    rows=2,
    cols=14,
    block_rows=16,
    drain_lanes=8,
    timing_model="flip",
    voltage_domains=2,
    checksum=ChecksumConfig(scheme="residue", segment_cols=8, column_checks=False, pairs=True),
    memory=SMALL_MEMORY,
)
"""Double errors are located; more lanes than the last segment has columns."""

ATTENTION = protected(None, attention=True)
"""Attention in many blocks, with several slabs of keys and of values."""

ATTENTION_FLIP = AcceleratorConfig(
    rows=8,
    cols=8,
    block_rows=16,
    block_col_tiles=3,
    slab_bytes=16,
    attention=True,
    timing_model="flip",
    voltage_domains=2,
    checksum=ChecksumConfig(scheme="residue", column_checks=False, segment_cols=4, pairs=True),
    memory=SMALL_MEMORY,
)
"""Head sizes of two k-tiles; chunks of the drain are half a vector."""

ATTENTION_CARRY = AcceleratorConfig(
    rows=3,
    cols=3,
    bus_bytes=64,
    block_rows=5,
    block_col_tiles=4,
    slab_bytes=9,
    attention=True,
    timing_model="carry",
    razor=True,
    checksum=ChecksumConfig(scheme="weighted", locators=2, column_checks=False, segment_cols=3),
    memory=SMALL_MEMORY,
)
"""Segments as wide as the array, a bus wider than all rows."""

KEEP = protected(None, activation_vectors=41, attention=True)
"""Activations of five k-tiles of a full block can be kept, and an odd vector more; with attention."""

KEEP_FLIP = protected(
    ChecksumConfig(scheme="residue", group_rows=4, segment_cols=4),
    **{"rows": 5, "cols": 7, "block_rows": 12, "slab_bytes": 10, "read_outstanding": 2},
    timing_model="flip",
    activation_vectors=53,
)
"""Groups of rows with column checks, and a buffer hardly larger than two slabs."""

KEEP_CARRY = AcceleratorConfig(
    rows=3,
    cols=4,
    bus_bytes=64,
    block_rows=6,
    block_col_tiles=1,
    slab_bytes=3,
    activation_vectors=100,
    timing_model="carry",
    razor=True,
    checksum=ChecksumConfig(scheme="weighted", locators=2, column_checks=False, segment_cols=4),
    memory=SMALL_MEMORY,
)
"""Blocks of one column tile, slabs of one k-tile, and room for many of them."""
