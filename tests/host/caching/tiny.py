"""Denoisers with random weights, and runs of them whose values change smoothly from step to step."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from torch import nn

from .. import tiny_denoisers

TIMESTEPS = tuple(range(990, 0, -100))


def dit() -> diffusers.DiTTransformer2DModel:
    torch.manual_seed(3)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=10,
    ).eval()


def pixart() -> diffusers.PixArtTransformer2DModel:
    torch.manual_seed(3)
    return tiny_denoisers.pixart().eval()


def unet(layers: int = 2) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(3)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=2,
    ).eval()


def arguments(model: nn.Module, count: int = 2) -> dict[str, Any]:
    """What the model is called with, beside the sample and the timestep."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(model, diffusers.DiTTransformer2DModel):
        return {"class_labels": torch.arange(count)}
    if isinstance(model, diffusers.PixArtTransformer2DModel):
        return {
            "encoder_hidden_states": torch.randn(count, 7, 12, generator=generator),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    return {"encoder_hidden_states": torch.randn(count, 7, 12, generator=generator)}


@torch.no_grad()
def run(model: nn.Module, timesteps: tuple[int, ...] = TIMESTEPS, *, count: int = 2) -> list[torch.Tensor]:
    """Output of every evaluation, each of which moves the sample a little."""
    named = arguments(model, count)
    channels = model.config.in_channels
    sample = torch.randn(count, channels, 8, 8, generator=torch.Generator().manual_seed(7))
    outputs = []
    for timestep in timesteps:
        output = model(sample, timestep=torch.tensor([timestep] * count), **named).sample
        outputs.append(output)
        sample = sample - 0.05 * output[:, :channels]
    return outputs
