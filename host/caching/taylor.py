"""Step caching for transformers: outputs of blocks or of their branches are extrapolated (TaylorSeer)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from .step_cache import Forward, StepCache

GRANULARITIES = ("blocks", "branches")

BRANCHES = ("attn1", "attn2", "ff")
"""Of diffusers' ``BasicTransformerBlock``."""


class TaylorCache(StepCache):
    """Predicts what transformer blocks add to the hidden states (TaylorSeer, Liu et al., arXiv 2503.06923).

    For diffusers' models with a list ``transformer_blocks`` of ``BasicTransformerBlock``: DiT, PixArt-alpha. Values
    are extrapolated in the number of the evaluation, by the polynomial through the last ``order + 1`` full ones.

    Parameters
    ----------
    interval, order, damping, warmup
        As in `StepCache`; published is a damping of 1.
    granularity : {"blocks", "branches"}
        What is predicted: what all blocks together add, which is the same as predicting what each block adds, because
        extrapolation is linear, and takes one tensor for each full value instead of one for each block; or the output
        of each attention and each MLP, before its gate, so that modulation is computed in every evaluation, as
        published.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    def __init__(
        self, *, interval: int, order: int = 1, damping: float = 0.5, warmup: int = 1, granularity: str = "blocks"
    ) -> None:
        super().__init__(interval=interval, order=order, damping=damping, warmup=warmup)
        if granularity not in GRANULARITIES:
            raise ValueError(f"granularity must be one of {', '.join(map(repr, GRANULARITIES))}, not {granularity!r}")
        self.granularity = granularity

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "granularity": self.granularity}

    def _patch(self, denoiser: nn.Module) -> None:
        blocks = _transformer_blocks(denoiser)
        self.series = {}
        if self.granularity == "branches":
            for index, block in enumerate(blocks):
                for branch in BRANCHES:
                    if (module := getattr(block, branch, None)) is not None:
                        self._patch_branch(f"transformer_blocks.{index}.{branch}", module)
        else:
            self._patch_blocks(blocks)

    def _patch_branch(self, name: str, module: nn.Module) -> None:
        series = self._new_series(name)

        def make(original: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
                if self._predicting:
                    return series.predict(self._evaluation)
                result: torch.Tensor = original(*args, **kwargs)
                if self._recording:
                    series.record(self._evaluation, result)
                return result

            return forward

        self._replace(name, module, make)

    def _patch_blocks(self, blocks: list[nn.Module]) -> None:
        series = self._new_series("transformer_blocks")
        last = len(blocks) - 1
        entered: list[torch.Tensor] = []

        def make(index: int, original: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> torch.Tensor:
                hidden: torch.Tensor = args[0] if args else kwargs["hidden_states"]
                if self._predicting:
                    return hidden + series.predict(self._evaluation) if not index else hidden
                recording = self._recording
                if recording and not index:
                    entered[:] = [hidden]
                result: torch.Tensor = original(*args, **kwargs)
                if recording and index == last:
                    series.record(self._evaluation, result - entered.pop())
                return result

            return forward

        for index, block in enumerate(blocks):
            self._replace(f"transformer_blocks.{index}", block, partial(make, index))


def _transformer_blocks(denoiser: nn.Module) -> list[nn.Module]:
    from diffusers.models.attention import BasicTransformerBlock

    blocks = getattr(denoiser, "transformer_blocks", None)
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        raise TypeError(
            f"TaylorCache needs a model with transformer_blocks, such as DiT or PixArt, not {type(denoiser).__name__}; "
            "for a U-Net use DeepCache"
        )
    for block in blocks:
        if not isinstance(block, BasicTransformerBlock):
            raise TypeError(f"TaylorCache knows BasicTransformerBlock, not {type(block).__name__}")
    return list(blocks)
