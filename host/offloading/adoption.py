"""What an offloaded layer takes over from the float layer that it replaces, beside weights and bias."""

from __future__ import annotations

from torch import nn

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
    module. Attributes that both have are the offloaded layer's.
    """
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
