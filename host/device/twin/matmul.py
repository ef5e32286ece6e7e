"""Exact int8 products in int32."""

from __future__ import annotations

from functools import cache

import torch

FLOAT32_EXACT_K = 1024
"""Longest sum of int8 products that float32 holds exactly: 1024 * 128^2 = 2^24."""

CUDA_MIN_ROWS = 17
CUDA_MULTIPLE = 8
"""``torch._int_mm`` on CUDA refuses fewer rows, and K or N that are no multiple."""


def exact_matmul(a: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> None:
    """Multiply int8 matrices of any strides, exactly.

    Parameters
    ----------
    a, w : torch.Tensor
        int8 (M, K) and (K, N) on one device, K <= 131071.
    out : torch.Tensor
        int32 (M, N), any strides; overwritten.
    """
    if a.device.type == "cpu" and _int_mm_is_exact():
        a, w = _plain(a), _plain(w)
        if out.is_contiguous():
            # Written in place: a copy of a large result costs as much as a fifth of the product.
            torch._int_mm(a, w, out=out)
        else:
            out.copy_(torch._int_mm(a, w))
    elif a.device.type == "cuda":
        out.copy_(_cuda_matmul(a, w))
    else:
        out.copy_(float_matmul(a, w))


def _plain(matrix: torch.Tensor) -> torch.Tensor:
    """`matrix`, copied unless it is row- or column-major: for other strides ``torch._int_mm`` returns garbage."""
    rows, columns = matrix.shape
    row_stride, column_stride = matrix.stride()
    if rows == 1 or columns == 1:
        # The stride along the one is arbitrary, and with some torch._int_mm leaves the output unwritten.
        return matrix.clone(memory_format=torch.contiguous_format)
    if (column_stride == 1 and row_stride >= columns) or (row_stride == 1 and column_stride >= rows):
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


@cache
def _int_mm_is_exact() -> bool:
    """Try ``torch._int_mm`` on the CPU where it could go wrong.

    Without VNNI instructions, a CPU multiplies int8 by adding pairs of products in 16 bits, with saturation: two
    products of -128 by -128 are the first to show it.
    """
    try:
        for m, k, n in ((1, 64, 64), (3, 5, 7), (33, 130, 65)):
            for x, y in ((-128, -128), (-128, 127), (127, 127)):
                a = torch.full((m, k), x, dtype=torch.int8)
                w = torch.full((k, n), y, dtype=torch.int8)
                # Not zeros: its fallbacks have been seen to leave the output as it was.
                out = torch.full((m, n), 1, dtype=torch.int32)
                if not bool((torch._int_mm(a, w, out=out) == x * y * k).all()):
                    return False
    except RuntimeError:
        return False
    return True


def _cuda_matmul(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """int32 (M, N), exact: operands padded to what ``torch._int_mm`` accepts on CUDA."""
    m, k = a.shape
    n = w.shape[1]
    more_k, more_n = -k % CUDA_MULTIPLE, -n % CUDA_MULTIPLE
    more_m = max(0, CUDA_MIN_ROWS - m)
    if more_m or more_k:
        a = torch.nn.functional.pad(a, (0, more_k, 0, more_m))
    if more_k or more_n:
        w = torch.nn.functional.pad(w, (0, more_n, 0, more_k))
    return torch._int_mm(a.contiguous(), w)[:m, :n]


def float_matmul(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """int32 (M, N), exact: float32 products over pieces of K that are short enough."""
    total = torch.zeros(a.shape[0], w.shape[1], dtype=torch.int32, device=a.device)
    for start in range(0, a.shape[1], FLOAT32_EXACT_K):
        piece = slice(start, start + FLOAT32_EXACT_K)
        total += (a[:, piece].float() @ w[piece].float()).to(torch.int32)
    return total
