"""The command ring: where it lies, which of its commands is next, and whether the registers describe one at all."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..commands import CAUSE_BITS, COMMAND_BYTES, ErrorCause
from ..config import AcceleratorConfig

RING_INDEX_BITS = 16
MOST_RING_ENTRIES = (1 << RING_INDEX_BITS) - 1
LEAST_RING_ENTRIES = 2
"""A ring that holds as many commands as it has entries looks like an empty one, so one entry is never enough."""


class Ring(wiring.Component):
    """Position in the ring, and its place as it was at the last doorbell.

    The registers are looked at with `latch` only: what the host writes to them later changes nothing before the next
    doorbell.

    Members
    -------
    base, entries, tail : the registers, whatever the host has written
    latch : pulse, use the registers from now on; without effect while `cause` is not NONE
    cause : what is wrong with the registers now, or NONE
    anything : the registers hold commands that were not executed: `head` is not `tail`
    head : index of the next command
    address : where it lies
    advance : pulse, go on to the one after it
    at_end : that one is the tail of the last `latch`
    clear : pulse, back to index 0
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "base": In(64),
                "entries": In(32),
                "tail": In(32),
                "latch": In(1),
                "cause": Out(CAUSE_BITS),
                "anything": Out(1),
                "head": Out(RING_INDEX_BITS),
                "address": Out(config.address_bits),
                "advance": In(1),
                "at_end": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        address_bits = self.config.address_bits
        command_bits = exact_log2(COMMAND_BYTES)
        base = Signal(address_bits)
        entries = Signal(RING_INDEX_BITS)
        tail = Signal(RING_INDEX_BITS)
        following = Signal(RING_INDEX_BITS)
        # In commands, so that nothing wraps: as far as `base` fits the address space.
        end = Signal(address_bits - command_bits + 2)
        checks = (
            (
                ErrorCause.RING_BASE,
                (self.base[:command_bits] != 0)
                | (self.base >> address_bits).any()
                | (end > 1 << (address_bits - command_bits)),
            ),
            (ErrorCause.RING_ENTRIES, (self.entries < LEAST_RING_ENTRIES) | (self.entries > MOST_RING_ENTRIES)),
            (ErrorCause.RING_HEAD, self.head >= self.entries),
            (ErrorCause.RING_TAIL, self.tail >= self.entries),
        )
        m.d.comb += [
            end.eq(self.base[command_bits:address_bits] + self.entries[:RING_INDEX_BITS]),
            self.anything.eq(self.head != self.tail),
            self.address.eq(base + (self.head << command_bits)),
            following.eq(Mux(self.head + 1 == entries, 0, self.head + 1)),
            self.at_end.eq(following == tail),
        ]
        for cause, wrong in reversed(checks):
            with m.If(wrong):
                m.d.comb += self.cause.eq(cause)
        with m.If(self.latch & (self.cause == ErrorCause.NONE)):
            m.d.sync += [base.eq(self.base), entries.eq(self.entries), tail.eq(self.tail)]
        with m.If(self.advance):
            m.d.sync += self.head.eq(following)
        with m.If(self.clear):
            m.d.sync += self.head.eq(0)
        return m
