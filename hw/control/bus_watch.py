"""Watches over the bus: draining what an abandoned command has left there, and giving up on what stands still."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..commands import CAUSE_BITS, ErrorCause

LEAST_STALL_CYCLES = 64
"""More than any unit takes to hand over to the next; a shorter time-out would take that for a stall."""


class BusWatch(wiring.Component):
    """Draining and watchdogs.

    Once a command is abandoned the ports are stopped until nothing is outstanding, however long that takes and
    whatever the ring engine does meanwhile.

    One counter serves two watchdogs. While something is outstanding, it counts cycles without a handshake on the bus.
    While nothing is, but a command runs, it counts those in which the command does not move either.

    Members
    -------
    abandon : what is outstanding belongs to no command any more
    stop : to the ports, from `abandon` on until nothing is outstanding
    idle : nothing is outstanding
    progress : a handshake happened on the bus
    running : a command is with the engines
    moving : something moves in them
    timeout : cycles, 0 for never; of a command that does not move at least `LEAST_STALL_CYCLES`
    restart : count anew
    expired : the time-out has passed
    cause : which one
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "abandon": In(1),
                "stop": Out(1),
                "idle": In(1),
                "progress": In(1),
                "running": In(1),
                "moving": In(1),
                "timeout": In(32),
                "restart": In(1),
                "expired": Out(1),
                "cause": Out(CAUSE_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        draining = Signal()
        quiet_cycles = Signal(32)
        was_idle = Signal()
        moves = Signal()
        limit = Signal(32)
        m.d.comb += [
            self.stop.eq(self.abandon | draining),
            moves.eq(Mux(self.idle, self.moving | ~self.running, self.progress)),
            limit.eq(Mux(self.idle, self.timeout | (LEAST_STALL_CYCLES - 1), self.timeout)),
            self.expired.eq((self.timeout != 0) & (quiet_cycles >= limit)),
            self.cause.eq(Mux(self.idle, ErrorCause.STALLED, ErrorCause.BUS_TIMEOUT)),
        ]
        m.d.sync += [draining.eq(self.stop & ~self.idle), was_idle.eq(self.idle)]
        with m.If(self.restart | moves | (self.idle != was_idle)):
            m.d.sync += quiet_cycles.eq(0)
        with m.Elif(~self.expired):
            m.d.sync += quiet_cycles.eq(quiet_cycles + 1)
        return m
