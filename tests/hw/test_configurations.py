"""Named configurations do what their description says."""

from __future__ import annotations

from dataclasses import replace

from brownout.host.device.power.memories import sram_bytes
from brownout.hw.configurations import SERVER, SERVER_ATTENTION, SERVER_FLIP, SERVER_KEEP
from brownout.hw.tiling import keeps


def test_checks_and_errors_are_all_that_the_server_with_errors_has_more():
    assert replace(SERVER_FLIP, timing_model="none", checksum=None) == SERVER
    assert SERVER_FLIP.checksum.digits == 0


def test_the_server_has_the_bandwidth_that_its_blocks_need():
    rows, cols = SERVER.block_rows, SERVER.block_col_tiles * SERVER.cols
    tiles = 1024 // SERVER.rows
    # Bytes per cycle of a busy array at K = 1024: weights once a block of rows, activations once a block of columns.
    weights = SERVER.rows * SERVER.cols / rows
    activations = SERVER.rows / (cols // SERVER.cols)
    results = 4 * SERVER.cols / tiles
    assert weights + activations + results <= SERVER.memory.bytes_per_cycle
    assert SERVER.lanes >= SERVER.cols / tiles


def test_the_server_that_keeps_activations_has_no_more_memory_than_the_other():
    assert sram_bytes(SERVER_KEEP) == sram_bytes(SERVER_ATTENTION)
    assert keeps(SERVER_KEEP, 1 << 20, 1152)
    assert not keeps(SERVER_KEEP, 1 << 20, 1153)
