"""Networks whose activations metrics are computed on."""

from __future__ import annotations

from typing import Protocol

import torch

from .images import check_images

BATCH = 100


class FeatureNetwork(Protocol):
    """What a network offers to the metrics; `Classifier` and `EfficientNetFeatures` do."""

    def stage_outputs(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Activations (N, C_s, H_s, W_s) of the convolution stages for images (N, C, H, W) in [0, 1]."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Feature vectors (N, D) of images (N, C, H, W) in [0, 1]."""


class ClassifyingNetwork(FeatureNetwork, Protocol):
    """What class agreement needs beside features; `Classifier` is one, in eval mode."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores (N, num_classes) of images (N, C, H, W) in [0, 1]."""


@torch.no_grad()
def extract_features(images: torch.Tensor, network: FeatureNetwork) -> torch.Tensor:
    """Feature vectors of images, in batches.

    Parameters
    ----------
    images : torch.Tensor
        (N, C, H, W) in [0, 1].
    network : FeatureNetwork
        Network in eval mode.

    Returns
    -------
    torch.Tensor
        float64 (N, D).

    Raises
    ------
    TypeError, ValueError
        `images` are not images.
    """
    check_images(images)
    return torch.cat([network.features(part).double() for part in images.split(BATCH)])
