"""Counters that follow from a product's shape alone, as the hardware would count them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import CHANNEL_RECORD_BYTES, COMMAND_BYTES, LOG_RECORD_BYTES
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import ideal_cycles, slabs, split_extent

from ..operands import GemmShape
from .geometry import geometry
from .state import CommandOptions


def _beats(offset: int, count: int, bus_bytes: int) -> int:
    """Bus beats touched by `count` bytes from byte `offset` on."""
    return (offset % bus_bytes + count + bus_bytes - 1) // bus_bytes


def _columns(tiles: Iterable[tuple[int, int]], width: int, extent: int) -> list[tuple[int, int]]:
    """First column and number of columns of pieces given in tiles of `width`, the last one cut at `extent`."""
    return [(first * width, min(extent, (first + count) * width) - first * width) for first, count in tiles]


@lru_cache(maxsize=1024)
def gemm_counts(config: AcceleratorConfig, shape: GemmShape, *, channels: bool, requant: bool) -> dict[str, int]:
    """Counters of one GEMM command on clean memory, exactly as on RTL.

    Every row of a slab, of a block's weights or of a block's output is fetched or written by itself, so that a beat
    shared by two of them counts twice.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    shape : GemmShape
        Extents of the product.
    channels, requant : bool
        Whether the command has a channel table, and whether it writes int8 instead of int32.

    Returns
    -------
    dict
        ``macs``, ``busy_cycles``, ``commands``, ``dram_read_bytes``, ``dram_write_bytes``, ``dram_bytes``.
    """
    bus = config.bus_bytes
    slab_columns = _columns(slabs(config, shape.k), config.rows, shape.k)
    slab_beats = sum(_beats(first, length, bus) for first, length in slab_columns)
    row_blocks = sum(1 for _ in split_extent(shape.m, config.block_rows))
    column_blocks = split_extent(-(-shape.n // config.cols), config.block_col_tiles)
    columns = _columns(column_blocks, config.cols, shape.n)
    activation_beats = shape.m * len(columns) * slab_beats
    weight_beats = row_blocks * shape.k * sum(_beats(first, width, bus) for first, width in columns)
    record = CHANNEL_RECORD_BYTES if channels else 0
    channel_beats = row_blocks * sum(_beats(first * record, width * record, bus) for first, width in columns)
    element = 1 if requant else 4
    output_beats = shape.m * sum(_beats(first * element, width * element, bus) for first, width in columns)
    read = COMMAND_BYTES + bus * shape.batch * (activation_beats + weight_beats + channel_beats)
    write = bus * shape.batch * output_beats
    return {
        "macs": shape.macs,
        # A row enters the array once per pass, and there is one pass for every weight tile that a row meets.
        "busy_cycles": ideal_cycles(config, shape.m, shape.n, shape.k, shape.batch),
        "commands": 1,
        "dram_read_bytes": read,
        "dram_write_bytes": write,
        "dram_bytes": read + write,
    }


def check_counts(config: AcceleratorConfig, shape: GemmShape, options: CommandOptions, log: bytes) -> dict[str, int]:
    """What checks add to `gemm_counts`: cycles of digit rows, and writing the log.

    Parameters
    ----------
    config : AcceleratorConfig
    shape : GemmShape
    options : CommandOptions
        Of the command, with CHECK.
    log : bytes
        Its records.
    """
    checksum = config.checksum
    assert checksum is not None
    pieces = geometry(config, shape.m, shape.n)
    digit_rows = shape.batch * len(pieces.group_first) * checksum.digits
    passes = -(-shape.k // config.rows) * -(-shape.n // config.cols)
    # The records of a block are written together, and a beat shared by two blocks counts twice.
    words = np.frombuffer(log, "<u4").reshape(-1, 4).astype(np.int64)
    row, col = (words[:, 0] - options.first_row) % (1 << 32), (words[:, 1] - options.first_col) % (1 << 32)
    row_block = np.searchsorted(pieces.row_blocks, row % shape.m, side="right")
    col_block = np.searchsorted(pieces.col_blocks, col // config.cols, side="right")
    block = (row // shape.m * len(pieces.row_blocks) + row_block) * len(pieces.col_blocks) + col_block
    starts = [*np.flatnonzero(np.diff(block, prepend=-1)).tolist(), len(words)]
    spans = [(first * LOG_RECORD_BYTES, (end - first) * LOG_RECORD_BYTES) for first, end in pairwise(starts)]
    written = config.bus_bytes * sum(_beats(*span, config.bus_bytes) for span in spans)
    return {"busy_cycles": digit_rows * passes, "dram_write_bytes": written, "dram_bytes": written}


def setting_counts(config: AcceleratorConfig, lengths: NDArray[np.uint8] | None) -> dict[str, int]:
    """Counters of a SET_ERRORS command, or of a SET_POINT command with its table of carry lengths."""
    read = COMMAND_BYTES
    if lengths is not None:
        read += lengths.shape[0] * config.bus_bytes * _beats(0, lengths.shape[1], config.bus_bytes)
    return {"commands": 1, "dram_read_bytes": read, "dram_bytes": read}
