"""Metrics on pixels: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import avg_pool2d

from .images import check_pair

SSIM_WINDOW = 7
"""Side of SSIM's square window, in pixels."""

SSIM_K1, SSIM_K2 = 0.01, 0.03
"""Stabilising constants of the paper, relative to the range of the data (1)."""


def squared_error_per_image(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image, float64 (N,); as `mean_squared_error`."""
    check_pair(images, reference)
    return (images.double() - reference.double()).square().flatten(1).mean(1)


def _decibels(squared_error: float) -> float:
    return math.inf if squared_error == 0 else -10 * math.log10(squared_error)


def mean_squared_error(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean squared error over all pixels of all images.

    Parameters
    ----------
    images, reference : torch.Tensor
        (N, C, H, W) in [0, 1].

    Raises
    ------
    TypeError, ValueError
        They are not images, or differ in shape.
    """
    return squared_error_per_image(images, reference).mean().item()


def psnr(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB, from the pooled `mean_squared_error`; infinite if both are equal.

    Pooled, a few ruined images count; the mean of `psnr_per_image` hides them, and one perfect image makes it infinite.
    """
    return _decibels(mean_squared_error(images, reference))


def psnr_per_image(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of each image, float64 (N,); as `psnr`."""
    return torch.tensor(
        [_decibels(error) for error in squared_error_per_image(images, reference).tolist()], dtype=torch.float64
    )


def ssim_per_image(images: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004) of each image, float64 (N,).

    Uniform windows of 7 x 7 that lie inside the image, sample covariance, the mean over windows and channels:
    scikit-image's ``structural_similarity(win_size=7, data_range=1)``.

    Parameters
    ----------
    images, reference : torch.Tensor
        (N, C, H, W) in [0, 1], at least 7 x 7.

    Raises
    ------
    TypeError, ValueError
        They are not images, differ in shape or are smaller than a window.
    """
    check_pair(images, reference)
    if min(images.shape[2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"not {images.shape[2]} x {images.shape[3]}"
        )
    x, y = images.double(), reference.double()
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        avg_pool2d(values, SSIM_WINDOW, stride=1) for values in (x, y, x * x, y * y, x * y)
    )
    pixels = SSIM_WINDOW**2
    unbiased = pixels / (pixels - 1)
    variance_x = unbiased * (mean_xx - mean_x * mean_x)
    variance_y = unbiased * (mean_yy - mean_y * mean_y)
    covariance = unbiased * (mean_xy - mean_x * mean_y)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    return (numerator / denominator).flatten(1).mean(1)


def ssim(images: torch.Tensor, reference: torch.Tensor) -> float:
    """Mean of `ssim_per_image`."""
    return ssim_per_image(images, reference).mean().item()
