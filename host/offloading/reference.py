"""Arithmetic of the offloaded layers in plain PyTorch: what the kernels are tested against, used where they are not.

Products and sums are operations of their own, each rounded to float32, so that kernels and PyTorch give the same bits.
"""

from __future__ import annotations

import torch

from .nonfinite import Met
from .quantization import INT8_MAX

LOG2_E = 1.44269504
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts; the first has few bits, so that its multiples are exact."""

POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
"""Of (e^r - 1 - r) / r^2 for |r| <= ln 2 / 2, highest power first: `expf` of the Cephes library."""

LEAST_EXPONENT = -80.0


def quantise(values: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """Multiply, round half to even, saturate.

    Parameters
    ----------
    values : torch.Tensor
        float32 (..., C).
    multiplier : torch.Tensor
        float32 (1,) or (C,): reciprocal of the scale.

    Returns
    -------
    torch.Tensor
        int8, same shape.
    """
    return (values * multiplier).clamp_(-INT8_MAX - 1, INT8_MAX).round_().to(torch.int8)


def met(values: torch.Tensor, multiplier: torch.Tensor) -> Met:
    """What `quantise` meets: elements that saturate, beyond -128.5..127.5, and whether one is NaN or infinite."""
    steps = values * multiplier
    inside = (steps + 0.5).abs() <= INT8_MAX + 1
    return Met(steps.numel() - int(inside.sum()), not bool(steps.isfinite().all()))


def dequantise(sums: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Scale each column of sums, then add its bias.

    Parameters
    ----------
    sums : torch.Tensor
        int32, int16 or int8 (..., N): sums, or scaled ones.
    scale : torch.Tensor
        float32 (N,).
    bias : torch.Tensor, optional
        float32 (N,).

    Returns
    -------
    torch.Tensor
        float32 (..., N).
    """
    # Two steps, not a fused multiply-add: a vector unit may fuse where the scalar tail of the same loop does not.
    result = sums.to(torch.float32) * scale
    return result if bias is None else result + bias


def at_ends(outputs: torch.Tensor) -> int:
    """How many narrow outputs of a product are the least or the largest that their dtype holds; 0 of int32."""
    if outputs.dtype == torch.int32:
        return 0
    limits = torch.iinfo(outputs.dtype)
    return int(((outputs == limits.min) | (outputs == limits.max)).sum())


def exponential(x: torch.Tensor) -> torch.Tensor:
    """float32 e^x for x <= 0, to two units in the last place; e^-80 below -80."""
    x = x.clamp(min=LEAST_EXPONENT)
    n = (x * LOG2_E).round()
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = r * POLYNOMIAL[0] + POLYNOMIAL[1]
    for coefficient in POLYNOMIAL[2:]:
        p = p * r + coefficient
    p = (p * (r * r) + r) + 1.0
    return p * ((n.to(torch.int32) + INT8_MAX) << 23).view(torch.float32)


def exponentials(sums: torch.Tensor, factor: float, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantised numerators of a softmax, and their sums.

    Parameters
    ----------
    sums : torch.Tensor
        int32 (B, H, L, S).
    factor : float
        Scores are sums times this, in float32.
    mask : torch.Tensor, optional
        float32, broadcastable to (B, H, L, S): added to the scores; -inf masks a key.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        int8 (B, H, L, S): exp(score - largest score of the row) in steps of 1/127; int32 (B, H, L): its sums. Both are
        zero where all keys are masked; where the mask has NaN or +inf, exponentials are zero and the sum is -1.
    """
    scores = sums.to(torch.float32) * factor
    if mask is not None:
        scores = scores + mask
    largest = scores.amax(-1, keepdim=True)
    steps = (exponential(scores - largest) * float(INT8_MAX)).round()
    bad = ~(largest < torch.inf)
    steps = torch.where(bad | (largest == -torch.inf), 0.0, steps).to(torch.int8)
    return steps, torch.where(bad[..., 0], -1, steps.sum(-1, dtype=torch.int32))


def weighted_means(sums: torch.Tensor, totals: torch.Tensor, factor: float) -> torch.Tensor:
    """Divide sums of values by sums of weights.

    Parameters
    ----------
    sums : torch.Tensor
        int32 (B, H, L, E).
    totals : torch.Tensor
        int32 (B, H, L).
    factor : float
        Scale of the values, in float32.

    Returns
    -------
    torch.Tensor
        float32 (B, H, L, E); zero where the total is, NaN where it is negative.
    """
    scale = torch.where(totals == 0, 0.0, torch.tensor(factor, device=totals.device) / totals.to(torch.float32))
    scale = torch.where(totals < 0, torch.nan, scale)
    return sums.to(torch.float32) * scale[..., None]


def patches(
    image: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> torch.Tensor:
    """Unfold an image for a convolution.

    Parameters
    ----------
    image : torch.Tensor
        (B, H, W, C), padded already.
    kernel, stride, dilation : (int, int)
        Sizes of rows and columns.

    Returns
    -------
    torch.Tensor
        (B, rows, columns, kernel rows, kernel columns, C), contiguous.
    """
    batch, _, _, channels = image.shape
    rows, columns = output_size(image.shape[1:3], kernel, stride, dilation)
    b, y, x, c = image.stride()
    strides = (b, y * stride[0], x * stride[1], y * dilation[0], x * dilation[1], c)
    return image.as_strided((batch, rows, columns, *kernel, channels), strides, image.storage_offset()).contiguous()


def output_size(
    padded: torch.Size | tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns of a convolution's output."""
    rows, columns = (
        (extent - d * (k - 1) - 1) // s + 1 for extent, k, s, d in zip(padded, kernel, stride, dilation, strict=True)
    )
    return rows, columns
