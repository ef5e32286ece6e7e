"""Step caching for U-Nets: deep features are used again, shallow layers are computed (DeepCache)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..storage.state import State
from .step_cache import Forward, StepCache

FEATURES = "features"
"""Name of the one series: what enters the shallow part of the way up."""


@dataclass(frozen=True)
class _Skipped:
    """A module that is not evaluated where features are predicted; the last one on the way up delivers them."""

    name: str
    module: nn.Module
    delivers: bool = False


class DeepCache(StepCache):
    """Uses what the deep part of a U-Net has computed again (Ma et al., arXiv 2312.00858).

    For diffusers' ``UNet2DConditionModel`` and others with ``down_blocks``, ``mid_block`` and ``up_blocks`` made of
    ``resnets`` and ``attentions``. The one tensor that enters the shallow part from below is kept; it may be
    extrapolated too.

    Parameters
    ----------
    interval, order, damping, warmup
        As in `StepCache`; published are order 0 and no warm-up beyond the first evaluation.
    depth : int
        Skip connections whose layers are computed in every evaluation, the outermost being that of ``conv_in``: with 1
        the last layer of the last up block alone; with d also the first d - 1 layers of the way down, where resnet
        and attention are one layer and a downsampler is one.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    def __init__(self, *, interval: int, order: int = 0, damping: float = 1.0, warmup: int = 1, depth: int = 1) -> None:
        super().__init__(interval=interval, order=order, damping=damping, warmup=warmup)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be an integer >= 1, not {depth!r}")
        self.depth = depth
        self._forms: dict[str, Any] = {}

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "depth": self.depth}

    def _patch(self, denoiser: nn.Module) -> None:
        for part in ("down_blocks", "mid_block", "up_blocks"):
            if not isinstance(getattr(denoiser, part, None), nn.Module):
                raise TypeError(
                    f"DeepCache needs a U-Net with {part}, not {type(denoiser).__name__}; "
                    "for a transformer use TaylorCache"
                )
        self.series, self._forms = {}, {}
        self._new_series(FEATURES)
        for skipped in (*self._down(denoiser), *self._up(denoiser)):
            self._patch_module(skipped)

    def _down(self, denoiser: Any) -> Iterator[_Skipped]:
        computed = self.depth - 1
        for index, block in enumerate(denoiser.down_blocks):
            name = f"down_blocks.{index}"
            samplers = list(block.downsamplers or []) if hasattr(block, "downsamplers") else []
            if computed <= 0:
                yield _Skipped(name, block)
            elif computed < len(_layers(block, name)) + len(samplers):
                for layer, modules in enumerate(_layers(block, name)):
                    if layer >= computed:
                        yield from (_Skipped(f"{name}.{part}.{layer}", module) for part, module in modules)
                yield from (_Skipped(f"{name}.downsamplers.{i}", module) for i, module in enumerate(samplers))
            computed -= len(block.resnets) + len(samplers)
        yield _Skipped("mid_block", denoiser.mid_block)

    def _up(self, denoiser: Any) -> Iterator[_Skipped]:
        layers = [len(block.resnets) for block in denoiser.up_blocks]
        skipped = sum(layers) - self.depth
        if skipped < 1:
            raise ValueError(
                f"depth must be below {sum(layers)}, the number of this model's skip connections, not {self.depth}"
            )
        for index, block in enumerate(denoiser.up_blocks):
            name = f"up_blocks.{index}"
            if skipped >= layers[index]:
                yield _Skipped(name, block, delivers=skipped == layers[index])
            elif skipped > 0:
                modules = [
                    (f"{name}.{part}.{layer}", module)
                    for layer, parts in enumerate(_layers(block, name)[:skipped])
                    for part, module in parts
                ]
                for place, (each, module) in enumerate(modules):
                    yield _Skipped(each, module, delivers=place == len(modules) - 1)
            skipped -= layers[index]

    def _patch_module(self, skipped: _Skipped) -> None:
        name, series = skipped.name, self.series[FEATURES]

        def make(original: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if self._predicting:
                    if skipped.delivers:
                        features = series.predict(self._evaluation)
                        return (features,) if isinstance(self._forms[name], list) else features
                    given = next(each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor))
                    return _placeholder(self._forms[name], given.device)
                result = original(*args, **kwargs)
                if self._recording:
                    self._forms[name] = _form(result)
                    if skipped.delivers:
                        series.record(self._evaluation, result[0] if isinstance(result, tuple) else result)
                return result

            return forward

        self._replace(name, skipped.module, make)

    def state(self) -> State:
        state = super().state()
        return State({**state.values, "forms": dict(self._forms)}, state.tensors)

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self._forms = dict(state.values["forms"])


def _layers(block: Any, name: str) -> list[list[tuple[str, nn.Module]]]:
    """Modules of each layer of a block, by their names in it: a resnet, and an attention if it has one."""
    resnets, attentions = list(block.resnets), list(getattr(block, "attentions", None) or [])
    if attentions and len(attentions) != len(resnets):
        raise TypeError(f"DeepCache cannot divide {name}: it has {len(resnets)} resnets, {len(attentions)} attentions")
    return [
        [("resnets", resnet), *([("attentions", attentions[index])] if attentions else [])]
        for index, resnet in enumerate(resnets)
    ]


def _form(result: Any) -> Any:
    """Shapes and dtype of a tensor or of tuples of them, as JSON can hold it."""
    if isinstance(result, tuple):
        return [_form(each) for each in result]
    return {"shape": list(result.shape), "dtype": str(result.dtype).removeprefix("torch.")}


def _placeholder(form: Any, device: torch.device) -> Any:
    """Of that form, with one element of memory: what skipped modules pass on is read by skipped modules only."""
    if isinstance(form, list):
        return tuple(_placeholder(each, device) for each in form)
    return torch.zeros((), dtype=getattr(torch, form["dtype"]), device=device).expand(form["shape"])
