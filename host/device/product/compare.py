"""Where two results of the same product differ, in terms of the hardware."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import blocks

from .operands import OUTPUT_DTYPES


@dataclass(frozen=True)
class Difference:
    """The first differing element, in the order in which the hardware computes blocks.

    Attributes
    ----------
    batch, row, col : int
        Element of the output.
    expected, actual : int
        Values of the element on both sides.
    block : int
        Index of its block in computing order.
    block_row : int
        Its row inside the block: the accumulator row.
    col_tile : int
        Column tile of N that it belongs to.
    pe_column : int
        Column of the array that summed it.
    count, total : int
        Differing elements, and all elements.
    """

    batch: int
    row: int
    col: int
    expected: int
    actual: int
    block: int
    block_row: int
    col_tile: int
    pe_column: int
    count: int
    total: int

    def __str__(self) -> str:
        flipped = (self.expected ^ self.actual) & 0xFFFF_FFFF
        return (
            f"{self.count} of {self.total} elements differ; first in computing order: "
            f"batch {self.batch}, row {self.row}, column {self.col} "
            f"(block {self.block}, accumulator row {self.block_row}, column tile {self.col_tile}, "
            f"PE column {self.pe_column}): expected {self.expected}, got {self.actual}, differing bits {flipped:#010x}"
        )


def first_difference(expected: torch.Tensor, actual: torch.Tensor, config: AcceleratorConfig) -> Difference | None:
    """Compare two results of one product.

    Parameters
    ----------
    expected, actual : torch.Tensor
        int32, int16 or int8, (M, N) or (B, M, N).
    config : AcceleratorConfig
        The accelerator that computed them; it decides the order of the blocks.

    Returns
    -------
    Difference or None
        None if both are equal.

    Raises
    ------
    ValueError
        They differ in shape or dtype, or are not outputs of a product.
    """
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        raise ValueError(
            f"expected is {expected.dtype} {tuple(expected.shape)} but actual is {actual.dtype} {tuple(actual.shape)}"
        )
    if expected.dtype not in OUTPUT_DTYPES or expected.ndim not in (2, 3):
        raise ValueError(
            "results of a product are int32, int16 or int8 with 2 or 3 dimensions, "
            f"not {expected.dtype} {tuple(expected.shape)}"
        )
    differs = expected != actual
    count = int(differs.sum())
    if not count:
        return None
    if differs.ndim == 2:
        expected, actual, differs = expected[None], actual[None], differs[None]
    batch, m, n = differs.shape
    for index, block in enumerate(blocks(config, m, n, batch)):
        first_col = block.first_col_tile * config.cols
        piece = differs[
            block.batch,
            block.first_row : block.first_row + block.rows,
            first_col : first_col + block.col_tiles * config.cols,
        ]
        if not bool(piece.any()):
            continue
        block_row, block_col = (int(x) for x in piece.nonzero()[0])
        row, col = block.first_row + block_row, first_col + block_col
        return Difference(
            batch=block.batch,
            row=row,
            col=col,
            expected=int(expected[block.batch, row, col]),
            actual=int(actual[block.batch, row, col]),
            block=index,
            block_row=block_row,
            col_tile=col // config.cols,
            pe_column=col % config.cols,
            count=count,
            total=differs.numel(),
        )
    raise AssertionError("the blocks of a product cover all of its output")
