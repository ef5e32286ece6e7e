"""How many double errors locators cannot tell from others: counted, from their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brownout.hw.residues import RESIDUE_BITS, RESIDUE_MODULUS

from .estimate import OUTPUT_BITS

Keys = NDArray[np.int64]


def unlocated_double_errors(locators: Sequence[Sequence[int]]) -> float:
    """Share of the double errors of a row of a segment that ``pairs`` do not locate.

    Both are in columns, plus or minus 2^0 .. 2^30. Those whose sum is 0 or a power of two are not looked at; others are
    located if no other two errors of the same sizes leave the same in the locators, in columns or the plain check
    (docs/protection.md).

    Parameters
    ----------
    locators : sequence of sequences of int
        Weight of each column, for each locator.
    """
    columns = len(locators[0])
    places = [np.array([*weights, 0]) for weights in locators]
    apart = ~np.eye(columns + 1, dtype=bool)
    inside = np.zeros_like(apart)
    inside[:columns, :columns] = True
    wanted = inside[apart]

    def left(larger: int, smaller: int) -> Keys:
        """What errors of two sizes leave, by their places; sizes modulo 8191."""
        key = np.zeros(len(wanted), np.int64)
        for weights in places:
            key = key * RESIDUE_MODULUS + ((larger * weights[:, None] + smaller * weights) % RESIDUE_MODULUS)[apart]
        return key

    def shared(keys: Keys) -> NDArray[np.bool_]:
        _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return counts[which] > 1

    if not wanted.any():
        return 1.0
    # 3 * 2^b is 2 + 1 and 4 - 1.
    threes = shared(np.concatenate([left(2, 1), left(4, -1)])).reshape(2, -1)
    # The same bit twice counts once for two places, others once for each order.
    unlocated = OUTPUT_BITS + (OUTPUT_BITS - 1)
    unlocated += (OUTPUT_BITS - 1) * threes[0][wanted].mean() + (OUTPUT_BITS - 2) * threes[1][wanted].mean()
    unlocated += (OUTPUT_BITS - 2) * shared(left(4, 1))[wanted].mean()
    known: dict[tuple[int, int], float] = {}
    for bits in range(3, OUTPUT_BITS):
        for sign in (1, -1):
            case = (bits % RESIDUE_BITS, sign)
            if case not in known:
                known[case] = shared(left(sign << case[0], 1))[wanted].mean()
            unlocated += (OUTPUT_BITS - bits) * known[case]
    return float(unlocated / OUTPUT_BITS**2)
