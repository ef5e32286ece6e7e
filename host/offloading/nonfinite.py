"""NaN and infinity in what offloaded layers get: int8 has neither, so outputs that depend on them are made NaN."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

Nonfinite = Literal["nan", "raise"]
"""Outputs that depend on NaN or infinity become NaN, or the first such input is an error."""


class Met(NamedTuple):
    """What quantising has met.

    Attributes
    ----------
    saturated : int
        Elements beyond -128.5..127.5 steps, NaN among them.
    infinite : bool
        Whether an element is NaN or infinite in steps: only then is it worth a look which.
    """

    saturated: int
    infinite: bool

    def __add__(self, other: Met) -> Met:  # type: ignore[override]
        return Met(self.saturated + other.saturated, self.infinite or other.infinite)


def bad_rows(values: torch.Tensor) -> torch.Tensor:
    """Bool (...): whether a row of (..., K) has a NaN or an infinity."""
    return ~values.isfinite().all(-1)


def bad_pixels(
    image: torch.Tensor,
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int, int, int],
    beyond: torch.Tensor | None = None,
) -> torch.Tensor:
    """Outputs of a convolution whose window touches a NaN or an infinity.

    Parameters
    ----------
    image : torch.Tensor
        (B, C, H, W).
    groups, kernel, stride, dilation
        Of the convolution.
    padding : (int, int, int, int)
        Columns left and right, rows above and below.
    beyond : torch.Tensor, optional
        bool: those of the rows above, and then of those below, that have one.

    Returns
    -------
    torch.Tensor
        bool (B, groups, rows, columns).
    """
    bad = (~image.isfinite()).unflatten(1, (groups, -1)).any(2).flatten(0, 1)
    padded = F.pad(bad.to(torch.float32), padding)
    if beyond is not None:
        above, below = padding[2], padding[3]
        padded[:, :above] += beyond[:above, None]
        padded[:, padded.shape[1] - below :] += beyond[above:, None]
    ones = torch.ones((1, 1, *kernel), device=image.device)
    touched = F.conv2d(padded[:, None], ones, stride=stride, dilation=dilation) > 0
    return touched.view(len(image), groups, *touched.shape[2:])


def bad_queries(
    query: torch.Tensor, bad_keys: torch.Tensor, mask: torch.Tensor | None, start: int, rows: int
) -> torch.Tensor:
    """Rows of attention that depend on a NaN or an infinity.

    Parameters
    ----------
    query : torch.Tensor
        (B, H, L, E).
    bad_keys : torch.Tensor
        bool (B, H, S): of keys and values.
    mask : torch.Tensor, optional
        Mask of these rows, broadcastable to (B, H, rows, S): a key at -inf does not count.
    start, rows : int
        Which rows.

    Returns
    -------
    torch.Tensor
        bool (B, H, rows).
    """
    reached = bad_keys[:, :, None]
    if mask is not None:
        reached = reached & (mask != -torch.inf)
    return bad_rows(query[:, :, start : start + rows]) | reached.any(-1)
