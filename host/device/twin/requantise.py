"""Bias and requantisation as the drain path does them."""

from __future__ import annotations

import ctypes

import torch

from .kernels import load_kernels


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


def requantise(acc: torch.Tensor, mult: torch.Tensor, shift: torch.Tensor, out: torch.Tensor) -> None:
    """Scale sums: ``(acc * mult + 2^(shift-1)) >> shift`` in 64 bits, clamped to what the output's dtype holds.

    Parameters
    ----------
    acc : torch.Tensor
        Sums, int32 (M, N).
    mult, shift : torch.Tensor
        int64 (N,) in 0..2^31-1 and 1..62. The largest magnitude, 2^31 * 2^31 + 2^61, fits 64 bits.
    out : torch.Tensor
        int8 or int16 (M, N), any strides; overwritten.
    """
    if acc.device.type == "cpu" and acc.is_contiguous():
        mult, shift = mult.contiguous(), shift.contiguous()
        load_kernels().brownout_requantise(
            *(acc.data_ptr(), *acc.shape, mult.data_ptr(), shift.data_ptr(), out.data_ptr(), out.element_size()),
            *((ctypes.c_int64 * 2)(*out.stride()), torch.get_num_threads()),
        )
        return
    limits = torch.iinfo(out.dtype)
    half = torch.ones_like(shift) << (shift - 1)
    out.copy_((((acc.to(torch.int64) * mult) + half) >> shift).clamp_(limits.min, limits.max))
