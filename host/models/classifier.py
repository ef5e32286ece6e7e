"""The judge: a small convolutional classifier whose features also serve the quality metrics."""

from __future__ import annotations

import itertools

import torch
from torch import nn

FEATURES = 64
"""Width of the feature vector before the last layer."""


class Classifier(nn.Module):
    """Three convolution stages, a 64-dimensional feature layer and a linear read-out.

    Works on images of any size from 8x8 up.

    Parameters
    ----------
    num_classes : int
        Number of classes.
    channels : int
        Channels of the images.
    """

    def __init__(self, num_classes: int, channels: int = 1) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.pool = nn.MaxPool2d(2)
        self.feature = nn.Linear(widths[-1] * 4, FEATURES)
        self.read_out = nn.Linear(FEATURES, num_classes)

    def stage_outputs(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Activations of the convolution stages for images (N, C, H, W) in [0, 1]."""
        outputs = []
        hidden = images * 2 - 1
        for index, stage in enumerate(self.stages):
            hidden = stage(self.pool(hidden) if index else hidden)
            outputs.append(hidden)
        return outputs

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Feature vectors (N, 64) of images (N, C, H, W) in [0, 1]."""
        last = self.stage_outputs(images)[-1]
        pooled = nn.functional.adaptive_avg_pool2d(last, 2).flatten(1)
        return torch.relu(self.feature(pooled))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores (N, num_classes) of images (N, C, H, W) in [0, 1]."""
        return self.read_out(self.features(images))
