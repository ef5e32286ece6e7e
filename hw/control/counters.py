"""Performance counters and their snapshot."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..registers import counters

COUNTER_BITS = 64


class Counters(wiring.Component):
    """One 64-bit counter per entry of `brownout.hw.registers.counters`.

    Members
    -------
    increments : what each counter gains in this cycle, by name
    clear : pulse, all counters return to zero
    capture : pulse, copy all counters to the snapshot
    snapshot : the copies, in the order of the table
    """

    def __init__(self, config: AcceleratorConfig, *, increment_bits: int) -> None:
        self.counters = counters(config)
        super().__init__(
            {
                "increments": In(data.StructLayout({counter.name: increment_bits for counter in self.counters})),
                "clear": In(1),
                "capture": In(1),
                "snapshot": Out(data.ArrayLayout(COUNTER_BITS, len(self.counters))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for index, counter in enumerate(self.counters):
            value = Signal(COUNTER_BITS, name=counter.name)
            m.d.sync += value.eq(value + self.increments[counter.name])
            with m.If(self.clear):
                m.d.sync += value.eq(0)
            with m.If(self.capture):
                m.d.sync += self.snapshot[index].eq(value)
        return m
