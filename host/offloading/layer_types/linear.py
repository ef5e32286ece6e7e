"""Linear layers: the operator on an accelerator, the offloaded layer, and their type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ...device.product.operands import GemmShape
from .. import kernels
from ..layer import OffloadedLayer
from ..layer_calibration import LayerCalibration
from ..nonfinite import bad_rows
from ..products import OffloadedModel, check_values, find, in_turn
from .base import LayerType
from .registry import register_layer_type


@torch.library.custom_op("brownout::int8_linear", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
@in_turn
def int8_linear(
    values: torch.Tensor,
    multiplier: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    group: torch.Tensor | None,
    layer: int,
) -> torch.Tensor:
    """Quantise, multiply on the accelerator, scale back and add the bias.

    Tagged as random: equal calls may not be merged, because each has timing errors of its own.

    Parameters
    ----------
    values : torch.Tensor
        Floating-point (..., K).
    multiplier : torch.Tensor
        float32 (G, 1) or (G, K): reciprocal of the input scale (times smoothing), for each timestep group.
    scale : torch.Tensor
        float32 (G, N): scale of what the accelerator writes.
    bias : torch.Tensor, optional
        (N,).
    group : torch.Tensor, optional
        int64 (): the timestep group, by default 0.
    layer : int
        Number of the offloaded layer whose resident weights are used.

    Returns
    -------
    torch.Tensor
        (..., N), dtype of `values`; rows of NaN and infinite values are NaN.
    """
    offloaded: OffloadedLayer = find(layer)
    offloaded.refresh()
    product = offloaded.product
    check_values(product.name, values)
    index = 0 if group is None else int(group)
    count = values.shape[-1]
    # Strides as they are, unless there are too many of them.
    spread = values[(None,) * (4 - values.ndim)] if values.ndim < 4 else values.reshape(1, 1, -1, count)
    rows = product.model.scratch("rows", tuple(spread.shape), torch.int8, values.device)
    bad = product.meet(kernels.quantise(spread, multiplier[index], rows), spread)
    sums = product.multiply(rows.view(-1, count), index)
    result, clamped = kernels.dequantise(sums, scale[index], None if bias is None else bias.to(torch.float32))
    product.meet_outputs(clamped, sums)
    if bad:
        result.masked_fill_(bad_rows(spread).view(-1, 1), torch.nan)
    return result.to(values.dtype).view(*values.shape[:-1], scale.shape[1])


@int8_linear.register_fake
def _(
    values: torch.Tensor,
    multiplier: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    group: torch.Tensor | None,
    layer: int,
) -> torch.Tensor:
    return values.new_empty((*values.shape[:-1], scale.shape[1]))


class OffloadedLinear(OffloadedLayer):
    """A Linear layer whose product runs on an accelerator; made by `offload`."""

    def __init__(self, linear: nn.Linear, model: OffloadedModel, name: str, calibration: LayerCalibration) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        super().__init__(linear, model, name, calibration)

    def matrix(self) -> torch.Tensor:
        return self.integers.T

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (..., K) to (..., N)."""
        return int8_linear(input, self.multiplier, self.output_scale, self.bias, self.present_group, self.number)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"accelerator={self.model.accelerator!r}"
        )


@register_layer_type(nn.Linear)
class LinearType(LayerType[nn.Linear]):
    """``nn.Linear``: rows of the product are tokens."""

    kind = "linear"
    offloaded = OffloadedLinear

    def compute(
        self, layer: nn.Linear, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return F.linear(values, weight, bias)

    def product_shape(self, layer: nn.Linear, values: torch.Tensor, output: torch.Tensor) -> GemmShape:
        return GemmShape(1, values.numel() // layer.in_features, layer.out_features, layer.in_features)
