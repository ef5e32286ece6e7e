"""Razor flip-flops: a processing element that sees its own timing error leaves its product out of the sum."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value


def sum_or_bypass(m: Module, *, x: Value, settled: Signal, captured: Signal, name: str) -> tuple[Signal, Signal]:
    """What leaves an element that compares its late flip-flop with a shadow that has waited for the settled sum.

    Parameters
    ----------
    x : Value
        Partial sum from above, as wide as the sums.
    settled, captured : Signal
        From `brownout.hw.protect.carry.registered_sum`: what the shadow holds, and what was caught in time.

    Returns
    -------
    (Signal, Signal)
        The settled sum, or `x` if another one was caught; whether one was.
    """
    dropped = Signal(name=f"dropped_{name}")
    kept = Signal(len(settled), name=f"kept_{name}")
    m.d.comb += [dropped.eq(captured != settled), kept.eq(Mux(dropped, x, settled))]
    return kept, dropped


def total_of(values: Sequence[Value]) -> Value:
    """Sum of unsigned `values`, at least one, as a tree: depth and width grow with the logarithm of their number."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return total_of(values[:half]) + total_of(values[half:])
