"""What offloaded Linear and Conv2d layers have in common: int8 weights, scales, and what follows from them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from ..quantization import quantize_weight
from .calibration import LayerCalibration
from .products import OffloadedModel, OffloadedProduct, register

_SCALES = ("weight_scale", "input_scale", "smoothing")


class OffloadedLayer(nn.Module, abc.ABC):
    """A layer whose product runs on an accelerator.

    Its ``state_dict`` holds ``weight`` (int8, shape of the float layer's), ``weight_scale`` (float32, per output
    channel), ``input_scale`` (float64, per timestep group), ``smoothing`` (float32, per input channel, if any) and
    ``bias``; loading one updates the accelerator too. Scales keep their dtype when the model is converted.

    Parameters
    ----------
    layer : nn.Module
        The float layer, which `restore` puts back.
    weight : torch.Tensor
        Its weights, (N, ...), times smoothing.
    model : OffloadedModel
        To which it belongs.
    name : str
        Its name there.
    calibration : LayerCalibration
        Its scales.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    smoothing: torch.Tensor | None
    multiplier: torch.Tensor
    output_scale: torch.Tensor

    def __init__(
        self,
        layer: nn.Module,
        weight: torch.Tensor,
        model: OffloadedModel,
        name: str,
        calibration: LayerCalibration,
    ) -> None:
        super().__init__()
        quantized, scale = quantize_weight(weight.flatten(1))
        self.register_buffer("weight", quantized.view(weight.shape))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("input_scale", calibration.scales.to(weight.device, copy=True))
        smoothing = calibration.smoothing
        self.register_buffer("smoothing", None if smoothing is None else smoothing.to(weight.device, copy=True))
        bias = layer.bias
        assert bias is None or isinstance(bias, nn.Parameter)
        self.bias = bias
        # In a tuple, so that the layer that `restore` puts back is no submodule of this one.
        self.replaced = (layer,)
        self.model = model
        self.product = OffloadedProduct(model, name, calibration.kind, calibration.sqnr_db)
        self.number = register(self)
        self._load()
        self.register_load_state_dict_post_hook(OffloadedLayer._reload)

    @abc.abstractmethod
    def matrix(self) -> torch.Tensor:
        """int8 weights as the accelerator wants them, (K, N) or (groups, K, N)."""

    def _load(self) -> None:
        self.product.load(self.matrix(), self.input_scale.tolist())
        steps = self.input_scale[:, None]
        divisor = steps if self.smoothing is None else steps * self.smoothing
        # Rounded once: scales are float64.
        self.register_buffer("multiplier", (1 / divisor).to(torch.float32), persistent=False)
        self.register_buffer("output_scale", (self.weight_scale * steps).to(torch.float32), persistent=False)

    def _reload(self, _incompatible: Any) -> None:
        self._load()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name) for name in _SCALES}
        super()._apply(fn, recurse)
        for name, scale in before.items():
            if scale is not None:
                setattr(self, name, scale.to(self.weight.device))
        # On another device the weights have to be resident once more.
        self._load()
        return self

    @property
    def present_group(self) -> torch.Tensor | None:
        """Timestep group, as `TimestepGroups.present`."""
        return self.model.groups.present
