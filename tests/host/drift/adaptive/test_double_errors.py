"""Double errors that cannot be located, counted against the rule of docs/protection.md for every single one."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, permutations, product

import pytest

from brownout.host.drift.adaptive.double_errors import unlocated_double_errors
from brownout.hw.config import ChecksumConfig

MODULUS = 8191
POWERS = [sign << bit for bit in range(32) for sign in (1, -1)]
OF_OUTPUTS = POWERS[:62]


def explained(weights, errors):
    """How often each double error is explained, of sizes that add up to no power of two."""
    places = [*zip(*weights, strict=True), (0,) * len(weights)]
    found = Counter()
    for (x, y), (larger, smaller) in product(permutations(places, 2), product(errors, errors)):
        if abs(larger) > abs(smaller) and abs(larger + smaller).bit_count() > 1:
            left = tuple((a * larger + b * smaller) % MODULUS for a, b in zip(x, y, strict=True))
            found[larger + smaller, left] += 1
    return found


@pytest.mark.parametrize(
    "weights",
    [
        # Powers of 17 explain much by other places.
        [[pow(17, c, MODULUS) for c in (1, 2, 3, 6)]],
        [[1, 2, 5], [3, 7, 8]],
        [ChecksumConfig(segment_cols=4).weights(1)],
    ],
    ids=["powers of 17", "two locators", "segment of 4"],
)
def test_they_are_those_that_others_explain_too(weights):
    ways = explained(weights, POWERS)
    unlocated = []
    for x, y in combinations(zip(*weights, strict=True), 2):
        for first, second in product(OF_OUTPUTS, OF_OUTPUTS):
            left = tuple((a * first + b * second) % MODULUS for a, b in zip(x, y, strict=True))
            unlocated.append(ways[first + second, left] != 1)
    assert unlocated_double_errors(weights) == pytest.approx(sum(unlocated) / len(unlocated))


def test_a_single_column_has_no_double_errors_to_locate():
    assert unlocated_double_errors([[1]]) == 1
