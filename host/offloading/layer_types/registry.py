"""The registry of layer types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..layer_calibration import ATTENTION
from .base import LayerType

Type = TypeVar("Type", bound=LayerType[Any])

_TYPES: dict[type[nn.Module], LayerType[Any]] = {}


def register_layer_type(layer_class: type[nn.Module]) -> Callable[[type[Type]], type[Type]]:
    """Decorator of a `LayerType`: from now on it takes over the layers of a class.

    Parameters
    ----------
    layer_class : type
        Class of the float layers.

    Raises
    ------
    ValueError
        Another type takes over this class, or has this kind.
    """

    def register(found: type[Type]) -> type[Type]:
        if layer_class in _TYPES:
            raise ValueError(
                f"{type(_TYPES[layer_class]).__name__} takes over layers of class {layer_class.__name__} already"
            )
        if found.kind in _kinds():
            raise ValueError(f"kind {found.kind!r} of {found.__name__} is taken; choose another")
        _TYPES[layer_class] = found(layer_class)
        return found

    return register


def find_layer_type(module: nn.Module) -> LayerType[Any] | None:
    """The type of a layer, which is that of the nearest of its base classes; None: nobody has registered one."""
    return next((_TYPES[each] for each in type(module).__mro__ if each in _TYPES), None)


def layer_type_of(layer: nn.Module) -> LayerType[Any]:
    """The type of a layer.

    Raises
    ------
    TypeError
        Nobody has registered one.
    """
    found = find_layer_type(layer)
    if found is None:
        raise TypeError(f"{type(layer).__name__} is no layer that can be offloaded")
    return found


def layer_type_of_kind(kind: str) -> LayerType[Any] | None:
    """The type whose kind this is; None for attention, and for kinds that nobody has registered."""
    return next((each for each in _TYPES.values() if each.kind == kind), None)


def layer_classes() -> str:
    """Names of the classes that are taken over, those of tokens first, for messages: "Linear or Conv2d"."""
    # Not in the order of registration, which is that of imports.
    *others, last = (each.layer_class.__name__ for each in sorted(_TYPES.values(), key=lambda each: each.of_pixels))
    return f"{', '.join(others)} or {last}" if others else last


def check_kind(name: str, kind: str) -> None:
    """Refuse a kind that nobody has registered.

    Parameters
    ----------
    name : str
        Name of the layer.
    kind : str
        Its kind in a file.

    Raises
    ------
    ValueError
        There is no such kind.
    """
    if kind not in _kinds():
        raise ValueError(
            f"layer {name!r} is of kind {kind!r}, which is none of {', '.join(map(repr, _kinds()))}; "
            "import the module that registers its type first"
        )


def _kinds() -> tuple[str, ...]:
    return (*(each.kind for each in _TYPES.values()), ATTENTION)
