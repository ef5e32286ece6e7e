"""Which rows of an image a layer reads for each row that it makes: what an image that is divided into rows needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Halo = Callable[[torch.Tensor, float, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
"""``halo(image, scale, bad)``: int8 (B, H, W, C) of some rows of an image, in memory that is used again, their scale
(times smoothing), and which rows have NaN or infinite pixels (bool (H,), or None for none), to the rows above
and below that the outputs of these rows read (`RowWindow.reach`), and which of both have such pixels."""


@dataclass(frozen=True)
class RowWindow:
    """Window of rows of pixels that slides over an image.

    Attributes
    ----------
    kernel : int
        Rows that are read for a row of the output.
    stride : int
        Rows of the input from one window to the next.
    dilation : int
        Rows of the input from one row of a window to the next.
    above, below : int
        Rows of zeros around the image.
    """

    kernel: int
    stride: int
    dilation: int
    above: int
    below: int

    @property
    def span(self) -> int:
        """Rows from the first of a window to its last."""
        return self.dilation * (self.kernel - 1)

    @property
    def keeps_rows(self) -> bool:
        """Whether an image with a multiple of the stride of rows has as many outputs as there are strides."""
        return self.span < self.above + self.below + self.stride <= self.span + self.stride

    @property
    def reach(self) -> tuple[int, int]:
        """Rows above and below some rows, a multiple of the stride, that their outputs read."""
        return self.above, max(0, self.span - self.above - self.stride + 1)
