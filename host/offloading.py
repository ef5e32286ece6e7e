"""Move the Linear layers of an existing model to an accelerator, and back."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .accelerator import Accelerator
from .quantization import ActivationObserver, Clipping, quantize_activation, quantize_weight

FilterFn = Callable[[nn.Linear, str], bool]
"""Tells whether a layer, given with its dotted name, is offloaded."""

LayerObserver = Callable[[str, torch.Tensor], None]
"""Called with the name of a layer and the int32 (M, N) sums of each call."""


@dataclass(frozen=True)
class LayerReport:
    """What one offloaded layer has done.

    Attributes
    ----------
    name : str
        Dotted name in the model.
    in_features, out_features : int
        K and N of its products.
    calls, rows : int
        Products, and the rows (M) of all of them.
    macs, ideal_cycles : int
        Useful multiply-accumulates; cycles of an array that is never idle.
    cycles : int
        Cycles of all its commands.
    """

    name: str
    in_features: int
    out_features: int
    calls: int
    rows: int
    macs: int
    ideal_cycles: int
    cycles: int

    @property
    def utilisation(self) -> float | None:
        """Ideal cycles over cycles; None before the first call."""
        return self.ideal_cycles / self.cycles if self.cycles else None


class _CallSite:
    """Ties an offloaded layer to its accelerator, its resident weights and its counts."""

    def __init__(self, name: str, accelerator: Accelerator, weight: torch.Tensor, observer: LayerObserver | None):
        self.name = name
        self.accelerator = accelerator
        self.observer = observer
        self.load(weight)
        self.calls = self.rows = 0
        self.counts = {"macs": 0, "ideal_cycles": 0, "cycles": 0}

    def load(self, weight: torch.Tensor) -> None:
        """Make int8 (N, K) `weight` resident."""
        self.weights = self.accelerator.upload(weight.T)

    def product(self, rows: torch.Tensor) -> torch.Tensor:
        """int8 (M, K) to int32 (M, N), counted."""
        before = self.accelerator.stats
        sums = self.accelerator.gemm(rows, self.weights)
        after = self.accelerator.stats
        self.calls += 1
        self.rows += rows.shape[0]
        for name in self.counts:
            self.counts[name] += int(after[name] - before[name])
        if self.observer is not None:
            self.observer(self.name, sums)
        return sums


_call_sites: weakref.WeakValueDictionary[int, _CallSite] = weakref.WeakValueDictionary()
_call_site_numbers = itertools.count()


@torch.library.custom_op("brownout::int8_linear", mutates_args=())
def int8_linear(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, input_scale: float, call_site: int
) -> torch.Tensor:
    """Quantise, multiply on the accelerator, scale back and add the bias.

    Parameters
    ----------
    values : torch.Tensor
        Floating-point (..., K).
    scale : torch.Tensor
        float32 (N,): value of one step of each sum.
    bias : torch.Tensor, optional
        (N,).
    input_scale : float
        Value of one step of the quantised input.
    call_site : int
        Number of the offloaded layer whose resident weights are used.

    Returns
    -------
    torch.Tensor
        (..., N), dtype of `values`.
    """
    site = _call_sites.get(call_site)
    if site is None:
        raise RuntimeError("this layer is no longer offloaded; it was restored or deleted")
    rows = quantize_activation(values, input_scale).reshape(-1, values.shape[-1])
    # Two steps, not a fused multiply-add: a vector unit may fuse where the scalar tail of the same loop does not.
    result = site.product(rows).to(torch.float32) * scale
    if bias is not None:
        result = result + bias
    return result.to(values.dtype).reshape(*values.shape[:-1], scale.shape[0])


@int8_linear.register_fake
def _(
    values: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, input_scale: float, call_site: int
) -> torch.Tensor:
    return values.new_empty((*values.shape[:-1], scale.shape[0]))


class OffloadedLinear(nn.Module):
    """A Linear layer whose product runs on an accelerator; made by `offload`.

    Its ``state_dict`` holds the int8 weights (N, K), their scales (N,), the input scale and the bias; loading one
    updates the accelerator too.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor

    def __init__(
        self,
        linear: nn.Linear,
        name: str,
        accelerator: Accelerator,
        input_scale: float,
        observer: LayerObserver | None,
    ) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        weight, scale = quantize_weight(linear.weight)
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", torch.tensor(input_scale, dtype=torch.float64))
        self.bias = linear.bias
        # In a tuple, so that the layer that `restore` puts back is no submodule of this one.
        self.replaced = (linear,)
        self.site = _CallSite(name, accelerator, weight, observer)
        self.site_number = next(_call_site_numbers)
        _call_sites[self.site_number] = self.site
        self._fold_scales()
        self.register_load_state_dict_post_hook(OffloadedLinear._reload)

    def _fold_scales(self) -> None:
        self.step = float(self.input_scale)
        self.register_buffer("output_scale", self.weight_scale * self.step, persistent=False)

    def _reload(self, _incompatible: Any) -> None:
        self.site.load(self.weight)
        self._fold_scales()

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Map (..., K) to (..., N)."""
        return int8_linear(values, self.output_scale, self.bias, self.step, self.site_number)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"accelerator={self.site.accelerator!r}"
        )


def _selected(module: nn.Module, filter_fn: FilterFn | None) -> dict[nn.Linear, str]:
    if isinstance(module, nn.Linear):
        raise TypeError("a Linear layer cannot be replaced in place; offload the module that holds it")
    # A layer that is in several places comes once, under its first name.
    layers = {layer: name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    selected = {layer: name for layer, name in layers.items() if filter_fn is None or filter_fn(layer, name)}
    if not selected:
        raise ValueError(f"{type(module).__name__} has no Linear layer to offload")
    return selected


def _replace(module: nn.Module, replacements: Mapping[Any, nn.Module]) -> None:
    """Exchange layers in all places where they are."""
    for parent in list(module.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, attribute, replacements[child])


def calibrate(
    module: nn.Module,
    run: Callable[[nn.Module], Any],
    *,
    filter_fn: FilterFn | None = None,
    clipping: Clipping = "mse",
) -> dict[str, float]:
    """Choose the input scale of every Linear layer from what it sees in a run.

    Parameters
    ----------
    module : nn.Module
        The model, not offloaded.
    run : callable
        Called with `module`; runs it on representative data.
    filter_fn : callable, optional
        ``filter_fn(layer, name)`` selects layers; by default all.
    clipping : {"absmax", "mse"}
        How the scale follows from what was seen; see `ActivationObserver.scale`. On the `digits` model ``"mse"`` left
        pictures 1 to 2 dB closer to float32 than ``"absmax"``.

    Returns
    -------
    dict
        Dotted name to scale: the `calibration` of `offload`.

    Raises
    ------
    TypeError
        `module` is itself a Linear layer.
    ValueError
        No layer is selected, or `run` did not reach one.
    """
    layers = _selected(module, filter_fn)
    observers = {layer: ActivationObserver() for layer in layers}
    called = set()

    def watch(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, nn.Linear)
        called.add(layer)
        observers[layer].update(inputs[0])

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        with torch.no_grad():
            run(module)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, name in layers.items():
        if layer not in called:
            raise ValueError(
                f"layer {name!r} was not called during calibration; "
                "run it in the calibration, or exclude it with filter_fn"
            )
    return {name: observers[layer].scale(clipping) for layer, name in layers.items()}


def offload(
    module: nn.Module,
    accelerator: Accelerator,
    *,
    calibration: Callable[[nn.Module], Any] | Mapping[str, float],
    filter_fn: FilterFn | None = None,
    observer: LayerObserver | None = None,
) -> None:
    """Replace Linear layers, in place, by int8 versions that run on an accelerator.

    Weights are quantised per output channel, inputs with one static scale per layer; the bias is added in PyTorch.
    If anything fails, the model is as before.

    Parameters
    ----------
    module : nn.Module
        The model; diffusers models work unchanged.
    accelerator : Accelerator
        Where products run; it must stay open until `restore`.
    calibration : callable or mapping
        Runs the model on representative data (see `calibrate`), or the scales that a calibration returned.
    filter_fn : callable, optional
        ``filter_fn(layer, name)`` selects layers; by default all.
    observer : callable, optional
        ``observer(name, sums)`` sees the int32 (M, N) sums of every product.

    Raises
    ------
    TypeError
        `module` is itself a Linear layer.
    ValueError
        No layer is selected, or one has no scale.
    DeviceMemoryError
        The weights do not fit the accelerator's DRAM.
    """
    layers = _selected(module, filter_fn)
    if callable(calibration):
        scales: Mapping[str, float] = calibrate(module, calibration, filter_fn=filter_fn)
    else:
        scales = calibration
    for name in layers.values():
        if name not in scales:
            raise ValueError(f"calibration has no scale for layer {name!r}; calibrate it, or exclude it with filter_fn")
    replacements = {
        layer: OffloadedLinear(layer, name, accelerator, scales[name], observer) for layer, name in layers.items()
    }
    _replace(module, replacements)


def restore(module: nn.Module) -> None:
    """Undo `offload`: the original layers, with their own float weights, are back in place."""
    offloaded = [layer for layer in module.modules() if isinstance(layer, OffloadedLinear)]
    _replace(module, {layer: layer.replaced[0] for layer in offloaded})


def report(module: nn.Module) -> list[LayerReport]:
    """What each offloaded layer has done since `offload`, in the order of the model."""
    return [
        LayerReport(
            name=layer.site.name,
            in_features=layer.in_features,
            out_features=layer.out_features,
            calls=layer.site.calls,
            rows=layer.site.rows,
            macs=layer.site.counts["macs"],
            ideal_cycles=layer.site.counts["ideal_cycles"],
            cycles=layer.site.counts["cycles"],
        )
        for layer in module.modules()
        if isinstance(layer, OffloadedLinear)
    ]
