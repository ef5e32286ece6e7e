"""U-Nets divided into rows: devices exchange borders, statistics of group norms, keys and values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ...errors import PlanError
from ...offloading.attention import AttentionCall
from ...offloading.layer import OffloadedLayer
from ...offloading.layer_types import find_layer_type
from ..plan.unet import PatchedUnet
from .denoiser import PatchedDenoiser, traceable
from .exchange import Exchange
from .group_norms import GroupNorms
from .halos import Halos
from .keys_values import KeysValues, self_attention

BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""Blocks whose rows can be divided: those of Stable Diffusion 1, 2 and XL."""

OF_PLACES = (
    "attention_mask",
    "down_block_additional_residuals",
    "mid_block_additional_residual",
    "down_intrablock_additional_residuals",
)
"""Arguments that belong to places of the image."""


class PatchedUNet2D(PatchedDenoiser):
    """``UNet2DConditionModel``, offloaded with all of its convolutions and attention.

    A row of a plan is a row of the lowest level, so that every level has whole rows however the image is divided.

    Parameters
    ----------
    module : nn.Module
        Float, for `workload`, or offloaded, for evaluations.
    size : (int, int)
        Height and width of the latents.

    Raises
    ------
    PlanError
        It has blocks of other kinds, or the latents do not consist of such rows.
    """

    resynchronise = True

    def __init__(self, module: nn.Module, size: tuple[int, int]) -> None:
        config: Any = module.config
        for name, known in BLOCKS.items():
            types = getattr(config, name)
            for kind in (types,) if isinstance(types, str) or types is None else types:
                if kind not in known:
                    raise PlanError(f"a U-Net with {name} {kind!r} cannot be divided into rows, but {', '.join(known)}")
        levels = len(config.down_block_types)
        self.module = module
        self.latent_rows = 2 ** (levels - 1)
        if size[0] % self.latent_rows:
            raise PlanError(
                f"latents of {size[0]} x {size[1]} cannot be divided into rows of {self.latent_rows}, as {levels} "
                f"levels need them; use a height that is a multiple of {self.latent_rows}"
            )
        self.rows = size[0] // self.latent_rows
        self._keys_values, self._halos, self._norms = KeysValues(self.rows), Halos(self.rows), GroupNorms()
        self.kept = (self._keys_values, self._halos, self._norms)
        self._calls: list[AttentionCall] = []
        self._convolutions: list[tuple[str, OffloadedLayer, tuple[int, int]]] = []
        self._exchange: Exchange | None = None

    def prepare(self) -> None:
        """Find what has to exchange.

        Raises
        ------
        PlanError
            A convolution or self-attention is not offloaded, or a convolution cannot be divided.
        """
        self._calls = list(self_attention(self.module))
        self._convolutions.clear()
        for name, layer in self.module.named_modules():
            layer_type = find_layer_type(layer)
            if layer_type is not None and layer_type.of_pixels:
                raise PlanError(
                    f"convolution {name!r} is not offloaded, but rows are exchanged in int8; let filter_fn select it"
                )
            if isinstance(layer, OffloadedLayer) and (window := layer.row_window) is not None:
                if not window.keeps_rows:
                    raise PlanError(
                        f"convolution {name!r} with a kernel of {window.kernel} rows, stride {window.stride} and "
                        f"{window.above} rows of padding above and {window.below} below gives other rows than its "
                        "input has, and cannot be divided"
                    )
                if window.reach != (0, 0):
                    self._convolutions.append((name, layer, window.reach))

    def _present(self) -> Exchange:
        assert self._exchange is not None
        return self._exchange

    @contextlib.contextmanager
    def _connected(self, exchange: Exchange) -> Iterator[None]:
        """Exchange in the module's layers; afterwards they are as before."""
        norms = [(name, norm) for name, norm in self.module.named_modules() if isinstance(norm, nn.GroupNorm)]
        self._exchange = exchange
        try:
            for call in self._calls:
                call.gather = self._keys_values.gather(call.name, self._present)
            for name, layer, reach in self._convolutions:
                layer.halo = self._halos.halo(name, reach, self._present)
            with contextlib.ExitStack() as stack:
                for name, norm in norms:
                    stack.callback(_put_back, norm, norm.__dict__.get("forward"))
                    norm.forward = self._norms.wrapped(name, norm, self._present)  # type: ignore[method-assign]
                yield
        finally:
            for call in self._calls:
                call.gather = None
            for _, layer, _ in self._convolutions:
                layer.halo = None
            self._exchange = None

    def workload(self, inputs: torch.Tensor, conditions: Mapping[str, Any]) -> PatchedUnet:
        evaluated, run = traceable(self.module, inputs, conditions)
        return PatchedUnet.trace(evaluated, run, images=len(inputs))

    def evaluate(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, Any], exchange: Exchange
    ) -> torch.Tensor:
        for name in OF_PLACES:
            if conditions.get(name) is not None:
                raise PlanError(f"{name} belongs to places of the image and cannot be divided; leave it out")
        with self._connected(exchange):
            result: torch.Tensor = self.module(latents, timestep, **conditions).sample
        return result


def _put_back(norm: nn.GroupNorm, forward: Any) -> None:
    """Undo what an instance got as its ``forward``; None: it had none of its own."""
    if forward is None:
        del norm.__dict__["forward"]
    else:
        norm.forward = forward  # type: ignore[method-assign]
