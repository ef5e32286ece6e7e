"""Sizes of blocks and slabs in hardware: the rule of `brownout.hw.tiling.split_extent` without a divider."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value

from .tiling import BALANCED_PIECES


def count_units(extent: Value, unit: int, most: int) -> Value:
    """ceil(extent / unit) for extents of at most `most` units: one comparator per unit."""
    return sum((extent > unit * index for index in range(most)), start=Cat())


def split_size(m: Module, left: Value, *, largest: int, unit: int, name: str, chosen: Signal | None = None) -> Signal:
    """Size of the next piece, in units, when `left` is still to be cut into pieces of at most `largest` units.

    `unit` is 1 or the side of a tile; an incomplete last tile counts as one. With `chosen`, pieces are of at most so
    many units, 1..`largest`.
    """
    most: Value | int = largest if chosen is None else chosen
    size = Signal(range(largest + 1), name=f"{name}_size")
    units_left = Signal(range(BALANCED_PIECES * largest + 1), name=f"{name}_units_left")
    m.d.comb += units_left.eq(left if unit == 1 else count_units(left, unit, BALANCED_PIECES * largest))
    m.d.comb += size.eq(most)
    for pieces in reversed(range(1, BALANCED_PIECES + 1)):
        with m.If(left <= most * (pieces * unit) if chosen is not None else left <= pieces * largest * unit):
            # Within this branch no more than `pieces * largest` units are left: constant, narrow division.
            narrow = units_left[: (pieces * largest).bit_length()]
            m.d.comb += size.eq((narrow + (pieces - 1)) // pieces)
    return size
