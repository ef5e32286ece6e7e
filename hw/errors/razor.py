"""TE-Drop: an element that sees its own timing error borrows a cycle from the next one, whose product is dropped."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value


def sum_or_bypass(
    m: Module, *, x: Value, settled: Signal, captured: Signal, borrowed: Value, name: str
) -> tuple[Signal, Signal]:
    """What leaves an element that compares its late flip-flop with a shadow that has waited for the settled sum.

    Parameters
    ----------
    x : Value
        Partial sum from above, as wide as the sums.
    settled, captured : Signal
        What the shadow register holds, and what was caught in time (`brownout.hw.errors.late_carries.registered_sum`).
    borrowed : Value
        1 bit: the element above needed this element's cycle to finish `x`.

    Returns
    -------
    (Signal, Signal)
        The settled sum, or `x` if the cycle was borrowed; whether this element in turn borrows the next one's, which
        only one that adds does.
    """
    borrows = Signal(name=f"borrows_{name}")
    kept = Signal(len(settled), name=f"kept_{name}")
    m.d.comb += [borrows.eq((captured != settled) & ~borrowed), kept.eq(Mux(borrowed, x, settled))]
    return kept, borrows


def total_of(values: Sequence[Value]) -> Value:
    """Sum of unsigned `values`, at least one, as a tree: depth and width grow with the logarithm of their number."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return total_of(values[:half]) + total_of(values[half:])
