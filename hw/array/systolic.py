"""The systolic array: rows of processing elements with the skew that aligns them."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Elaboratable, Instance, Module, Signal

from ..config import ACC_BITS, AcceleratorConfig
from .row import MODULE_NAME


def delay(m: Module, value: Signal, cycles: int, name: str) -> Signal:
    """`value` as it was `cycles` cycles ago, through registers without reset."""
    for stage in range(1, cycles + 1):
        following = Signal(value.shape(), name=f"{name}_d{stage}", reset_less=True)
        m.d.sync += following.eq(value)
        value = following
    return value


def output_latency(config: AcceleratorConfig) -> int:
    """Cycles from a row of activations at the input to its sums at the output."""
    return config.rows + config.cols - 1


class SystolicArray(Elaboratable):
    """R x C weight-stationary array with aligned vectors on all sides.

    A row of activations presented in cycle t leaves as a row of sums in cycle t + R + C - 1. One row per cycle;
    the array never stalls.

    Weight tiles: a pulse on `load` in cycle t takes row r of the tile from `w_row` in cycle t + r, for
    r = 0..R-1. A pulse on `swap` in cycle t makes the loaded tile that of the rows presented from t + 1 on.
    `swap` must come at least one cycle after `load`, the next `load` not before the `swap`; a pass may then
    be as short as one row, and a load of R rows hides behind a pass of R rows.

    Members
    -------
    a_row : R * 8 bits
        Row of A, one k per byte.
    w_row : C * 8 bits
        Row of the weight tile.
    load, swap : 1 bit
        Pulses as above.
    y_row : C * 32 bits
        Sums of the row.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.a_row = Signal(8 * config.rows)
        self.w_row = Signal(8 * config.cols)
        self.load = Signal()
        self.swap = Signal()
        self.y_row = Signal(ACC_BITS * config.cols)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, cols = self.config.rows, self.config.cols
        # Element (r, c) acts r + c cycles after element (0, 0): one shift register serves every diagonal.
        diagonals = rows + cols - 1
        load_line = Signal(diagonals)
        swap_line = Signal(diagonals)
        for line, pulse in ((load_line, self.load), (swap_line, self.swap)):
            m.d.comb += line[0].eq(pulse)
            if diagonals > 1:
                history = Signal(diagonals - 1, name="load_history" if line is load_line else "swap_history")
                m.d.sync += history.eq(line)
                m.d.comb += line[1:].eq(history)
        weights = Cat(delay(m, self.w_row[8 * c : 8 * c + 8], c, f"w_skew_{c}") for c in range(cols))
        psum: Signal | None = None
        for r in range(rows):
            psum_out = Signal(ACC_BITS * cols, name=f"psum_row_{r}")
            m.submodules[f"row_{r}"] = Instance(
                MODULE_NAME,
                i_clk=ClockSignal(),
                i_a_in=delay(m, self.a_row[8 * r : 8 * r + 8], r, f"a_skew_{r}"),
                i_w_in=weights,
                i_load=load_line[r : r + cols],
                i_swap=swap_line[r : r + cols],
                i_psum_in=Signal(ACC_BITS * cols, name="psum_top") if psum is None else psum,
                o_psum_out=psum_out,
            )
            psum = psum_out
        columns = [delay(m, psum[ACC_BITS * c : ACC_BITS * (c + 1)], cols - 1 - c, f"y_skew_{c}") for c in range(cols)]
        m.d.comb += self.y_row.eq(Cat(columns))
        return m
