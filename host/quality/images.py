"""What counts as images, and the checks that all metrics share."""

from __future__ import annotations

import torch


def to_unit_range(images: torch.Tensor) -> torch.Tensor:
    """Map images of a denoiser, in [-1, 1], to [0, 1]; what lies outside is clipped."""
    return (images / 2 + 0.5).clamp(0, 1)


def check_images(images: torch.Tensor, name: str = "images") -> None:
    """Refuse what is no batch of images.

    Raises
    ------
    TypeError
        `images` is not a floating-point tensor.
    ValueError
        Its shape is not (N, C, H, W), it is empty, or a value is outside [0, 1] or not finite.
    """
    if not isinstance(images, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], not {images.dtype}; divide 8-bit images by 255")
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"{name} must be a non-empty batch (N, C, H, W), not of shape {tuple(images.shape)}")
    # A NaN fails every comparison, so the test is for what is right.
    outside = images[~((images >= 0) & (images <= 1))]
    if len(outside):
        raise ValueError(
            f"{name} must be in [0, 1], not {outside[0].item():g}; "
            "map a denoiser's output in [-1, 1] with to_unit_range"
        )


def check_pair(images: torch.Tensor, reference: torch.Tensor) -> None:
    """Refuse two batches that cannot be compared image by image; errors as `check_images`."""
    check_images(images)
    check_images(reference, "reference")
    if images.shape != reference.shape:
        raise ValueError(f"images have shape {tuple(images.shape)} but reference has {tuple(reference.shape)}")
