"""Locators of whole weighted sums: an error's weight is the quotient of locator and plain check."""

from __future__ import annotations

from ..config import ACC_BITS
from .scheme import CHECK_SCHEMES, CheckScheme


def _signed_digits(value: int) -> int:
    """Non-zero digits of the shortest signed binary form of `value`: a product with it is one addition less."""
    return (value ^ (3 * value)).bit_count()


ODD_WEIGHTS = tuple(sorted(range(1, 128, 2), key=lambda value: (_signed_digits(value), value)))
"""Odd 7-bit magnitudes, the cheapest to multiply by first."""


@CHECK_SCHEMES.register
class WeightedScheme(CheckScheme):
    """Locates by sums weighted with odd numbers of 7 bits and a sign."""

    name = "weighted"
    locates = True

    def check_bits(self, segment_cols: int, check: int) -> int:
        return ACC_BITS + 8 + (segment_cols - 1).bit_length() + 1

    def weights(self, segment_cols: int, check: int) -> tuple[int, ...]:
        signed = [magnitude * sign for magnitude in ODD_WEIGHTS for sign in (1, -1)][:segment_cols]
        # The second locator has the same weights in another order, so that few double errors deceive both.
        return tuple(signed) if check == 1 else tuple(reversed(signed))
