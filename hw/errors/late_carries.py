"""Hardware of the `carry` model: bits that keep their old value because a carry came too late."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from .constants import LENGTH_BITS


def registered_sum(
    m: Module, *, x: Value, y: Value, width: int, length: Value, first: Value, name: str
) -> tuple[Signal, Signal]:
    """What a register holds of x + y when carries longer than `length` do not arrive in time.

    Parameters
    ----------
    x, y : Value
        Summands, `width` bits each.
    length : Value
        `LENGTH_BITS` bits, the longest carry that settles.
    first : Value
        The first row of a pass: nothing is late.

    Returns
    -------
    (Signal, Signal)
        The input of the register, and the settled sum.
    """
    settled = Signal(width, name=f"settled_{name}")
    stale = Signal(width, name=f"stale_{name}", reset_less=True)
    propagate = Signal(width, name=f"propagate_{name}")
    late = Signal(width, name=f"late_{name}")
    captured = Signal(width, name=f"captured_{name}")
    m.d.comb += [settled.eq((x + y)[:width]), propagate.eq(x ^ y)]
    # Runs of all-ones of the length's binary digits, joined from the shortest on.
    run: Value = Const((1 << width) - 1, width)
    power: Value = propagate
    for digit in range(LENGTH_BITS):
        reach = min(1 << digit, width)
        # The empty run is everywhere, also below bit 0.
        empty = ~length[:digit].any() if digit else Const(1, 1)
        joined = Signal(width, name=f"run_{name}_{digit}")
        m.d.comb += joined.eq(Mux(length[digit], power & Cat(empty.replicate(reach), run[: width - reach]), run))
        run = joined
        if digit + 1 < LENGTH_BITS:
            longer = Signal(width, name=f"power_{name}_{digit}")
            m.d.comb += longer.eq(power & Cat(Const(0, reach), power[: width - reach]))
            power = longer
    m.d.comb += [
        late.eq(Mux(first, 0, (settled ^ propagate) & Cat(Const(0, 1), run[: width - 1]))),
        captured.eq((settled & ~late) | (stale & late)),
    ]
    m.d.sync += stale.eq(settled)
    return captured, settled
