"""Shifters of wide values by multiples of a unit, one stage of multiplexers for each bit of the distance.

Amaranth's own ``<<`` is as wide as its largest distance could make it: 2,559 bits for a beat of 512 that is moved by
up to 63 bytes, whatever its result is cut to. Amaranth then checks, and a simulator computes, all of them.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueLike


def shifted_up(m: Module, value: ValueLike, distance: ValueLike, *, unit: int, width: int) -> Value:
    """``value << (distance * unit)``, cut to `width` bits.

    Parameters
    ----------
    m : Module
        Gets a signal for each stage: an expression is made again wherever it is used.
    value : value-castable
        Unsigned number to be shifted.
    distance : value-castable
        Unsigned number of units.
    unit : int
        Bits in one unit of the distance.
    width : int
        Bits of the result.
    """
    stage = Value.cast(value)
    stage = Cat(stage, Const(0, max(0, width - len(stage))))[:width]
    for index, chosen in enumerate(Value.cast(distance)):
        moved = min(unit << index, width)
        before, stage = stage, Signal(width, name=f"up_{index}")
        m.d.comb += stage.eq(Mux(chosen, Cat(Const(0, moved), before[: width - moved]), before))
    return stage


def shifted_down(m: Module, value: ValueLike, distance: ValueLike, *, unit: int) -> Value:
    """``value >> (distance * unit)``, as wide as `value`; parameters as for `shifted_up`."""
    stage = Value.cast(value)
    for index, chosen in enumerate(Value.cast(distance)):
        before, stage = stage, Signal(len(stage), name=f"down_{index}")
        m.d.comb += stage.eq(Mux(chosen, before[unit << index :], before))
    return stage
