"""Named configurations: accelerators that results in the documentation are about."""

from __future__ import annotations

from dataclasses import replace

from .config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from .errors.model import BY_RATE

SERVER = AcceleratorConfig(
    rows=128,
    cols=128,
    bus_bytes=128,
    block_rows=1024,
    block_col_tiles=4,
    slab_bytes=512,
    drain_lanes=16,
    read_outstanding=255,
    write_outstanding=64,
    memory=MemoryConfig(
        size_bytes=1 << 35, latency_cycles=200, bytes_per_cycle=128, banks=64, read_queue=256, write_queue=64
    ),
)
"""For denoisers of 0.5 to 1 G parameters: 33 TMAC/s at 2 GHz, fed by 256 GB/s. Weights of a tile are used for 1,024
rows, activations for 512 columns, so that products of K >= 1,024 are bound by the array."""

SERVER_ATTENTION = replace(SERVER, attention=True)
"""The same, and scores of attention stay on the chip (docs/attention.md)."""

SERVER_KEEP = replace(SERVER_ATTENTION, slab_bytes=384, activation_vectors=9216)
"""The same 5.5 MiB of SRAM with an eighth of a MiB moved from weights to activations: those of 1,024 rows of K <= 1,152
are kept and read once (docs/loop-order.md)."""

SERVER_FLIP = replace(
    SERVER,
    timing_model=BY_RATE,
    checksum=ChecksumConfig(scheme="residue", locators=1, column_checks=False, segment_cols=16),
)
"""The same with single-bit errors, and the checksum units of least energy at a rate of 1e-2 (docs/protection.md)."""
