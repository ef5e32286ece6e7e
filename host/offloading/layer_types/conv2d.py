"""Convolutions as products of unfolded images: the operator on an accelerator, the offloaded layer, and their type."""

from __future__ import annotations

import torch
from torch import nn

from ...device.product.operands import GemmShape
from .. import kernels
from ..layer import OffloadedLayer
from ..layer_calibration import LayerCalibration
from ..nonfinite import bad_pixels
from ..products import OffloadedModel, check_values, find, in_turn
from ..reference import output_size
from ..row_window import RowWindow
from .base import LayerType
from .registry import register_layer_type


def _pairs(*lists: list[int]) -> list[tuple[int, int]]:
    return [(rows, columns) for rows, columns in lists]


def _channels_last(image: torch.Tensor) -> bool:
    return not image.is_contiguous() and image.is_contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("brownout::int8_conv2d", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
@in_turn
def int8_conv2d(
    image: torch.Tensor,
    multiplier: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    group: torch.Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    layer: int,
) -> torch.Tensor:
    """Quantise, unfold, multiply on the accelerator, scale back and add the bias.

    Each value is quantised once and unfolded as a byte. Tagged as random, as `int8_linear`.

    Parameters
    ----------
    image : torch.Tensor
        Floating-point (B, C, H, W).
    multiplier : torch.Tensor
        float32 (G, 1) or (G, C): reciprocal of the input scale (times smoothing), for each timestep group.
    scale : torch.Tensor
        float32 (G, N): scale of each sum.
    bias : torch.Tensor, optional
        (N,).
    group : torch.Tensor, optional
        int64 (): the timestep group, by default 0.
    kernel, stride, dilation : list of int
        Sizes of rows and columns.
    padding : list of int
        Zeros left, right, above and below.
    layer : int
        Number of the offloaded layer whose resident weights are used.

    Returns
    -------
    torch.Tensor
        (B, N, rows, columns), dtype and memory format of `image`; NaN where a window touches a NaN or infinite pixel.
    """
    offloaded: OffloadedConv2d = find(layer)
    offloaded.refresh()
    product = offloaded.product
    check_values(product.name, image)
    index = 0 if group is None else int(group)
    batch, channels, height, width = image.shape
    left, right, above, below = padding
    if offloaded.halo is not None:
        above, below = offloaded.row_window.reach
    padded = (height + above + below, width + left + right)
    scratch = product.model.scratch
    bytes_ = scratch("image", (batch, *padded, channels), torch.int8, image.device)
    if any(padding):
        bytes_.zero_()
    inside = bytes_[:, above : above + height, left : left + width]
    bad = product.meet(kernels.quantise(image.permute(0, 2, 3, 1), multiplier[index], inside), image)
    beyond = None
    if offloaded.halo is not None:
        columns_inside = slice(left, left + width)
        own = (~image.isfinite()).any(dim=3).any(dim=1).any(dim=0) if bad else None
        bytes_[:, :above, columns_inside], bytes_[:, above + height :, columns_inside], beyond = offloaded.halo(
            inside, float(offloaded.input_scale[index]), own
        )

    windows = _pairs(kernel, stride, dilation)
    rows, columns = output_size(padded, *windows)
    groups = offloaded.groups
    share, outputs = channels // groups, scale.shape[1] // groups
    if kernel == [1, 1] and stride == [1, 1] and groups == 1:
        unfolded = bytes_.view(1, -1, channels)
    else:
        shape = (groups, batch, rows, columns, *kernel, share)
        pieces = scratch("patches", shape, torch.int8, image.device)
        for piece, part in zip(pieces, bytes_.split(share, 3), strict=True):
            kernels.patches(part, windows[0], windows[1], windows[2], piece)
        unfolded = pieces.view(groups, batch * rows * columns, -1)
    sums = product.multiply(unfolded if groups > 1 else unfolded[0], index)
    offset = None if bias is None else bias.to(torch.float32)
    touched = None
    if bad or beyond is not None:
        edges = (left, right, above, below)
        touched = bad_pixels(image, groups, windows[0], windows[1], windows[2], edges, beyond)
        touched = touched.repeat_interleave(outputs, 1)
    if groups == 1 and _channels_last(image):
        pixels, clamped = kernels.dequantise(sums, scale[index], offset)
        product.meet_outputs(clamped, sums)
        pixels = pixels.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
        if touched is not None:
            pixels.masked_fill_(touched, torch.nan)
        return pixels.to(image.dtype)
    result = torch.empty((batch, scale.shape[1], rows * columns), device=image.device)
    for number, part in enumerate(sums.view(groups, batch, rows * columns, outputs)):
        piece = slice(number * outputs, (number + 1) * outputs)
        clamped = kernels.dequantise_image(
            part, scale[index, piece], None if offset is None else offset[piece], result[:, piece]
        )
        product.meet_outputs(clamped, part)
    if touched is not None:
        result.masked_fill_(touched.flatten(2), torch.nan)
    return result.to(image.dtype).view(batch, -1, rows, columns)


@int8_conv2d.register_fake
def _(
    image: torch.Tensor,
    multiplier: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    group: torch.Tensor | None,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    layer: int,
) -> torch.Tensor:
    batch, _, height, width = image.shape
    padded = (height + padding[2] + padding[3], width + padding[0] + padding[1])
    windows = _pairs(kernel, stride, dilation)
    rows, columns = output_size(padded, *windows)
    offloaded: OffloadedConv2d = find(layer)
    if offloaded.groups == 1 and _channels_last(image):
        return image.new_empty((batch, rows, columns, scale.shape[1])).permute(0, 3, 1, 2)
    return image.new_empty((batch, scale.shape[1], rows, columns))


def _padding(conv: nn.Conv2d) -> list[int]:
    """Zeros left, right, above and below."""
    # As F.pad wants it, columns first; "same" may be uneven.
    return list(conv._reversed_padding_repeated_twice)


def _row_window(conv: nn.Conv2d) -> RowWindow:
    _, _, above, below = _padding(conv)
    return RowWindow(conv.kernel_size[0], conv.stride[0], conv.dilation[0], above, below)


class OffloadedConv2d(OffloadedLayer):
    """A Conv2d layer whose product runs on an accelerator; made by `offload`.

    Rows of the product are output pixels, K = kernel rows x kernel columns x input channels, in this order. Each
    channel group is a product of its own, of one batched command.
    """

    row_window: RowWindow

    def __init__(self, conv: nn.Conv2d, model: OffloadedModel, name: str, calibration: LayerCalibration) -> None:
        self.groups = conv.groups
        self.kernel, self.stride, self.dilation = (list(x) for x in (conv.kernel_size, conv.stride, conv.dilation))
        self.padding = _padding(conv)
        self.row_window = _row_window(conv)
        super().__init__(conv, model, name, calibration)

    def matrix(self) -> torch.Tensor:
        outputs, share, *kernel = self.integers.shape
        grouped = self.integers.view(self.groups, outputs // self.groups, share, *kernel)
        matrix = grouped.permute(0, 3, 4, 2, 1).reshape(self.groups, -1, outputs // self.groups)
        return matrix if self.groups > 1 else matrix[0]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map (B, C, H, W), or (C, H, W), to (B, N, rows, columns), or (N, rows, columns)."""
        single = input.ndim == 3
        result = int8_conv2d(
            input[None] if single else input,
            self.multiplier,
            self.output_scale,
            self.bias,
            self.present_group,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.number,
        )
        return result[0] if single else result

    def extra_repr(self) -> str:
        outputs, share = self.integers.shape[:2]
        return (
            f"{share * self.groups}, {outputs}, kernel_size={tuple(self.kernel)}, stride={tuple(self.stride)}, "
            f"padding={tuple(self.padding)}, dilation={tuple(self.dilation)}, groups={self.groups}, "
            f"bias={self.bias is not None}, accelerator={self.model.accelerator!r}"
        )


@register_layer_type(nn.Conv2d)
class Conv2dType(LayerType[nn.Conv2d]):
    """``nn.Conv2d``: rows of the product are output pixels."""

    kind = "conv2d"
    offloaded = OffloadedConv2d
    methods = ("forward", "_conv_forward")
    channel_axis = -3
    of_pixels = True

    def reason_against(self, layer: nn.Conv2d) -> str | None:
        return None if layer.padding_mode == "zeros" else f"padding_mode={layer.padding_mode!r} is not supported"

    def compute(
        self, layer: nn.Conv2d, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        return nn.Conv2d._conv_forward(layer, values, weight, bias)

    def product_shape(self, layer: nn.Conv2d, values: torch.Tensor, output: torch.Tensor) -> GemmShape:
        rows, columns = layer.kernel_size
        depth = layer.in_channels // layer.groups * rows * columns
        pixels = output.numel() // layer.out_channels
        return GemmShape(layer.groups, pixels, layer.out_channels // layer.groups, depth)

    def groups(self, layer: nn.Conv2d) -> int:
        return layer.groups

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        # A window may be as large as the image.
        return values.flatten(1)

    def row_window(self, layer: nn.Conv2d) -> RowWindow:
        return _row_window(layer)
