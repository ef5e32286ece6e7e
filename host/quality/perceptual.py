"""A perceptual distance of LPIPS' form, on any feature network."""

from __future__ import annotations

import torch

from .features import BATCH, FeatureNetwork
from .images import check_pair

EPSILON = 1e-10
"""Added to the length of a channel vector, so that a dead position stays zero; as in LPIPS."""


def _unit(activations: torch.Tensor) -> torch.Tensor:
    values = activations.double()
    return values / (values.square().sum(1, keepdim=True).sqrt() + EPSILON)


@torch.no_grad()
def perceptual_distance_per_image(
    images: torch.Tensor, reference: torch.Tensor, network: FeatureNetwork
) -> torch.Tensor:
    """Perceptual distance of each image to its reference, float64 (N,).

    At each stage the channel vector at each position is scaled to unit length; squared differences are summed over
    channels, averaged over positions and added up over stages: LPIPS (Zhang et al., CVPR 2018) with all learned
    weights 1, and with another network, so its values do not compare with LPIPS'.

    Parameters
    ----------
    images, reference : torch.Tensor
        (N, C, H, W) in [0, 1].
    network : FeatureNetwork
        The classifier that ships with the model, or another one.

    Raises
    ------
    TypeError, ValueError
        They are not images, or differ in shape.
    """
    check_pair(images, reference)
    parts = []
    for image_part, reference_part in zip(images.split(BATCH), reference.split(BATCH), strict=True):
        distance = torch.zeros(len(image_part), dtype=torch.float64, device=image_part.device)
        for left, right in zip(network.stage_outputs(image_part), network.stage_outputs(reference_part), strict=True):
            distance += (_unit(left) - _unit(right)).square().sum(1).flatten(1).mean(1)
        parts.append(distance)
    return torch.cat(parts)


def perceptual_distance(images: torch.Tensor, reference: torch.Tensor, network: FeatureNetwork) -> float:
    """Mean of `perceptual_distance_per_image`."""
    return perceptual_distance_per_image(images, reference, network).mean().item()
