"""Put a model on an accelerator, and take it back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..accelerator import Accelerator
from .attention import SUBMODULE, AttentionCall, OffloadedAttention
from .calibrate import calibrate, kind_of
from .calibration import Calibration, LayerCalibration
from .conv import OffloadedConv2d
from .layer import OffloadedLayer
from .linear import OffloadedLinear
from .products import OffloadedModel, ProductObserver
from .selection import FilterFn, call_name, select_layers
from .timesteps import TimestepGroups

_STATE = "_brownout"
"""Attribute of an offloaded module."""


def _replace(module: nn.Module, replacements: Mapping[Any, nn.Module]) -> None:
    """Exchange layers in all places where they are."""
    for parent in list(module.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, attribute, replacements[child])


def _attention_owners(
    module: nn.Module, filter_fn: FilterFn | None, calibration: Calibration
) -> dict[nn.Module, tuple[str, list[LayerCalibration]]]:
    """Selected modules that called attention in the calibration: name, and scales of their calls in order."""
    calls: dict[str, list[LayerCalibration]] = defaultdict(list)
    for name, layer in calibration.layers.items():
        if layer.kind == "attention":
            calls[name.partition("#")[0]].append(layer)
    modules = dict(module.named_modules())
    owners = {}
    for name in calls:
        if name not in modules:
            raise ValueError(
                f"calibration has scales for attention in {name!r}, but {type(module).__name__} has no such module; "
                "calibrate this model"
            )
        if filter_fn is None or filter_fn(modules[name], name):
            each = [calibration.layers[call_name(name, index)] for index in range(len(calls[name]))]
            owners[modules[name]] = (name, each)
    return owners


def _check_scales(name: str, kind: str, calibration: Calibration) -> None:
    layer = calibration.layers.get(name)
    if layer is None:
        raise ValueError(f"calibration has no scale for layer {name!r}; calibrate it, or exclude it with filter_fn")
    if layer.kind != kind:
        raise ValueError(f"calibration knows {name!r} as {layer.kind!r}, but it is {kind!r}; calibrate this model")


def offload(
    module: nn.Module,
    accelerator: Accelerator,
    *,
    calibration: Callable[[nn.Module], Any] | Calibration,
    filter_fn: FilterFn | None = None,
    observer: ProductObserver | None = None,
) -> OffloadedModel:
    """Let Linear and Conv2d layers and attention, in place, run in int8 on an accelerator.

    Weights are quantised per output channel, inputs with static scales; bias and softmax stay in PyTorch's float32.
    If anything fails, the model is as before.

    Parameters
    ----------
    module : nn.Module
        The model; diffusers models work unchanged.
    accelerator : Accelerator
        Where products run; it must stay open until `restore`.
    calibration : callable or Calibration
        Runs the model on representative data (see `calibrate`), or what a calibration returned.
    filter_fn : callable, optional
        ``filter_fn(layer, name)`` selects Linear and Conv2d layers and modules that call
        ``F.scaled_dot_product_attention``; by default all.
    observer : callable, optional
        ``observer(name, sums)`` sees the int32 sums of every product, (M, N) or (B, M, N), valid until it returns.

    Returns
    -------
    OffloadedModel
        What the layers share; also `offloaded_model` of `module`.

    Raises
    ------
    TypeError
        `module` is itself a layer.
    ValueError
        It is offloaded already, no layer is selected, one has no scale, or one cannot be offloaded.
    DeviceMemoryError
        The weights do not fit the accelerator's DRAM.
    """
    if hasattr(module, _STATE):
        raise ValueError(f"{type(module).__name__} is offloaded already; call restore first")
    layers = select_layers(module, filter_fn)
    if not isinstance(calibration, Calibration):
        calibration = calibrate(module, calibration, filter_fn=filter_fn)
    owners = _attention_owners(module, filter_fn, calibration)
    if not layers and not owners:
        raise ValueError(f"{type(module).__name__} has no layer to offload")
    for layer, name in layers.items():
        _check_scales(name, kind_of(layer), calibration)
    model = OffloadedModel(accelerator, TimestepGroups(calibration.timestep_bounds), observer)
    replacements: dict[nn.Module, OffloadedLayer] = {}
    calls: dict[nn.Module, list[AttentionCall]] = {}
    try:
        # In the order of the model, so that products are numbered alike in every run.
        for each in module.modules():
            if each in owners:
                name, scales = owners[each]
                device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
                calls[each] = [
                    AttentionCall(model, call_name(name, index), scale, device) for index, scale in enumerate(scales)
                ]
            if isinstance(each, nn.Linear) and each in layers:
                replacements[each] = OffloadedLinear(each, model, layers[each], calibration.layers[layers[each]])
            elif isinstance(each, nn.Conv2d) and each in layers:
                replacements[each] = OffloadedConv2d(each, model, layers[each], calibration.layers[layers[each]])
    except BaseException:
        for replacement in replacements.values():
            replacement.release()
        for product in model.products:
            product.weights = None
        raise
    _replace(module, replacements)
    for owner, each_call in calls.items():
        OffloadedAttention(owner, owners[owner][0], each_call)
    handle = model.groups.watch(module) if model.groups.present is not None else None
    object.__setattr__(module, _STATE, (model, calibration, handle))
    return model


def restore(module: nn.Module) -> None:
    """Undo `offload`: the original layers, with their own float weights, are back in place."""
    for each in list(module.modules()):
        attention = each._modules.get(SUBMODULE)
        if isinstance(attention, OffloadedAttention):
            attention.remove(each)
    offloaded = [layer for layer in module.modules() if isinstance(layer, OffloadedLayer)]
    _replace(module, {layer: layer.replaced[0] for layer in offloaded})
    for layer in offloaded:
        layer.release()
    if hasattr(module, _STATE):
        model, _, handle = getattr(module, _STATE)
        for product in model.products:
            # Frees device memory now, not when the garbage collector comes by.
            product.weights = None
        if handle is not None:
            handle.remove()
        object.__delattr__(module, _STATE)


def offloaded_model(module: nn.Module) -> OffloadedModel:
    """What the layers of an offloaded module share.

    Raises
    ------
    ValueError
        It is not offloaded.
    """
    model: OffloadedModel = _state(module)[0]
    return model


def is_offloaded(module: nn.Module) -> bool:
    """Whether `offload` was called for `module`."""
    return hasattr(module, _STATE)


def calibration_of(module: nn.Module) -> Calibration:
    """The calibration with which `module` was offloaded; raises as `offloaded_model`."""
    calibration: Calibration = _state(module)[1]
    return calibration


def _state(module: nn.Module) -> tuple[Any, ...]:
    if not hasattr(module, _STATE):
        raise ValueError(f"{type(module).__name__} is not offloaded; call offload first")
    state: tuple[Any, ...] = getattr(module, _STATE)
    return state
