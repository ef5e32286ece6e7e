"""Settled carry lengths: what models whose elements settle have in common."""

from __future__ import annotations

LENGTH_BITS = 6
"""Width of the settled carry length of an element."""
