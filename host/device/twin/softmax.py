"""Softmax as the score unit does it: C++ kernels, signatures of ``host/device/twin/cpp/softmax.cpp``."""

from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.attention.table import TABLE

from .kernels import address, load_kernels


@cache
def _library() -> ctypes.CDLL:
    library = load_kernels()
    signatures: dict[str, list[Any]] = {
        "chip_exponentials": [*[c_void_p] * 2, *[c_int64] * 5, c_int32, *[c_void_p] * 3, c_int32],
        "chip_means": [*[c_void_p] * 2, *[c_int64] * 4, c_void_p, c_int32],
    }
    for name, arguments in signatures.items():
        function = getattr(library, f"brownout_{name}")
        function.restype, function.argtypes = None, arguments
    return library


_TABLE = np.array(TABLE, np.int32)


def exponentials(
    scores: torch.Tensor,
    marked: NDArray[np.uint8] | None,
    factor: tuple[int, int],
    *,
    first_query: int,
    causal: bool,
    threads: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponentials of corrected scores, and their sums.

    Parameters
    ----------
    scores : torch.Tensor
        int32 (rows, keys), contiguous, on the CPU.
    marked : uint8 array (rows, keys), optional
        Scores that count for nothing.
    factor : (int, int)
        score_mult and score_shift.
    first_query : int
        Place of the first row in its head.
    causal : bool
        Whether keys after a row's own place count for nothing.
    threads : int
        Threads to use at most.

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        int8 (rows, keys) and int32 (rows,).
    """
    rows, keys = scores.shape
    out = torch.empty((rows, keys), dtype=torch.int8)
    sums = torch.empty(rows, dtype=torch.int32)
    _library().brownout_chip_exponentials(
        *(scores.data_ptr(), None if marked is None else address(marked), rows, keys, *factor, first_query),
        *(int(causal), address(_TABLE), out.data_ptr(), sums.data_ptr(), threads),
    )
    return out, sums


def means(values: torch.Tensor, sums: torch.Tensor, scale: tuple[int, int], threads: int) -> torch.Tensor:
    """Sums of values, int32 (rows, columns), over the row sums: int8.

    Parameters
    ----------
    values : torch.Tensor
        int32 (rows, columns), contiguous, on the CPU.
    sums : torch.Tensor
        int32 (rows,).
    scale : (int, int)
        out_scale and out_shift.
    threads : int
        Threads to use at most.
    """
    rows, columns = values.shape
    out = torch.empty((rows, columns), dtype=torch.int8)
    _library().brownout_chip_means(values.data_ptr(), sums.data_ptr(), rows, columns, *scale, out.data_ptr(), threads)
    return out
