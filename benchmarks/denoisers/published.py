"""Denoisers of published text-to-image and class-conditional models: architecture at full size, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import no_init_weights
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from brownout.host.workload.trace import Workload, trace_workload

GUIDED = 2
"""Batch of classifier-free guidance: with and without the condition."""

RANDOM_VALUES = 1 << 24
"""Weights are taken from so many random numbers again and again: drawing a billion takes longer than a step."""


@dataclass(frozen=True)
class Denoiser:
    """An architecture, and what one step is given.

    Attributes
    ----------
    title : str
        As people call it.
    architecture : str
        Name of the class in diffusers.
    config : dict
        Its arguments, as published.
    context : (int, int) or None
        Tokens of the prompt and their width; None for class labels.
    """

    title: str
    architecture: str
    config: dict[str, Any]
    context: tuple[int, int] | None = None

    def build(self, device: torch.device | str = "cpu") -> nn.Module:
        """Make the model; its weights have no values yet."""
        make: Callable[..., nn.Module] = getattr(diffusers, self.architecture)
        with no_init_weights(), torch.device(device):
            return make(**self.config).eval().requires_grad_(False)

    def inputs(self, seed: int = 0) -> dict[str, torch.Tensor | dict[str, torch.Tensor | None]]:
        """Arguments of one step of one guided image."""
        generator = torch.Generator().manual_seed(seed)
        size = self.config["sample_size"]
        latents = torch.randn(1, self.config["in_channels"], size, size, generator=generator)
        sample = latents.expand(GUIDED, -1, -1, -1).contiguous()
        timestep = torch.full((GUIDED,), 500)
        if self.context is None:
            # The label after the last class stands for none.
            labels = torch.tensor([207, self.config["num_embeds_ada_norm"]])
            return {"hidden_states": sample, "timestep": timestep, "class_labels": labels}
        prompt = torch.randn(GUIDED, *self.context, generator=generator)
        if self.architecture == "UNet2DConditionModel":
            return {"sample": sample, "timestep": timestep, "encoder_hidden_states": prompt}
        conditions: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.config["use_additional_conditions"]:
            conditions["resolution"] = torch.full((GUIDED, 2), 8.0 * size)
            conditions["aspect_ratio"] = torch.ones(GUIDED, 1)
        mask = torch.ones(GUIDED, self.context[0])
        # A prompt of 20 tokens, and an empty one.
        mask[0, 20:], mask[1, 1:] = 0, 0
        return {
            "hidden_states": sample,
            "timestep": timestep,
            "encoder_hidden_states": prompt,
            "encoder_attention_mask": mask,
            "added_cond_kwargs": conditions,
        }

    def parameters(self) -> int:
        """Number of parameters; takes no memory."""
        return sum(parameter.numel() for parameter in self.build("meta").parameters())

    def macs(self) -> int:
        """Multiply-accumulates of a step as PyTorch counts them, on the meta device."""
        model, arguments = self.build("meta"), on_meta(self.inputs())
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(**arguments)
        return counter.get_total_flops() // 2

    def workload(self) -> Workload:
        """Products of a step, from shapes on the meta device."""
        arguments = on_meta(self.inputs())
        return trace_workload(self.build("meta"), lambda model: model(**arguments))


def on_meta(value: Any) -> Any:
    """Move tensors, perhaps in dictionaries, to the meta device."""
    if isinstance(value, dict):
        return {name: on_meta(each) for name, each in value.items()}
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def fill(model: nn.Module, seed: int = 0) -> None:
    """Give a model random weights, uniform with standard deviation ``fan_in^-1/2``; norms are identities."""
    values = torch.empty(RANDOM_VALUES).uniform_(-(3**0.5), 3**0.5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for module in model.modules():
            normalises = isinstance(module, (nn.LayerNorm, nn.GroupNorm))
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    _tile(parameter.view(-1), values)
                    parameter.mul_(parameter[0].numel() ** -0.5)
                else:
                    parameter.fill_(1.0 if normalises and name == "weight" else 0.0)


def _tile(target: torch.Tensor, values: torch.Tensor) -> None:
    for start in range(0, len(target), len(values)):
        piece = target[start : start + len(values)]
        piece.copy_(values[: len(piece)])


_TRANSFORMER = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "patch_size": 2,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_elementwise_affine": False,
}

_PIXART_ALPHA = _TRANSFORMER | {
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "norm_type": "ada_norm_single",
    "norm_eps": 1e-6,
}

T5_TOKENS, CLIP_TOKENS = 120, 77

DENOISERS = {
    "dit_xl_2_512": Denoiser(
        "DiT-XL/2 512",
        "DiTTransformer2DModel",
        _TRANSFORMER | {"sample_size": 64, "norm_type": "ada_norm_zero", "norm_eps": 1e-5},
    ),
    "pixart_alpha_512": Denoiser(
        "PixArt-alpha XL/2 512",
        "PixArtTransformer2DModel",
        _PIXART_ALPHA | {"sample_size": 64, "use_additional_conditions": False},
        (T5_TOKENS, 4096),
    ),
    "pixart_alpha_1024": Denoiser(
        "PixArt-alpha XL/2 1024-MS",
        "PixArtTransformer2DModel",
        _PIXART_ALPHA | {"sample_size": 128, "use_additional_conditions": True},
        (T5_TOKENS, 4096),
    ),
    "sd_1_5": Denoiser(
        "Stable Diffusion 1.5",
        "UNet2DConditionModel",
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        (CLIP_TOKENS, 768),
    ),
}
"""By the name that metrics begin with."""
