"""Locators of weighted sums modulo 8191: as telling as whole ones, and a third as wide."""

from __future__ import annotations

from ..residues import RESIDUE_BITS, RESIDUE_MODULUS, residue_weights
from .scheme import CHECK_SCHEMES, CheckScheme


@CHECK_SCHEMES.register
class ResidueScheme(CheckScheme):
    """Locates by residues, two errors that are powers of two included."""

    name = "residue"
    locates = True
    locates_doubles = True

    def modulus(self, check: int) -> int:
        return RESIDUE_MODULUS if check > 0 else 0

    def check_bits(self, segment_cols: int, check: int) -> int:
        return RESIDUE_BITS

    def weights(self, segment_cols: int, check: int) -> tuple[int, ...]:
        return residue_weights(segment_cols, check)
