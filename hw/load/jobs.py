"""What the fetcher tells the receiver about the beats that will arrive."""

from __future__ import annotations

import enum

from amaranth.lib import data
from amaranth.utils import exact_log2

from ..commands import CHANNEL_RECORD_BYTES
from ..config import AcceleratorConfig


class JobKind(enum.IntEnum):
    """Destination of a job's data."""

    ACTIVATIONS = 0
    WEIGHTS = 1
    CHANNELS = 2


def most_job_rows(config: AcceleratorConfig) -> int:
    """Largest number of rows in a job."""
    return max(config.block_rows, config.slab_k_tiles * config.rows)


def most_elements(config: AcceleratorConfig) -> int:
    """Largest number of elements in a row of a job."""
    return max(config.slab_k_tiles, config.block_col_tiles * config.cols)


def most_row_bytes(config: AcceleratorConfig) -> int:
    """Largest number of bytes in a row of a job."""
    block_cols = config.block_col_tiles * config.cols
    return max(config.slab_k_tiles * config.rows, block_cols * CHANNEL_RECORD_BYTES)


def job_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A job: `rows` rows read from memory, then `zero_rows` rows of zeros, each of `elements` elements.

    A row holds `row_bytes` valid bytes (zeros follow) that start `offset` bytes into its first of `beats` beats.
    """
    row_bytes = most_row_bytes(config)
    return data.StructLayout(
        {
            "kind": 2,
            "rows": range(most_job_rows(config) + 1),
            "zero_rows": range(config.rows + 1),
            "elements": range(most_elements(config) + 1),
            "row_bytes": range(row_bytes + 1),
            "beats": range(-(-row_bytes // config.bus_bytes) + 2),
            "offset": exact_log2(config.bus_bytes),
        }
    )
