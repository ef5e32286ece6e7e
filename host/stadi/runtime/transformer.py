"""Transformers divided into rows of tokens: keys and values are all that devices need of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ...drift.workloads import trace_workload
from ...errors import PlanError
from ...offloading.attention import SUBMODULE, AttentionCall, Gather, OffloadedAttention
from ..patches import PatchedWorkload
from .denoiser import PatchedDenoiser, Ranges, map_tensors
from .exchange import Exchange
from .residuals import Known, Residuals


@dataclass(frozen=True)
class Piece:
    """Keys and values of some rows in a self-attention.

    Attributes
    ----------
    step : int
        Evaluation from which they are; -1 for what was held when the plan began.
    rows : (int, int)
        Whose they are.
    key, value : torch.Tensor
        int8 (B, H, S, E) and (B, H, S, V), S tokens in `rows`.
    steps : (float, float)
        Value of one step of each.
    """

    step: int
    rows: tuple[int, int]
    key: torch.Tensor
    value: torch.Tensor
    steps: tuple[float, float]

    def cut(self, rows: tuple[int, int]) -> Piece:
        """Part of it."""
        tokens = self.key.shape[2] // (self.rows[1] - self.rows[0])
        place = slice((rows[0] - self.rows[0]) * tokens, (rows[1] - self.rows[0]) * tokens)
        return replace(self, rows=rows, key=self.key[:, :, place], value=self.value[:, :, place])

    def scaled(self, steps: tuple[float, float]) -> Piece:
        """Quantised by other steps: timesteps may have scales of their own."""
        if steps == self.steps:
            return self
        key, value = (
            each if old == new else (each.float() * (old / new)).round().clamp(-128, 127).to(torch.int8)
            for each, old, new in zip((self.key, self.value), self.steps, steps, strict=True)
        )
        return replace(self, key=key, value=value, steps=steps)


def join(pieces: list[Piece]) -> Piece:
    """Neighbouring rows as one piece, with the steps of the first."""
    same = [piece.scaled(pieces[0].steps) for piece in pieces]
    if len(same) == 1:
        return same[0]
    key, value = (torch.cat([getattr(piece, name) for piece in same], 2) for name in ("key", "value"))
    return Piece(-1, (same[0].rows[0], same[-1].rows[1]), key, value, same[0].steps)


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
        self._held: dict[str, dict[str, Piece]] = {}
        self._residuals = Residuals()
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
        for name, owner in self.module.named_modules():
            if getattr(owner, "is_cross_attention", None) is not False:
                continue
            offloaded = owner._modules.get(SUBMODULE)
            if not isinstance(offloaded, OffloadedAttention):
                raise PlanError(
                    f"self-attention {name!r} is not offloaded, but keys and values are exchanged in int8; "
                    "let filter_fn select it"
                )
            for call in offloaded.calls:
                assert isinstance(call, AttentionCall)
                call.gather = self._gather(call.name)

    def _gather(self, site: str) -> Gather:
        def gather(
            key: torch.Tensor, value: torch.Tensor, steps: tuple[float, float]
        ) -> tuple[torch.Tensor, torch.Tensor]:
            exchange = self._exchange
            assert exchange is not None
            exchange.reached()
            if exchange.alone:
                return key, value
            own = Piece(exchange.step, exchange.rows(exchange.me), key.clone(), value.clone(), steps)
            held = self._held.setdefault(site, {})
            self._residuals.send(site, exchange, own, held.get(exchange.me.device))
            held[exchange.me.device] = own
            self._refresh(site, exchange)
            # In the order of rows, which is that of the plan.
            whole = join([held[share.device].scaled(steps) for share in exchange.plan.shares])
            return whole.key, whole.value

        return gather

    def _refresh(self, site: str, exchange: Exchange) -> None:
        """Receive what the evaluation at the exchange's step uses."""
        held = self._held[site]
        for share in exchange.others:
            step = exchange.held(share)
            if step is None or (share.device in held and held[share.device].step == step):
                continue
            got = self._residuals.receive(site, exchange, share, step, held.get(share.device))
            scales = got["steps"].tolist()
            held[share.device] = Piece(step, exchange.rows(share), got["key"], got["value"], (scales[0], scales[1]))

    def workload(self, inputs: torch.Tensor, conditions: Mapping[str, Any]) -> PatchedWorkload:
        model = type(self.module)
        with torch.device("meta"):
            empty = model.from_config(self.module.config).eval()  # type: ignore[attr-defined]
        sample, arguments = inputs.to("meta"), map_tensors(lambda tensor: tensor.to("meta"), dict(conditions))
        timestep = torch.zeros(len(inputs), dtype=torch.int64, device="meta")
        traced = trace_workload(empty, lambda module: module(sample, timestep=timestep, **arguments))
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

    def meet(self, exchange: Exchange) -> None:
        for site in self._held:
            self._refresh(site, exchange)

    def redistribute(self, after: Ranges) -> None:
        self._residuals.redistribute()
        for site, pieces in self._held.items():
            ordered = sorted(pieces.values(), key=lambda piece: piece.rows)
            whole = join(ordered)
            if whole.rows != (0, self.rows):
                raise PlanError(
                    f"keys and values of rows {whole.rows[0]}..{whole.rows[1]} of {self.rows} are held only"
                )
            self._held[site] = {device: replace(whole, step=-1).cut(rows) for device, rows in after.items()}

    def held(self) -> tuple[dict[str, dict[str, Piece]], Known]:
        return {site: dict(pieces) for site, pieces in self._held.items()}, self._residuals.state()

    def restore(self, held: Any) -> None:
        pieces_of, known = held
        self._held = {site: dict(pieces) for site, pieces in pieces_of.items()}
        self._residuals.restore(known)

    def forget(self) -> None:
        self._held.clear()
        self._residuals.forget()


def _keep_tokens(outputs: list[torch.Tensor]) -> Any:
    """Hook that keeps what a layer returns, and lets the model go on with the first token of each image."""

    def hook(_layer: nn.Module, _arguments: Any, tokens: torch.Tensor) -> torch.Tensor:
        outputs.append(tokens)
        return tokens[:, :1]

    return hook
