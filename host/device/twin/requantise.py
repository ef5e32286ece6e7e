"""Bias and requantisation as the drain path does them."""

from __future__ import annotations

import torch


def add_bias_(acc: torch.Tensor, bias: torch.Tensor) -> None:
    """Add per-channel biases in place, modulo 2^32.

    torch's int32 addition wraps in two's complement, like the adder.

    Parameters
    ----------
    acc : torch.Tensor
        Sums, int32 (M, N).
    bias : torch.Tensor
        Bias of each column, int32 (N,).
    """
    acc += bias


def requantise(acc: torch.Tensor, mult: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Scale sums to int8: ``clamp((acc * mult + 2^(shift-1)) >> shift, -128, 127)`` in 64 bits.

    Parameters
    ----------
    acc : torch.Tensor
        Sums, int32 (M, N).
    mult, shift : torch.Tensor
        int64 (N,) in 0..2^31-1 and 1..62. The largest magnitude, 2^31 * 2^31 + 2^61, fits 64 bits.

    Returns
    -------
    torch.Tensor
        int8 (M, N).
    """
    half = torch.ones_like(shift) << (shift - 1)
    return (((acc.to(torch.int64) * mult) + half) >> shift).clamp_(-128, 127).to(torch.int8)
