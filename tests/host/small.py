"""A small accelerator with errors and checks for tests of several packages: one simulator serves them all."""

from __future__ import annotations

from dataclasses import replace

from brownout.hw.config import MemoryConfig

from ..configurations import POINTS, RESIDUE

CONFIG = replace(POINTS["flip"], memory=MemoryConfig(size_bytes=1 << 21, row_bytes=512, banks=8, latency_cycles=20))

__all__ = ["CONFIG", "RESIDUE"]
