"""Rows against columns, as Huang and Abraham: an error is found where both are flagged, and only marked."""

from __future__ import annotations

from .scheme import CHECK_SCHEMES, CheckScheme


@CHECK_SCHEMES.register
class ClassicScheme(CheckScheme):
    """Finds, and does not locate."""

    name = "classic"
