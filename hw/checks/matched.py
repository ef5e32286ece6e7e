"""Rows against columns whose values are compared: one error has the same value in both."""

from __future__ import annotations

from .scheme import CHECK_SCHEMES, CheckScheme


@CHECK_SCHEMES.register
class MatchedScheme(CheckScheme):
    """Locates by equal values of row and column checks."""

    name = "matched"
    matches = True
