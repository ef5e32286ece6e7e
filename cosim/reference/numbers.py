"""Numbers as the accelerator has them: two's complement, balanced digits, sums that wrap and sums of residues."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.residues import RESIDUE_MODULUS

Ints = NDArray[np.integer[Any]]


def wrap(value: Any, bits: int) -> Any:
    """Two's complement of `bits` bits, signed."""
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def digits_of(total: Ints, count: int) -> Ints:
    """Balanced base-256 digits (count, ...), least significant first, each in -128..127."""
    digits = []
    for _ in range(count):
        low = wrap(total, 8)
        digits.append(low)
        total = (total - low) // 256
    assert not total.any(), "the sum needs more digits than there are"
    return np.array(digits, np.int64).reshape(count, *total.shape)


def is_residue(checksum: ChecksumConfig, check: int) -> bool:
    """Whether a row check is a sum modulo 8191."""
    return checksum.modulus(check) > 0


def check_weights(w: Ints, config: AcceleratorConfig, tile: int) -> Ints:
    """u_j[k, s] of one column tile: (K, segments * checks), the check columns in their order."""
    checksum = config.checksum
    assert checksum is not None
    columns = []
    for segment in config.segments:
        for j in range(checksum.checks):
            total = np.zeros(w.shape[0], np.int64)
            for c in segment:
                n = tile * config.cols + c
                if n < w.shape[1]:
                    total += checksum.weights(j)[c - segment.start] * w[:, n]
            columns.append(total % RESIDUE_MODULUS if is_residue(checksum, j) else total)
    return np.stack(columns, axis=1)
