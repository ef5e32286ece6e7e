"""Sizes and latencies of the score unit, which the sequencer and the cycle model share."""

from __future__ import annotations

from ..config import AcceleratorConfig
from ..params import OUT_SCALE_BITS

LEAST_ROWS = 8
"""Positions of a column tile in a pass over scores: fewer rows would read a row's state before it is written."""

CORRECTOR_STAGES = 3
"""Of `ScoreCorrector`."""

DIVIDER_BITS = 2
"""Bits of the quotient that a stage of the divider finds."""

DIVIDER_STAGES = OUT_SCALE_BITS // DIVIDER_BITS


def exponential_depth(config: AcceleratorConfig) -> int:
    """Rows of exponentials, each C bytes: [column tile of keys][row], of a block as large as an accumulator bank."""
    return config.block_rows * config.block_col_tiles


def exponential_latency(config: AcceleratorConfig) -> int:
    """Cycles from the read of a row of scores to the write of its exponentials."""
    return 5 + (0 if config.checksum is None else CORRECTOR_STAGES)


def scale_latency(config: AcceleratorConfig) -> int:
    """Cycles from the read of a row's last scores to the write of its divided output scale."""
    return exponential_latency(config) + 1 + DIVIDER_STAGES
