"""Which layers of a model are offloaded, and where it calls attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

FilterFn = Callable[[nn.Module, str], bool]
"""Tells whether a layer, given with its dotted name, is offloaded.

It is asked for every Linear and Conv2d, and for every module that calls ``F.scaled_dot_product_attention`` itself.
"""

AttentionWatcher = Callable[[nn.Module, int, Callable[..., torch.Tensor], tuple[Any, ...], dict[str, Any]], Any]
"""``watch(owner, index, function, args, kwargs)``: sees a call of attention and returns its result."""


def supported_layers(module: nn.Module) -> dict[nn.Module, str]:
    """Linear and Conv2d layers, with their names; one that is in several places comes once, under its first name."""
    return {layer: name for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))}


def select_layers(module: nn.Module, filter_fn: FilterFn | None) -> dict[nn.Module, str]:
    """Linear and Conv2d layers that are to be offloaded, with their names.

    Raises
    ------
    TypeError
        `module` is itself such a layer.
    ValueError
        A layer cannot be offloaded.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        raise TypeError(
            f"a {type(module).__name__} layer cannot be replaced in place; offload the module that holds it"
        )
    layers = supported_layers(module)
    selected: dict[nn.Module, str] = {
        layer: name for layer, name in layers.items() if filter_fn is None or filter_fn(layer, name)
    }
    for layer, name in selected.items():
        if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
            raise ValueError(
                f"layer {name!r} has padding_mode={layer.padding_mode!r}, which cannot be offloaded; "
                "exclude it with filter_fn"
            )
    return selected


class _Watch(TorchFunctionMode):
    def __init__(self, stack: list[list[Any]], watcher: AttentionWatcher) -> None:
        super().__init__()
        self.stack, self.watcher = stack, watcher

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not self.stack:
            return func(*args, **kwargs)
        owner, index = self.stack[-1]
        self.stack[-1][1] += 1
        return self.watcher(owner, index, func, args, kwargs)


@contextlib.contextmanager
def watch_attention(module: nn.Module, watcher: AttentionWatcher) -> Iterator[None]:
    """Call `watcher` in place of each call of attention; the owner is the innermost module that is being evaluated."""
    stack: list[list[Any]] = []

    def enter(owner: nn.Module, _: Any) -> None:
        stack.append([owner, 0])

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for each in module.modules():
        handles.append(each.register_forward_pre_hook(enter))
        handles.append(each.register_forward_hook(leave, always_call=True))
    try:
        with _Watch(stack, watcher):
            yield
    finally:
        for handle in handles:
            handle.remove()


def call_name(owner: str, index: int) -> str:
    """Name of a module's attention call: the module's, and from the second on its number."""
    return owner if index == 0 else f"{owner}#{index}"
