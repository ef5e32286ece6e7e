"""Types of layers that can be offloaded, one a file, and the registry in which they are found by class and by kind."""

from __future__ import annotations

from .base import LayerType, bias_of, weight_of
from .conv2d import Conv2dType
from .linear import LinearType
from .registry import check_kind, find_layer_type, layer_classes, layer_type_of, layer_type_of_kind, register_layer_type

__all__ = [
    "Conv2dType",
    "LayerType",
    "LinearType",
    "bias_of",
    "check_kind",
    "find_layer_type",
    "layer_classes",
    "layer_type_of",
    "layer_type_of_kind",
    "register_layer_type",
    "weight_of",
]
