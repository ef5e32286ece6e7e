"""Tiled matrices hold every element once, in whole beats, in the order in which blocks and slabs are walked."""

from __future__ import annotations

import random

import pytest

from brownout.hw.config import AcceleratorConfig
from brownout.hw.matrix_layout import (
    MatrixLayout,
    row_major,
    tiled_activations,
    tiled_output,
    tiled_weights,
)
from brownout.hw.tiling import blocks, slabs

CONFIGS = [
    AcceleratorConfig(rows=3, cols=5, bus_bytes=64, block_rows=8, block_col_tiles=3, slab_bytes=9),
    AcceleratorConfig(rows=16, cols=16, block_rows=32),
    AcceleratorConfig(rows=7, cols=1, bus_bytes=4, block_rows=5, block_col_tiles=1, slab_bytes=7),
]


def bytes_of(layout: MatrixLayout) -> dict[int, tuple[int, int]]:
    """Element (row, column) by the offset of each of its bytes."""
    found: dict[int, tuple[int, int]] = {}
    for tile in layout.tiles():
        for row in range(tile.rows):
            for col in range(tile.cols):
                first = tile.offset + row * tile.row_bytes + col * layout.item_bytes
                for offset in range(first, first + layout.item_bytes):
                    assert offset not in found
                    found[offset] = tile.first_row + row, tile.first_col + col
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=["3x5", "16x16", "7x1"])
@pytest.mark.parametrize("seed", range(4))
def test_every_element_has_bytes_of_its_own_inside_the_matrix(config: AcceleratorConfig, seed: int) -> None:
    print(f"seed {seed}")
    rng = random.Random(seed)
    m, n, k = (rng.choice([1, rng.randint(1, 9), rng.randint(1, 60)]) for _ in range(3))
    layouts = [
        (tiled_activations(config, m, k), m, k),
        (tiled_weights(config, k, n), k, n),
        (tiled_output(config, m, n, 1), m, n),
        (tiled_output(config, m, n, 4), m, n),
        (row_major(m, n, 4 * n + 8, 4), m, n),
    ]
    for layout, rows, cols in layouts:
        found = bytes_of(layout)
        assert set(found.values()) == {(row, col) for row in range(rows) for col in range(cols)}
        assert len(found) == rows * cols * layout.item_bytes
        assert max(found) < layout.size_bytes == rows * layout.row_bytes


@pytest.mark.parametrize("config", CONFIGS, ids=["3x5", "16x16", "7x1"])
def test_tiles_are_in_the_order_of_the_walk(config: AcceleratorConfig) -> None:
    m, n, k = 83, 61, 55
    walk = list(blocks(config, m, n))
    tiles = list(tiled_output(config, m, n, 4).tiles())
    assert [(t.first_row, t.rows, t.first_col) for t in tiles] == [
        (b.first_row, b.rows, b.first_col_tile * config.cols) for b in walk
    ]
    columns = [t for t in tiles if t.first_row == 0]
    assert [t.cols for t in columns] == [t.cols for t in tiled_weights(config, k, n).tiles()]
    wanted = []
    for first_row, rows in dict.fromkeys((b.first_row, b.rows) for b in walk):
        for tile, count in slabs(config, k):
            first = tile * config.rows
            wanted.append((first_row, rows, first, min(count * config.rows, k - first)))
    assert [(t.first_row, t.rows, t.first_col, t.cols) for t in tiled_activations(config, m, k).tiles()] == wanted
    for layout in (tiled_activations(config, m, k), tiled_weights(config, k, n), tiled_output(config, m, n, 1)):
        parts = list(layout.tiles())
        assert all(t.row_bytes % config.bus_bytes == 0 and t.row_bytes - t.cols < config.bus_bytes for t in parts)
        ends = [t.offset + t.rows * t.row_bytes for t in parts]
        assert [t.offset for t in parts] == [0, *ends[:-1]]
