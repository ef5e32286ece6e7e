"""The systolic array: rows of processing elements with the skew that aligns them."""

from __future__ import annotations

from amaranth.hdl import Cat, ClockSignal, Elaboratable, Instance, Module, Signal, Value

from ..checks.check_row import MODULE_SUFFIX as CHECK_MODULE_SUFFIX
from ..checks.check_row import widths
from ..checks.check_weights import CheckWeights
from ..config import ACC_BITS, AcceleratorConfig
from ..errors.constants import LENGTH_BITS
from ..errors.razor import total_of
from .row import MODULE_SUFFIX


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

    Rows are instances of the modules ``NAME_array_row`` and ``NAME_check_row``, which `brownout.hw.emit` converts.

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
    check_row : sums of all check columns, each `ChecksumConfig.check_bits` wide
        One cycle later than `y_row`; only with checksum units.
    lengths : 6 bits for each array column and then each check column, row after row
        Settled carry lengths; only with a model of errors that `settles`.
    valid : 1 bit
        `a_row` has a row; only with a model of errors that `settles` and ``razor``, as is `dropped`.
    dropped : 0 .. R * C
        Elements that dropped their product two cycles before.
    """

    def __init__(self, config: AcceleratorConfig, name: str) -> None:
        self.config = config
        self.name = name
        self.a_row = Signal(8 * config.rows)
        self.w_row = Signal(8 * config.cols)
        self.load = Signal()
        self.swap = Signal()
        self.y_row = Signal(ACC_BITS * config.cols)
        self.check_row = Signal(sum(widths(config)) if config.checksum is not None else 0)
        self.lengths = Signal(LENGTH_BITS * (config.cols + len(config.check_columns)) * config.rows)
        self.valid = Signal()
        self.dropped = Signal(range(config.rows * config.cols + 1))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows, cols = self.config.rows, self.config.cols
        # Element (r, c) acts r + c cycles after element (0, 0): one shift register serves every diagonal.
        # Check columns act one later than the last array column, and the first row of a pass comes one after its swap.
        diagonals = rows + cols + 1
        load_line = Signal(diagonals)
        swap_line = Signal(diagonals)
        valid_line = Signal(diagonals)
        carry = self.config.error_model.settles
        razor = carry and self.config.razor
        lines = {"load": (load_line, self.load), "swap": (swap_line, self.swap)}
        if razor:
            lines["valid"] = (valid_line, self.valid)
        for name, (line, pulse) in lines.items():
            m.d.comb += line[0].eq(pulse)
            history = Signal(diagonals - 1, name=f"{name}_history")
            m.d.sync += history.eq(line)
            m.d.comb += line[1:].eq(history)
        weights = Cat(delay(m, self.w_row[8 * c : 8 * c + 8], c, f"w_skew_{c}") for c in range(cols))
        psum: Signal | None = None
        borrow: Signal | None = None
        drops: list[Value] = []
        lengths_bits = LENGTH_BITS * (cols + len(self.config.check_columns))
        checks = _CheckColumns(m, self) if self.config.checksum is not None else None
        for r in range(rows):
            lengths = self.lengths[r * lengths_bits : (r + 1) * lengths_bits]
            ports = {}
            if carry:
                ports = {"i_first": swap_line[r + 1 : r + 1 + cols], "i_lengths": lengths[: LENGTH_BITS * cols]}
            if razor:
                dropped = Signal(range(cols + 1), name=f"dropped_row_{r}")
                ports |= {"i_valid": valid_line[r : r + cols], "o_dropped": dropped}
                ports["i_borrow_in"] = Signal(cols, name="borrow_top") if borrow is None else borrow
                # What the last row borrows is the accumulators' time: they have slack, and no product to drop.
                ports["o_borrow_out"] = borrow = Signal(cols, name=f"borrow_row_{r}")
                drops.append(dropped)
            if checks is not None:
                taps = Signal(8 * len(self.config.segments), name=f"a_taps_{r}")
                ports["o_a_taps"] = taps
                checks.add_row(r, taps, load_line, swap_line, lengths[LENGTH_BITS * cols :])
            psum_out = Signal(ACC_BITS * cols, name=f"psum_row_{r}")
            m.submodules[f"row_{r}"] = Instance(
                f"{self.name}_{MODULE_SUFFIX}",
                i_clk=ClockSignal(),
                i_a_in=delay(m, self.a_row[8 * r : 8 * r + 8], r, f"a_skew_{r}"),
                i_w_in=weights,
                i_load=load_line[r : r + cols],
                i_swap=swap_line[r : r + cols],
                i_psum_in=Signal(ACC_BITS * cols, name="psum_top") if psum is None else psum,
                o_psum_out=psum_out,
                **ports,
            )
            psum = psum_out
        columns = [delay(m, psum[ACC_BITS * c : ACC_BITS * (c + 1)], cols - 1 - c, f"y_skew_{c}") for c in range(cols)]
        m.d.comb += self.y_row.eq(Cat(columns))
        if razor:
            m.d.sync += self.dropped.eq(total_of(drops))
        if checks is not None:
            m.d.comb += self.check_row.eq(checks.aligned())
        return m


class _CheckColumns:
    """The rows of check columns beside the array, built row by row."""

    def __init__(self, m: Module, array: SystolicArray) -> None:
        self.m = m
        self.config = array.config
        self.name = array.name
        m.submodules.check_weights = self.weights = CheckWeights(array.config)
        m.d.comb += self.weights.w_row.eq(array.w_row)
        self.psum = Signal(sum(widths(array.config)), name="check_psum_top")

    def add_row(self, r: int, taps: Signal, load_line: Signal, swap_line: Signal, lengths: Value) -> None:
        stops = [segment.stop for segment in self.config.segments]
        ports = {}
        if self.config.error_model.settles:
            ports = {"i_first": Cat(swap_line[r + stop + 1] for stop in stops), "i_lengths": lengths}
        psum_out = Signal.like(self.psum, name=f"check_psum_row_{r}")
        self.m.submodules[f"check_row_{r}"] = Instance(
            f"{self.name}_{CHECK_MODULE_SUFFIX}",
            i_clk=ClockSignal(),
            i_a_in=taps,
            i_u_in=self.weights.u_row,
            i_load=Cat(load_line[r + stop] for stop in stops),
            i_swap=Cat(swap_line[r + stop] for stop in stops),
            i_psum_in=self.psum,
            o_psum_out=psum_out,
            **ports,
        )
        self.psum = psum_out

    def aligned(self) -> Value:
        """Sums of one row of activations side by side."""
        columns = []
        at = 0
        for column, (segment, _) in enumerate(self.config.check_columns):
            width = widths(self.config)[column]
            wait = self.config.cols - self.config.segments[segment].stop
            columns.append(delay(self.m, self.psum[at : at + width], wait, f"check_skew_{column}"))
            at += width
        return Cat(columns)
