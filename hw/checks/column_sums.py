"""Column sums of the activations, which pass through the array as rows of digits."""

from __future__ import annotations

from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, signed

from ..config import AcceleratorConfig


class ColumnSums(Elaboratable):
    """Between activation scratchpad and array: sums the rows of a group up and emits the sums' balanced digits.

    Members
    -------
    a_row, out_row : R * 8 bits
        Row from the scratchpad; row for the array in the same cycle.
    enable : 1 bit
        `a_row` is a row of data.
    first : 1 bit
        It is the first one of its group.
    digit : 1 bit
        `out_row` is the next digit, least significant first, right after the last row of the group.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.a_row = Signal(8 * config.rows)
        self.out_row = Signal(8 * config.rows)
        self.enable = Signal()
        self.first = Signal()
        self.digit = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        checksum = self.config.checksum
        assert checksum is not None
        # A sum of H values in -128 .. 127.
        bits = 8 + (checksum.group_rows - 1).bit_length()
        digits = []
        for r in range(self.config.rows):
            total = Signal(signed(bits), name=f"sum_{r}", reset_less=True)
            value = self.a_row.word_select(r, 8).as_signed()
            with m.If(self.enable):
                # Truncated on purpose: `bits` hold any sum of a group.
                m.d.sync += total.eq((Mux(self.first, 0, total) + value)[:bits].as_signed())
            with m.If(self.digit):
                m.d.sync += total.eq((total + 128) >> 8)
            low = Signal(8, name=f"digit_{r}")
            m.d.comb += low.eq(total)
            digits.append(low)
        m.d.comb += self.out_row.eq(Mux(self.digit, Cat(digits), self.a_row))
        return m
