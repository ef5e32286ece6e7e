"""The shipped models as pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..models.load import load_denoiser
from ..models.sampling import StepCallback, sample
from ..models.spec import get_spec

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel


class ShippedPipeline:
    """A shipped model and how to sample from it.

    Parameters
    ----------
    name : str
        ``digits`` or ``mnist``.

    Attributes
    ----------
    spec : ModelSpec
        Architecture and sampling settings.
    transformer : DiTTransformer2DModel
        The denoiser.

    Raises
    ------
    ValueError
        No model has that name.
    WeightsNotFoundError
        It is not trained.
    """

    def __init__(self, name: str) -> None:
        self.spec = get_spec(name)
        self.transformer: DiTTransformer2DModel = load_denoiser(name)

    def __call__(
        self,
        labels: Sequence[int] | torch.Tensor,
        *,
        seed: int,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        callback: StepCallback | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Draw one image per label: `brownout.host.sample`.

        Returns
        -------
        torch.Tensor
            float32 (N, C, H, W) in [0, 1].
        """
        return sample(
            self.transformer,
            self.spec,
            labels,
            seed=seed,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            callback=callback,
            progress=progress,
        )
