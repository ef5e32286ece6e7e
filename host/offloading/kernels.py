"""Arithmetic of the offloaded layers: C++ kernels on the CPU, plain PyTorch (`reference`) elsewhere, same bits."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import torch

from ..device.twin.kernels import load_kernels
from . import reference
from .nonfinite import Met


@cache
def _library() -> ctypes.CDLL:
    library = load_kernels()
    pointer = c_void_p
    signatures: dict[str, list[Any]] = {
        "quantise": [*[pointer] * 4, c_int64, *[pointer] * 3, c_int32],
        "dequantise": [pointer, *[c_int64] * 3, *[pointer] * 3, c_int64, pointer, c_int32],
        "dequantise_turned": [pointer, *[c_int64] * 4, *[pointer] * 3, c_int64, pointer, c_int32],
        "exponentials": [pointer, pointer, c_float, *[pointer] * 4, c_int32],
        "weighted_means": [*[pointer] * 3, c_float, pointer, pointer, c_int32],
        "patches": [*[pointer] * 4, c_int32],
    }
    for name, arguments in signatures.items():
        function = getattr(library, f"brownout_{name}")
        function.restype, function.argtypes = None, arguments
    return library


def _words(values: Any) -> ctypes.Array[c_int64]:
    return (c_int64 * len(values))(*values)


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def quantise(values: torch.Tensor, multiplier: torch.Tensor, out: torch.Tensor) -> Met:
    """As `reference.quantise`, of 4 dimensions and any strides, into `out`.

    Parameters
    ----------
    values : torch.Tensor
        Floating-point (A, B, C, D).
    multiplier : torch.Tensor
        float32 (1,) or (D,), contiguous.
    out : torch.Tensor
        int8 (A, B, C, D); the last dimension dense.

    Returns
    -------
    Met
        As `reference.met`.
    """
    values = values.to(torch.float32)
    if values.device.type != "cpu":
        out.copy_(reference.quantise(values, multiplier))
        return reference.met(values, multiplier)
    # Extents of one may have any stride.
    dense = [stride == 1 or extent == 1 for extent, stride in zip(values.shape, values.stride(), strict=True)]
    if not (dense[3] or dense[2]):
        values = values.contiguous()
    strides = list(values.stride())
    if values.shape[3] == 1:
        strides[3] = 1
    met = _words((0, 0))
    _library().brownout_quantise(
        *(values.data_ptr(), _words(values.shape), _words(strides), multiplier.data_ptr()),
        *(int(multiplier.numel() > 1), out.data_ptr(), _words(out.stride()[:3]), met, torch.get_num_threads()),
    )
    return Met(met[0], bool(met[1]))


def dequantise(sums: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, int]:
    """As `reference.dequantise`, of contiguous outputs (M, N); also `reference.at_ends` of them."""
    if sums.device.type != "cpu":
        return reference.dequantise(sums, scale, bias), reference.at_ends(sums)
    rows, columns = sums.shape
    out, ends = torch.empty(rows, columns), _words((0,))
    _library().brownout_dequantise(
        *(sums.data_ptr(), sums.element_size(), rows, columns, scale.data_ptr(), _pointer(bias), out.data_ptr()),
        *(columns, ends, torch.get_num_threads()),
    )
    return out, ends[0]


def dequantise_image(sums: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> int:
    """As `reference.dequantise`, into an image whose channels are planes; returns `reference.at_ends`.

    Parameters
    ----------
    sums : torch.Tensor
        int32, int16 or int8 (B, P, N), contiguous.
    scale, bias : torch.Tensor
        float32 (N,); `bias` may be None.
    out : torch.Tensor
        float32 (B, N, P); dense but for the first dimension.
    """
    if sums.device.type != "cpu":
        out.copy_(reference.dequantise(sums, scale, bias).mT)
        return reference.at_ends(sums)
    ends = _words((0,))
    _library().brownout_dequantise_turned(
        *(sums.data_ptr(), sums.element_size(), *sums.shape, scale.data_ptr(), _pointer(bias), out.data_ptr()),
        *(out.stride(0), ends, torch.get_num_threads()),
    )
    return ends[0]


def exponentials(sums: torch.Tensor, factor: float, mask: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    """As `reference.exponentials`, of contiguous sums, into int8 `out`; returns the totals."""
    if sums.device.type != "cpu":
        steps, totals = reference.exponentials(sums, factor, mask)
        out.copy_(steps)
        return totals
    totals = torch.empty(sums.shape[:3], dtype=torch.int32)
    expanded = None if mask is None else mask.expand(sums.shape)
    strides = None if expanded is None else _words(expanded.stride())
    _library().brownout_exponentials(
        *(sums.data_ptr(), _words(sums.shape), factor, _pointer(expanded), strides, out.data_ptr()),
        *(totals.data_ptr(), torch.get_num_threads()),
    )
    return totals


def weighted_means(sums: torch.Tensor, totals: torch.Tensor, factor: float, out: torch.Tensor) -> None:
    """As `reference.weighted_means`, of contiguous sums, into float32 `out`, whose last dimension is dense."""
    if sums.device.type != "cpu":
        out.copy_(reference.weighted_means(sums, totals, factor))
        return
    _library().brownout_weighted_means(
        *(sums.data_ptr(), _words(sums.shape), totals.data_ptr(), factor, out.data_ptr()),
        *(_words(out.stride()[:3]), torch.get_num_threads()),
    )


def patches(
    image: torch.Tensor,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    out: torch.Tensor,
) -> None:
    """As `reference.patches`, of an int8 image with dense channels, into contiguous `out`."""
    if image.device.type != "cpu":
        out.copy_(reference.patches(image, kernel, stride, dilation))
        return
    b, y, x, _ = image.stride()
    _library().brownout_patches(
        *(image.data_ptr(), _words(out.shape)),
        _words((b, y * stride[0], x * stride[1], y * dilation[0], x * dilation[1])),
        *(out.data_ptr(), torch.get_num_threads()),
    )
