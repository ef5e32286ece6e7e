"""Which layers of a model are offloaded, which cannot be, and where it calls attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from ..errors import OffloadError
from .layer_types import find_layer_type, layer_type_of
from .weights import is_shared

FilterFn = Callable[[nn.Module, str], bool]
"""Tells whether a layer, given with its dotted name, is offloaded.

It is asked for every layer of a registered type, and for every module that calls ``F.scaled_dot_product_attention``
itself.
"""

AttentionWatcher = Callable[[nn.Module, int, Callable[..., torch.Tensor], tuple[Any, ...], dict[str, Any]], Any]
"""``watch(owner, index, function, args, kwargs)``: sees a call of attention and returns its result."""

EXCLUDED = "filter_fn excludes it"

ONLY_ZEROS = "calibration gave it only zeros"
"""Beginning of a reason."""

_CALLED = ("_call_impl", "_wrapped_call_impl", "__call__")
"""Methods that decide what a call of any module computes."""


@dataclass(frozen=True)
class Selection:
    """What becomes of the layers of registered types in a model.

    Attributes
    ----------
    layers : dict of nn.Module to str
        Layers to offload, with their names.
    left : dict of nn.Module to (str, str)
        Name and reason of those that stay in float.
    """

    layers: dict[nn.Module, str]
    left: dict[nn.Module, tuple[str, str]]


def supported_layers(module: nn.Module) -> dict[nn.Module, str]:
    """Layers of registered types, with their names; one that is in several places comes once, under its first name."""
    return {layer: name for name, layer in module.named_modules() if find_layer_type(layer) is not None}


def reason_against(layer: nn.Module) -> str | None:
    """Why a layer computes something else than its weights say, as far as can be seen without a call.

    Hooks are no reason: they stay, and are called.
    """
    layer_type = layer_type_of(layer)
    for method in (*layer_type.methods, *_CALLED):
        if method in layer.__dict__:
            return f"its {method} was replaced (by accelerate, peft, or a fault injector, for example)"
        if getattr(type(layer), method, None) is not getattr(layer_type.layer_class, method, None):
            return f"{type(layer).__name__} has a {method} of its own"
    if is_parametrized(layer, "bias"):
        return "its bias has a parametrisation"
    return layer_type.reason_against(layer)


def exclusion(names: list[str]) -> str:
    """The ``filter_fn`` that leaves out layers of these names, as source text."""
    if len(names) == 1:
        return f"filter_fn=lambda layer, name: name != {names[0]!r}"
    return f"filter_fn=lambda layer, name: name not in {{{', '.join(map(repr, names))}}}"


def select_layers(module: nn.Module, filter_fn: FilterFn | None) -> Selection:
    """Sort the layers of registered types in a model.

    Raises
    ------
    TypeError
        `module` is itself such a layer.
    OffloadError
        Its weights are not there, or a layer's are of a kind that cannot be quantised.
    """
    if find_layer_type(module) is not None:
        raise TypeError(
            f"a {type(module).__name__} layer cannot be replaced in place; offload the module that holds it"
        )
    _check_present(module)
    selection = Selection({}, {})
    for layer, name in supported_layers(module).items():
        if filter_fn is not None and not filter_fn(layer, name):
            selection.left[layer] = name, EXCLUDED
        elif (reason := reason_against(layer)) is not None:
            selection.left[layer] = name, reason
        else:
            _check_weight(layer, name)
            selection.layers[layer] = name
    return selection


def _check_present(module: nn.Module) -> None:
    for name, each in module.named_modules():
        hook = getattr(each, "_hf_hook", None)
        if any(getattr(one, "offload", False) for one in getattr(hook, "hooks", (hook,))):
            raise OffloadError(
                f"{name!r} has its weights elsewhere between calls (accelerate's sequential CPU offload); load the "
                "model without it, or undo it with accelerate.hooks.remove_hook_from_module(model, recurse=True)",
                name,
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise OffloadError(
                f"{name!r} is on the meta device and has no values; load the model's weights first "
                "(model.to_empty(device='cpu'), then load_state_dict)",
                name.rpartition(".")[0],
            )


def _check_weight(layer: nn.Module, name: str) -> None:
    # Not `layer.weight`: to compute it, as a parametrisation does, may change what it is computed from.
    weight = layer._parameters.get("weight")
    if weight is None:
        return
    remedy = f"offload the float model, or exclude this layer with {exclusion([name])}"
    # A weight that is shared with a layer which is offloaded already is float as well.
    if type(weight) not in (torch.Tensor, nn.Parameter) and not is_shared(weight):
        raise OffloadError(
            f"the weight of layer {name!r} is a {type(weight).__name__}, whose values only its own library knows "
            f"(quantised by torchao, or divided over devices, for example); {remedy}",
            name,
        )
    if not weight.is_floating_point():
        raise OffloadError(f"the weight of layer {name!r} is {weight.dtype}, not floating-point; {remedy}", name)


class Watch(TorchFunctionMode):
    """Sees calls of torch functions while a model is evaluated.

    Attributes
    ----------
    function : str or None
        Name of the function that is being called.
    """

    def __init__(self, stack: list[list[Any]], watcher: AttentionWatcher) -> None:
        super().__init__()
        self.stack, self.watcher = stack, watcher
        self.function: str | None = None

    @property
    def owner(self) -> nn.Module | None:
        """The innermost module that is being evaluated."""
        return self.stack[-1][0] if self.stack else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.stack:
            owner, index = self.stack[-1]
            self.stack[-1][1] += 1
            return self.watcher(owner, index, func, args, kwargs)
        outer, self.function = self.function, getattr(func, "__name__", None)
        try:
            return func(*args, **kwargs)
        finally:
            self.function = outer


@contextlib.contextmanager
def watch_attention(module: nn.Module, watcher: AttentionWatcher) -> Iterator[Watch]:
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
        with Watch(stack, watcher) as watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def call_name(owner: str, index: int) -> str:
    """Name of a module's attention call: the module's, and from the second on its number."""
    return owner if index == 0 else f"{owner}#{index}"
