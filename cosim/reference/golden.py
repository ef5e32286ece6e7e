"""Golden model of the accelerator's arithmetic in numpy, in 64-bit integers: short enough to be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ChannelTable:
    """What is done to each output channel.

    Attributes
    ----------
    bias : int32 array (N,)
        Added to the sum, modulo 2^32.
    mult : int64 array (N,)
        Multiplier of each column, 0 to 2^31 - 1.
    shift : int64 array (N,)
        Right shift of each column, 1 to 62 bits.
    """

    bias: NDArray[np.int32]
    mult: NDArray[np.int64]
    shift: NDArray[np.int64]

    def records(self) -> NDArray[np.uint8]:
        """The table as it lies in memory: bias, mult, shift, zeros; 16 bytes for each channel."""
        layout = np.dtype([("bias", "<i4"), ("mult", "<u4"), ("shift", "u1"), ("reserved", "V7")])
        out = np.zeros(len(self.bias), layout)
        out["bias"], out["mult"], out["shift"] = self.bias, self.mult, self.shift
        return out.view(np.uint8)


def wrap32(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Two's complement of 32 bits, as int64."""
    return (values + (1 << 31)) % (1 << 32) - (1 << 31)


def gemm(
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    channels: ChannelTable | None = None,
    requantise: bool = False,
    bits: int = 8,
) -> NDArray[Any]:
    """Product as the accelerator writes it.

    Parameters
    ----------
    a : int8 array (..., M, K)
    w : int8 array (..., K, N)
    channels : ChannelTable, optional
        Adds its bias; with `requantise` also scales.
    requantise : bool
        Scaled output: ``clamp((wrap32(acc + bias) * mult + 2^(shift-1)) >> shift, -2^(bits-1), 2^(bits-1) - 1)`` in 64
        bits.
    bits : int
        Of scaled outputs: 8 or 16.

    Returns
    -------
    int32, int16 or int8 array (..., M, N)
    """
    total = np.matmul(a.astype(np.int64), w.astype(np.int64))
    if channels is not None:
        total = total + channels.bias
    total = wrap32(total)
    if not requantise:
        return total.astype(np.int32)
    assert channels is not None, "requantisation needs a channel table"
    scaled = (total * channels.mult + (np.int64(1) << (channels.shift - 1))) >> channels.shift
    half = 1 << (bits - 1)
    return np.clip(scaled, -half, half - 1).astype(np.int8 if bits == 8 else np.int16)
