"""Transformers divided into rows of tokens: keys and values are all that devices need of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import PlanError
from ...workload.trace import trace_workload
from ..plan.patches import PatchedWorkload
from .denoiser import PatchedDenoiser, traceable
from .exchange import Exchange
from .keys_values import KeysValues, self_attention


class PatchedTransformer(PatchedDenoiser):
    """``DiTTransformer2DModel`` or ``PixArtTransformer2DModel``, offloaded with all of its attention.

    Parameters
    ----------
    module : nn.Module
        Float, for `workload`, or offloaded, for evaluations.
    size : (int, int)
        Height and width of the latents.

    Raises
    ------
    PlanError
        The module is of another kind, its self-attention is not offloaded, or the latents do not consist of patches.
    """

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        embedding = getattr(module, "pos_embed", None)
        if embedding is None or getattr(embedding, "pos_embed", None) is None or embedding.pos_embed_max_size:
            raise PlanError(
                f"{type(module).__name__} cannot be divided into token rows; DiTTransformer2DModel and "
                "PixArtTransformer2DModel can"
            )
        self.module = module
        patch = self.latent_rows = int(embedding.patch_size)
        if size[0] % patch or size[1] % patch:
            raise PlanError(f"latents of {size[0]} x {size[1]} do not consist of patches of {patch} x {patch}")
        self.rows, self.tokens_per_row = size[0] // patch, size[1] // patch
        self._places = self._all_places(embedding)
        self._keys_values = KeysValues(self.rows)
        self.kept = (self._keys_values,)
        self._exchange: Exchange | None = None

    def _all_places(self, embedding: nn.Module) -> torch.Tensor:
        """Embedding of all places, (1, tokens, width), as ``PatchEmbed.forward`` has it."""
        table: Any = embedding.pos_embed
        if (embedding.height, embedding.width) == (self.rows, self.tokens_per_row):
            return torch.as_tensor(table)
        from diffusers.models.embeddings import get_2d_sincos_pos_embed

        places: torch.Tensor = get_2d_sincos_pos_embed(
            embed_dim=table.shape[-1],
            grid_size=(self.rows, self.tokens_per_row),
            base_size=embedding.base_size,
            interpolation_scale=embedding.interpolation_scale,
            device=table.device,
            output_type="pt",
        )
        return places.float().unsqueeze(0)

    def prepare(self) -> None:
        """Connect the offloaded module's self-attention to the exchange.

        Raises
        ------
        PlanError
            Some self-attention is not offloaded.
        """
        for call in self_attention(self.module):
            call.gather = self._keys_values.gather(call.name, self._present)

    def _present(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    def workload(self, inputs: torch.Tensor, conditions: Mapping[str, Any]) -> PatchedWorkload:
        traced = trace_workload(*traceable(self.module, inputs, conditions))
        return PatchedWorkload(traced, self.rows, self.tokens_per_row, len(inputs))

    def evaluate(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, Any], exchange: Exchange
    ) -> torch.Tensor:
        embedding: Any = self.module.pos_embed
        start, stop = exchange.rows(exchange.me)
        before = embedding.height, embedding.width, embedding.pos_embed
        outputs: list[torch.Tensor] = []
        last = getattr(self.module, "proj_out_2", None)
        handle = last.register_forward_hook(_keep_tokens(outputs)) if isinstance(last, nn.Module) else None
        tokens = slice(start * self.tokens_per_row, stop * self.tokens_per_row)
        try:
            embedding.height, embedding.width = stop - start, self.tokens_per_row
            embedding.pos_embed = self._places[:, tokens]
            self._exchange = exchange
            result: torch.Tensor = self.module(latents, timestep=timestep, **conditions).sample
        finally:
            embedding.height, embedding.width, embedding.pos_embed = before
            self._exchange = None
            if handle is not None:
                handle.remove()
        if not outputs:
            return result
        # DiTTransformer2DModel assembles square images only.
        patch = self.latent_rows
        pixels = outputs[0].view(len(latents), stop - start, self.tokens_per_row, patch, patch, -1)
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(len(latents), -1, *latents.shape[2:])


def _keep_tokens(outputs: list[torch.Tensor]) -> Any:
    """Hook that keeps what a layer returns, and lets the model go on with the first token of each image."""

    def hook(_layer: nn.Module, _arguments: Any, tokens: torch.Tensor) -> torch.Tensor:
        outputs.append(tokens)
        return tokens[:, :1]

    return hook
