"""Weights of the check columns: weighted sums over a segment of each row of a weight tile."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed

from ..arithmetic import residue, weighted_sum
from ..config import AcceleratorConfig
from .check_row import is_residue, weight_bits


class CheckWeights(Elaboratable):
    """Sums up the rows of weight tiles on their way into the array.

    Members
    -------
    w_row : C * 8 bits
        Row of a weight tile, in the cycle in which array column 0 loads it.
    u_row : weights of all check columns, each `weight_bits` wide
        Each when its column loads it: as many cycles after `w_row` as its segment's last column has columns before it,
        plus one.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.w_row = Signal(8 * config.cols)
        self.u_row = Signal(sum(weight_bits(config, check) for _, check in config.check_columns))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        checksum = self.config.checksum
        assert checksum is not None
        delayed = []
        for column, (segment, check) in enumerate(self.config.check_columns):
            bits = weight_bits(self.config, check)
            columns = self.config.segments[segment]
            total = weighted_sum(
                m,
                [self.w_row[8 * c : 8 * c + 8] for c in columns],
                checksum.weights(check)[: len(columns)],
                f"total_{column}",
            )
            u = Signal(bits if is_residue(self.config, check) else signed(bits), name=f"u_{column}")
            m.d.comb += u.eq(residue(m, total, f"residue_{column}") if is_residue(self.config, check) else total)
            value = u
            for stage in range(1, columns.stop + 1):
                following = Signal(bits, name=f"u_{column}_d{stage}", reset_less=True)
                m.d.sync += following.eq(value)
                value = following
            delayed.append(value[:bits])
        m.d.comb += self.u_row.eq(Cat(delayed))
        return m
