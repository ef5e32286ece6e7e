"""Pipelines of diffusers with random weights: tiny, without text encoders, given embeddings instead of prompts.

They predict velocities: what a random model predicts as noise is divided by nearly nothing in the first step, and so is
its quantisation error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

from .. import tiny_denoisers

SIZE = 16
"""Height and width of images in pixels."""


@dataclass(frozen=True)
class Tiny:
    """A pipeline, and what it has to be called with besides what all have in common."""

    pipeline: Any
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> dict[str, Any]:
        return {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"} | self.arguments


def vae(**options: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=SIZE,
        **options,
    )


def embeddings(pooled: int | None = None) -> dict[str, Any]:
    given = {"prompt_embeds": torch.randn(1, 7, 12), "negative_prompt_embeds": torch.randn(1, 7, 12)}
    if pooled is not None:
        given |= {
            "pooled_prompt_embeds": torch.randn(1, pooled),
            "negative_pooled_prompt_embeds": torch.randn(1, pooled),
        }
    return given | {"height": SIZE, "width": SIZE}


def dit() -> Tiny:
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        patch_size=2,
    )
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction")
    return Tiny(
        diffusers.DiTPipeline(transformer=transformer, vae=vae(), scheduler=scheduler), {"class_labels": [207, 3]}
    )


def pixart() -> Tiny:
    transformer = tiny_denoisers.pixart()
    pipeline = diffusers.PixArtAlphaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction"),
    )
    masks = {"prompt_attention_mask": torch.ones(1, 7), "negative_prompt_attention_mask": torch.ones(1, 7)}
    masks["prompt_attention_mask"][0, 4:] = 0
    return Tiny(pipeline, embeddings() | masks | {"negative_prompt": None, "use_resolution_binning": False})


def sd() -> Tiny:
    unet = tiny_denoisers.unet_sd15()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Tiny(pipeline, embeddings())


def sdxl() -> Tiny:
    unet = tiny_denoisers.unet_sdxl()
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"),
        add_watermarker=False,
        force_zeros_for_empty_prompt=False,
    )
    return Tiny(pipeline, embeddings(pooled=8))


def sd3() -> Tiny:
    transformer = tiny_denoisers.sd3()
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.0),
        **dict.fromkeys(f"{part}{place}" for part in ("text_encoder", "tokenizer") for place in ("", "_2", "_3")),
    )
    return Tiny(pipeline, embeddings(pooled=10))


TINY = {each.__name__: each for each in (dit, pixart, sd, sdxl, sd3)}


def make(name: str) -> Tiny:
    """The same pipeline, bit for bit, at every call."""
    torch.manual_seed(sum(name.encode()))
    tiny = TINY[name]()
    tiny.pipeline.set_progress_bar_config(disable=True)
    for part in tiny.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return tiny


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
