"""Which way a denoiser is divided into rows."""

from __future__ import annotations

from torch import nn

from .denoiser import PatchedDenoiser
from .transformer import PatchedTransformer
from .unet import PatchedUNet2D


def patched(module: nn.Module, size: tuple[int, int]) -> PatchedDenoiser:
    """A denoiser divided into rows.

    Parameters
    ----------
    module : nn.Module
        Layer of diffusers, float or offloaded.
    size : (int, int)
        Height and width of its latents.

    Raises
    ------
    PlanError
        It cannot be divided; the message says why.
    """
    from diffusers import UNet2DConditionModel

    if isinstance(module, UNet2DConditionModel):
        return PatchedUNet2D(module, size)
    return PatchedTransformer(module, size)
