"""Random variants of training images."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

LARGEST_TURN = math.radians(8)
SCALES = (0.92, 1.08)
LARGEST_HUE_TURN = math.radians(12)


def translate(images: torch.Tensor, largest_shift: int, generator: torch.Generator) -> torch.Tensor:
    """Translate each image (N, 1, H, W) by up to `largest_shift` pixels, filling with black."""
    if not largest_shift:
        return images
    n, _, height, width = images.shape
    padded = F.pad(images, (largest_shift,) * 4)
    dy = torch.randint(0, 2 * largest_shift + 1, (n, 1, 1), generator=generator)
    dx = torch.randint(0, 2 * largest_shift + 1, (n, 1, 1), generator=generator)
    rows = dy + torch.arange(height).view(1, -1, 1)
    columns = dx + torch.arange(width).view(1, 1, -1)
    return padded[torch.arange(n).view(-1, 1, 1), 0, rows, columns][:, None]


def _between(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def hue_rotation(angles: torch.Tensor) -> torch.Tensor:
    """Matrices (N, 3, 3) that turn colours about the grey axis by `angles` (N,) in radians (Rodrigues' formula)."""
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    sine, cosine = angles.sin().view(-1, 1, 1), angles.cos().view(-1, 1, 1)
    return cosine * torch.eye(3) + sine * cross + (1 - cosine) / 3


def vary(
    originals: torch.Tensor, size: int, largest_shift: int, mirrored: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Turn, scale, shift, mirror and tint pictures on a white ground, then reduce them to the model's size.

    Parameters
    ----------
    originals : torch.Tensor
        float32 (N, 3, H, W) in [0, 1], H and W a multiple of `size`.
    size : int
        Height and width of the result in pixels.
    largest_shift : int
        Largest shift in pixels of the result.
    mirrored : torch.Tensor
        bool (N,): which pictures may be mirrored; half of them are.
    generator : torch.Generator
        Source of all choices.

    Returns
    -------
    torch.Tensor
        float32 (N, 3, size, size) in [0, 1].
    """
    n = len(originals)
    angle = _between(-LARGEST_TURN, LARGEST_TURN, n, generator)
    zoom = 1 / _between(*SCALES, n, generator)
    side = torch.where(mirrored & (torch.rand(n, generator=generator) < 0.5), -1.0, 1.0)
    # affine_grid's picture reaches from -1 to 1.
    reach = 2 * largest_shift / size
    shift_x, shift_y = (_between(-reach, reach, n, generator) for _ in range(2))
    rows = torch.stack([zoom * angle.cos() * side, -zoom * angle.sin(), shift_x], dim=1)
    columns = torch.stack([zoom * angle.sin() * side, zoom * angle.cos(), shift_y], dim=1)
    grid = F.affine_grid(torch.stack([rows, columns], dim=1), list(originals.shape), align_corners=False)
    # The border is white, so that repeating it is filling with white.
    moved = F.grid_sample(originals, grid, padding_mode="border", align_corners=False)
    reduced = F.interpolate(moved, size=(size, size), mode="area")
    hue = hue_rotation(_between(-LARGEST_HUE_TURN, LARGEST_HUE_TURN, n, generator))
    return (hue @ reduced.flatten(2)).view_as(reduced).clamp_(0, 1)
