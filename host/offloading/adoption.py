"""What an offloaded layer takes over from the float layer that it replaces, beside weights and bias."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)
"""Registries of a module's hooks; those of its ``state_dict`` are about the float layer's."""


def adopt(ours: nn.Module, layer: nn.Module) -> None:
    """Give an offloaded layer the hooks, further tensors and attributes of a float layer.

    The registries of hooks are the same objects: a handle from before removes its hook from both, and a hook that is
    registered with one of them is the other's too. Hooks are called in their order, with the offloaded layer as their
    module. A weight that hooks or a parametrisation compute is computed for the offloaded layer, and quantised again
    when it has changed. Attributes that both have are the offloaded layer's.
    """
    if "weight" not in layer._parameters:
        _compute_weight(ours, layer)
    for name in _HOOKS:
        ours.__dict__[name] = layer.__dict__[name]
    ours._is_full_backward_hook = layer._is_full_backward_hook
    ours.training = layer.training
    for registry in ("_parameters", "_buffers", "_modules"):
        for name, value in getattr(layer, registry).items():
            if not hasattr(ours, name):
                getattr(ours, registry)[name] = value
    for name, value in layer.__dict__.items():
        if not name.startswith("_") and not hasattr(ours, name):
            ours.__dict__[name] = value


def _compute_weight(ours: nn.Module, layer: nn.Module) -> None:
    """Let the weight of an offloaded layer be made at each call, as the float layer's, from the same tensors."""
    del ours._parameters["weight"]
    if is_parametrized(layer, "weight"):

        def weight(self: Any) -> Any:
            return self.parametrizations.weight()

        # As `torch.nn.utils.parametrize` does with the float layer.
        ours.__class__ = type(f"Parametrized{type(ours).__name__}", (type(ours),), {"weight": property(weight)})
    else:
        # Pre-hooks, which are called with the offloaded layer, set it anew.
        ours.__dict__["weight"] = layer.weight
