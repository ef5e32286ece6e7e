"""A difference is reported where the hardware would have made it first."""

from __future__ import annotations

import pytest
import torch

from brownout.host import first_difference


def test_equal_results_do_not_differ(config):
    result = torch.arange(12, dtype=torch.int32).reshape(3, 4)
    assert first_difference(result, result.clone(), config) is None


def test_the_first_block_in_computing_order_wins(config):
    # 4 columns, blocks of at most 8 rows and 2 column tiles: 12 x 20 is cut into 6 + 6 rows and 2 + 2 + 1 tiles
    # (three of 8, 8 and 4 columns). Row 1, column 18 lies in block 2; row 5, column 3 in block 0.
    expected = torch.zeros(12, 20, dtype=torch.int32)
    actual = expected.clone()
    actual[1, 18] = 7
    actual[5, 3] = -1
    difference = first_difference(expected, actual, config)
    assert (difference.batch, difference.row, difference.col) == (0, 5, 3)
    assert (difference.block, difference.block_row) == (0, 5)
    assert (difference.col_tile, difference.pe_column) == (0, 3)
    assert str(difference) == (
        "2 of 240 elements differ; first in computing order: batch 0, row 5, column 3 "
        "(block 0, accumulator row 5, column tile 0, PE column 3): expected 0, got -1, differing bits 0xffffffff"
    )


def test_batches_and_later_blocks_are_located(config):
    expected = torch.zeros(2, 12, 20, dtype=torch.int8)
    actual = expected.clone()
    actual[1, 7, 13] = 4
    difference = first_difference(expected, actual, config)
    assert (difference.batch, difference.row, difference.col) == (1, 7, 13)
    # Six blocks a product; second row of blocks, rows 6..11.
    assert difference.block in range(9, 12)
    assert difference.block_row == 1
    assert (difference.col_tile, difference.pe_column) == (3, 1)
    assert (difference.expected, difference.actual, difference.count) == (0, 4, 1)


def test_incomparable_results_are_refused(config):
    a = torch.zeros(2, 3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^expected is torch.int32 \(2, 3\) but actual is torch.int8 \(2, 3\)$"):
        first_difference(a, a.to(torch.int8), config)
    with pytest.raises(ValueError, match=r"with 2 or 3 dimensions, not torch.float32 \(2, 3\)$"):
        first_difference(a.float(), a.float(), config)
