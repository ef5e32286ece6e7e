"""Exponentials of the fractions of an octave: what RTL and twin look up."""

from __future__ import annotations

from ..params import EXPONENT_STEPS, SCORE_FRACTION_BITS

TABLE_FRACTION_BITS = 8

TABLE = tuple(
    round(EXPONENT_STEPS * 2**TABLE_FRACTION_BITS * 2 ** (-j / 2**SCORE_FRACTION_BITS))
    for j in range(2**SCORE_FRACTION_BITS)
)
"""127 * 2^8 * 2^(-j / 256)."""
