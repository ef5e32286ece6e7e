"""Division of the output scale by the row sums of exponentials."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..params import OUT_SCALE_BITS
from .depths import DIVIDER_BITS, DIVIDER_STAGES

SUM_BITS = 24
"""Of a row sum: 127 * 131,071 at most."""

QUOTIENT_BITS = 31


class Divider(wiring.Component):
    """floor(numerator / divisor) by restoring division, `DIVIDER_STAGES` cycles, one a cycle; 0 for a divisor of 0.

    Members
    -------
    numerator : constant while divisors are inside
    divisor : what to divide by
    quotient : modulo 2^31, `DIVIDER_STAGES` cycles later
    """

    def __init__(self) -> None:
        super().__init__({"numerator": In(OUT_SCALE_BITS), "divisor": In(SUM_BITS), "quotient": Out(QUOTIENT_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        divisor, rest, quotient = self.divisor, Signal(SUM_BITS, name="rest_0"), Signal(QUOTIENT_BITS, name="start")
        bit = OUT_SCALE_BITS
        for stage in range(DIVIDER_STAGES):
            for _ in range(DIVIDER_BITS):
                bit -= 1
                wide = Signal(SUM_BITS + 1, name=f"wide_{bit}")
                reached = Signal(name=f"reached_{bit}")
                rest_next = Signal(SUM_BITS, name=f"rest_of_{bit}")
                quotient_next = Signal(QUOTIENT_BITS, name=f"quotient_of_{bit}")
                m.d.comb += [
                    wide.eq((rest << 1) | self.numerator[bit]),
                    reached.eq((wide >= divisor) & divisor.any()),
                    rest_next.eq(Mux(reached, wide - divisor, wide)),
                    quotient_next.eq((quotient << 1) | reached),
                ]
                rest, quotient = rest_next, quotient_next
            registers = [
                Signal(SUM_BITS, name=f"divisor_{stage}", reset_less=True),
                Signal(SUM_BITS, name=f"rest_after_{stage}", reset_less=True),
                Signal(QUOTIENT_BITS, name=f"quotient_{stage}", reset_less=True),
            ]
            m.d.sync += [
                register.eq(value) for register, value in zip(registers, (divisor, rest, quotient), strict=True)
            ]
            divisor, rest, quotient = registers
        m.d.comb += self.quotient.eq(quotient)
        return m
