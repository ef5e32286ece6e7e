"""What a type of layers has to tell so that its layers can be calibrated, offloaded, traced and divided."""

from __future__ import annotations

import abc
from typing import ClassVar, Generic, TypeVar

import torch
from torch import nn

from ...device.product.operands import GemmShape
from ..layer import OffloadedLayer
from ..row_window import RowWindow

Layer = TypeVar("Layer", bound=nn.Module)


class LayerType(abc.ABC, Generic[Layer]):
    """A type of float layers that `offload` takes over; made known with `register_layer_type`.

    Its layers have a parameter ``weight``, (N, C / groups, ...) with output channels first, and ``bias``, a parameter
    (N,) or None. Their ``forward`` has one argument, ``input``, with C channels.

    Parameters
    ----------
    layer_class : type
        Class of the layers. Those of subclasses are taken over too, if they inherit `methods`.

    Attributes
    ----------
    kind : str
        Name in reports and files; once files have it, it stays.
    offloaded : type
        Class of the layers that take their place, a subclass of `OffloadedLayer`, called with the float layer, the
        `OffloadedModel`, the layer's name and its `LayerCalibration`.
    methods : tuple of str
        Methods that decide what a layer computes, beside those of every module.
    channel_axis : int
        Axis of the channels in input and output, from the end.
    of_pixels : bool
        Whether rows of the product are output pixels of images (..., C, H, W), and `row_window` tells what they read;
        otherwise they are tokens, each of which is computed from itself.
    """

    kind: ClassVar[str]
    offloaded: ClassVar[type[OffloadedLayer]]
    methods: ClassVar[tuple[str, ...]] = ("forward",)
    channel_axis: ClassVar[int] = -1
    of_pixels: ClassVar[bool] = False

    def __init__(self, layer_class: type[nn.Module]) -> None:
        self.layer_class = layer_class

    @abc.abstractmethod
    def compute(
        self, layer: Layer, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """What a layer computes, in float.

        Parameters
        ----------
        layer : nn.Module
            The layer, for all that is neither weight nor bias.
        values : torch.Tensor
            Its input.
        weight : torch.Tensor
            Replacement of its weight: float, same shape.
        bias : torch.Tensor, optional
            Replacement of its bias.
        """

    @abc.abstractmethod
    def product_shape(self, layer: Layer, values: torch.Tensor, output: torch.Tensor) -> GemmShape:
        """Extents of the product of a call; tensors may be on the meta device.

        Parameters
        ----------
        layer : nn.Module
            The layer.
        values, output : torch.Tensor
            Its input and output.
        """

    def reason_against(self, layer: Layer) -> str | None:
        """Why a layer of this type stays in float though it has no methods of its own; None: it does not."""
        return None

    def groups(self, layer: Layer) -> int:
        """Groups of channels, each a product of its own."""
        return 1

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The input of a layer as (..., n), so that an output adds up products with elements of one row only."""
        return values

    def row_window(self, layer: Layer) -> RowWindow | None:
        """Rows of pixels that a row of the output reads; None where rows of the product are tokens."""
        return None

    def matrix_shape(self, layer: Layer) -> tuple[int, int, int]:
        """Batch, K and N of a layer's resident weights."""
        outputs, *inputs = weight_of(layer).shape
        groups = self.groups(layer)
        return groups, int(torch.Size(inputs).numel()), outputs // groups

    def channels_last(self, values: torch.Tensor) -> torch.Tensor:
        """An input or output with its channels last."""
        return values.movedim(self.channel_axis, -1)

    def channels_back(self, values: torch.Tensor) -> torch.Tensor:
        """Undo `channels_last`."""
        return values.movedim(-1, self.channel_axis)

    def broadcast_bias(self, layer: Layer) -> torch.Tensor | None:
        """The bias of a layer, broadcastable to its output."""
        bias = bias_of(layer)
        return None if bias is None else bias.view(-1, *[1] * (-1 - self.channel_axis))


def weight_of(layer: nn.Module) -> torch.Tensor:
    """The weight of a layer; one with a parametrisation is computed."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def bias_of(layer: nn.Module) -> torch.Tensor | None:
    """The bias of a layer."""
    bias = layer.bias
    assert bias is None or isinstance(bias, torch.Tensor)
    return bias
