"""Draws of the `flip` model: hashes of where a sum is, and of a seed."""

from __future__ import annotations

WORD = 1 << 32
"""Values of a 32-bit word."""


def mix(x: int) -> int:
    """The hash of all draws, 32 bits to 32 bits."""
    x %= WORD
    x ^= x >> 16
    x = x * 0x7FEB352D % WORD
    x ^= x >> 15
    x = x * 0x846CA68B % WORD
    return x ^ (x >> 16)


def draw(seed: int, error_key: int, row: int, col: int, digit: int = 0, check: int = 0) -> int:
    """One draw; `row` and `col` are global."""
    base = mix(seed + mix(error_key))
    row_key = mix(base + row * 0x9E3779B1 + digit * 0x7F4A7C15)
    return mix(row_key + col * 0x85EBCA77 + check * 0xC2B2AE3D)


def pick(drawn: int) -> int:
    """The second number of a draw, which chooses the bit."""
    return mix(drawn ^ 0x27D4EB2F)
