"""Random and extreme operands for GEMM tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.reference.golden import ChannelTable


def random_int8(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    return rng.integers(-128, 128, shape, dtype=np.int8)


def extreme_int8(rng: np.random.Generator, *shape: int) -> NDArray[np.int8]:
    return rng.choice(np.array([-128, -127, -1, 0, 127], np.int8), shape)


def random_channels(rng: np.random.Generator, n: int) -> ChannelTable:
    """Scales that bring typical sums into int8 range, so that both clamps and all roundings occur."""
    shift = rng.integers(1, 63, n)
    exponent = np.clip(shift - rng.integers(4, 12, n), 0, 30)
    mult = np.minimum((1 << exponent) + rng.integers(0, 1 << exponent), (1 << 31) - 1)
    return ChannelTable(rng.integers(-(1 << 14), 1 << 14, n, dtype=np.int32), mult, shift)


def extreme_channels(rng: np.random.Generator, n: int) -> ChannelTable:
    """Biases that make sums wrap, largest and smallest scales."""
    limits = np.iinfo(np.int32)
    bias = rng.choice(np.array([limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max], np.int32), n)
    mult = rng.choice(np.array([0, 1, 2, (1 << 30) + 1, (1 << 31) - 1], np.int64), n)
    return ChannelTable(bias, mult, rng.choice(np.array([1, 2, 31, 32, 39, 61, 62], np.int64), n))
