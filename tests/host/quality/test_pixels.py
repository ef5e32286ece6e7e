"""PSNR and SSIM against plain computations, and what is no image is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from brownout.host.quality import (
    mean_squared_error,
    psnr,
    psnr_per_image,
    ssim,
    ssim_per_image,
    to_unit_range,
)


@pytest.fixture
def pair(generator):
    reference = torch.rand(3, 2, 9, 11, generator=generator)
    return (reference + 0.1 * torch.randn(reference.shape, generator=generator)).clamp(0, 1), reference


def plain_ssim(x, y):
    """Mean over windows, one at a time, with numpy's sample covariance."""
    found = []
    for row in range(x.shape[0] - 6):
        for col in range(x.shape[1] - 6):
            left, right = x[row : row + 7, col : col + 7].ravel(), y[row : row + 7, col : col + 7].ravel()
            (var_x, cov), (_, var_y) = np.cov(left, right)
            numerator = (2 * left.mean() * right.mean() + 1e-4) * (2 * cov + 9e-4)
            found.append(numerator / ((left.mean() ** 2 + right.mean() ** 2 + 1e-4) * (var_x + var_y + 9e-4)))
    return np.mean(found)


def test_psnr_pools_the_error_of_all_images(pair):
    x, y = (values.double().numpy() for values in pair)
    squared = (x - y) ** 2
    assert mean_squared_error(*pair) == pytest.approx(squared.mean(), rel=1e-12)
    assert psnr(*pair) == pytest.approx(10 * np.log10(1 / squared.mean()), rel=1e-12)
    each = [10 * np.log10(1 / image.mean()) for image in squared]
    assert psnr_per_image(*pair).tolist() == pytest.approx(each, rel=1e-12)


def test_one_ruined_image_shows_in_the_pooled_psnr():
    reference = torch.zeros(4, 1, 8, 8)
    images = reference.clone()
    images[0] = 1
    assert psnr(images, reference) == pytest.approx(10 * math.log10(4))
    assert psnr_per_image(images, reference).tolist() == [0, math.inf, math.inf, math.inf]


def test_equal_images_have_infinite_psnr_and_ssim_1(pair):
    _, reference = pair
    assert psnr(reference, reference) == math.inf
    assert ssim_per_image(reference, reference).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_ssim_is_the_mean_over_windows_and_channels(pair):
    x, y = (values.double().numpy() for values in pair)
    each = [np.mean([plain_ssim(*planes) for planes in zip(*images, strict=True)]) for images in zip(x, y, strict=True)]
    assert ssim_per_image(*pair).tolist() == pytest.approx(each, rel=1e-9)
    assert ssim(*pair) == pytest.approx(np.mean(each), rel=1e-9)


def test_ssim_is_that_of_scikit_image(pair):
    metrics = pytest.importorskip("skimage.metrics")
    for found, x, y in zip(ssim_per_image(*pair), *pair, strict=True):
        wanted = metrics.structural_similarity(x.double().numpy(), y.double().numpy(), data_range=1, channel_axis=0)
        assert found.item() == pytest.approx(wanted, rel=1e-9)


def test_both_are_symmetric_and_fall_with_noise(pair, generator):
    images, reference = pair
    assert psnr(images, reference) == psnr(reference, images)
    assert ssim(images, reference) == pytest.approx(ssim(reference, images), rel=1e-12)
    noise = torch.randn(reference.shape, generator=generator)
    noisy = [(reference + strength * noise).clamp(0, 1) for strength in (0.01, 0.05, 0.2, 0.5)]
    for metric in (psnr, ssim):
        values = [metric(one, reference) for one in noisy]
        assert values == sorted(values, reverse=True)


def test_model_output_is_mapped_to_images():
    assert to_unit_range(torch.tensor([-1.5, -1, 0, 0.5, 1, 3])).tolist() == [0, 0, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([[0.5]], TypeError, "images must be a torch.Tensor, not list"),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
            TypeError,
            "images must be floating point in [0, 1], not torch.uint8; divide 8-bit images by 255",
        ),
        (torch.zeros(8, 8), ValueError, "images must be a non-empty batch (N, C, H, W), not of shape (8, 8)"),
        (
            torch.zeros(0, 1, 8, 8),
            ValueError,
            "images must be a non-empty batch (N, C, H, W), not of shape (0, 1, 8, 8)",
        ),
        (
            torch.full((1, 1, 8, 8), -0.25),
            ValueError,
            "images must be in [0, 1], not -0.25; map a denoiser's output in [-1, 1] with to_unit_range",
        ),
        (
            torch.full((1, 1, 8, 8), math.nan),
            ValueError,
            "images must be in [0, 1], not nan; map a denoiser's output in [-1, 1] with to_unit_range",
        ),
        (
            torch.zeros(2, 1, 8, 8),
            ValueError,
            "images have shape (2, 1, 8, 8) but reference has (1, 1, 8, 8)",
        ),
    ],
)
def test_what_is_no_image_is_refused(images, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        psnr(images, torch.zeros(1, 1, 8, 8))


def test_the_reference_is_checked_too():
    with pytest.raises(ValueError, match=r"^reference must be in \[0, 1\], not 2; "):
        ssim(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 2.0))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(ValueError, match=r"^SSIM needs images of at least 7 x 7 pixels, not 6 x 8$"):
        ssim(torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8))
