"""The AXI4-Lite slave: decodes the register map of `brownout.hw.registers`."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..bus.axi import RESP_DECERR, RESP_OKAY, RESP_SLVERR, Axi4LiteSignature
from ..commands import CAUSE_BITS
from ..config import AcceleratorConfig
from ..registers import (
    ADDRESS_BITS,
    DEFAULT_TIMEOUT,
    ID_WORD,
    INTERFACE_VERSION,
    IRQ_DONE,
    IRQ_ERROR,
    LOCKED,
    OFFSETS,
    REGISTERS,
    counter_offset,
    counters,
)
from .counters import COUNTER_BITS
from .ring import RING_INDEX_BITS


class RegisterFile(wiring.Component):
    """Registers behind AXI4-Lite; one access at a time, two cycles each.

    Reads of unmapped addresses and writes to unmapped or read-only ones answer DECERR and change nothing. Byte
    strobes are honoured in whole words only: a write with any strobe low answers DECERR. Where the ring lies cannot be
    written while `busy`: SLVERR.

    Members
    -------
    axil : the bus, seen from the slave
    irq : interrupt line
    ring_base, ring_entries, tail, timeout : settings
    doorbell, acknowledge, soft_reset, capture : pulses
    head, busy, stopped, draining, cause : status
    drained, failed : pulses that set interrupt bits
    command_done : pulse, another command is counted as retired
    reset_done : pulse, a soft reset is carried out; clears the interrupt bits
    snapshot : counters
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.counters = counters(config)
        super().__init__(
            {
                "axil": In(Axi4LiteSignature(address_bits=ADDRESS_BITS)),
                "irq": Out(1),
                "ring_base": Out(64),
                "ring_entries": Out(32),
                "tail": Out(32),
                "timeout": Out(32, init=DEFAULT_TIMEOUT),
                "doorbell": Out(1),
                "acknowledge": Out(1),
                "soft_reset": Out(1),
                "capture": Out(1),
                "head": In(RING_INDEX_BITS),
                "busy": In(1),
                "stopped": In(1),
                "draining": In(1),
                "cause": In(CAUSE_BITS),
                "drained": In(1),
                "failed": In(1),
                "command_done": In(1),
                "reset_done": In(1),
                "snapshot": In(data.ArrayLayout(COUNTER_BITS, len(self.counters))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        irq = Signal(2)
        error_index = Signal(RING_INDEX_BITS)
        # In step with the interrupt: whoever has seen the bit of the last command reads a number that includes it.
        retired = Signal(32)
        m.d.comb += self.irq.eq(irq.any())

        readable = {
            "ID": ID_WORD,
            "VERSION": INTERFACE_VERSION,
            "CONFIG_HASH": config.hash_word,
            "DIMENSIONS": config.rows | config.cols << 16,
            "STATUS": Cat(self.busy, self.stopped, self.draining),
            "IRQ": irq,
            "RING_BASE_LO": self.ring_base[:32],
            "RING_BASE_HI": self.ring_base[32:],
            "RING_ENTRIES": self.ring_entries,
            "RING_HEAD": self.head,
            "RING_TAIL": self.tail,
            "TIMEOUT": self.timeout,
            "ERROR_CAUSE": self.cause,
            "ERROR_INDEX": error_index,
            "RETIRED": retired,
        }
        writable = {
            "RING_BASE_LO": self.ring_base[:32],
            "RING_BASE_HI": self.ring_base[32:],
            "RING_ENTRIES": self.ring_entries,
            "RING_TAIL": self.tail,
            "TIMEOUT": self.timeout,
        }
        assert set(readable) == {register.name for register in REGISTERS if register.access != "wo"}
        assert set(writable) == {register.name for register in REGISTERS if register.access == "rw"}

        self._read_channel(m, readable)
        write, write_data, write_address = self._write_channel(m)
        for name, target in writable.items():
            with m.If(write & (write_address == OFFSETS[name])):
                m.d.sync += target.eq(write_data)
        clear = Signal(2)
        m.d.comb += [
            # At once, so that whoever has seen the write's response reads what it brought about.
            self.soft_reset.eq(write & (write_address == OFFSETS["CONTROL"]) & write_data[0]),
            self.capture.eq(write & (write_address == OFFSETS["SNAPSHOT"])),
            self.acknowledge.eq(clear[IRQ_ERROR.bit_length() - 1]),
        ]
        m.d.sync += [
            # One cycle after the write, so that the ring engine sees the new tail.
            self.doorbell.eq(write & (write_address == OFFSETS["RING_TAIL"])),
            irq.eq((irq & ~clear) | Cat(self.drained, self.failed)),
            retired.eq(retired + self.command_done),
        ]
        with m.If(write & (write_address == OFFSETS["IRQ"])):
            m.d.comb += clear.eq(write_data[: len(clear)])
        with m.If(self.failed):
            m.d.sync += error_index.eq(self.head)
        with m.If(self.soft_reset):
            m.d.sync += self.tail.eq(0)
        with m.If(self.reset_done):
            m.d.sync += [irq.eq(0), error_index.eq(0)]
        assert (IRQ_DONE, IRQ_ERROR) == (1, 2)
        return m

    def _read_channel(self, m: Module, readable: dict[str, object]) -> None:
        axil = self.axil
        m.d.comb += axil.arready.eq(~axil.rvalid)
        with m.If(axil.rvalid & axil.rready):
            m.d.sync += axil.rvalid.eq(0)
        with m.If(axil.arvalid & axil.arready):
            m.d.sync += [axil.rvalid.eq(1), axil.rdata.eq(0), axil.rresp.eq(RESP_OKAY)]
            with m.Switch(axil.araddr[2:]):
                for name, value in readable.items():
                    with m.Case(OFFSETS[name] >> 2):
                        m.d.sync += axil.rdata.eq(value)
                for register in REGISTERS:
                    if register.access == "wo":
                        with m.Case(register.offset >> 2):
                            m.d.sync += axil.rdata.eq(0)
                for index in range(len(self.counters)):
                    for half in range(2):
                        with m.Case((counter_offset(index) >> 2) + half):
                            m.d.sync += axil.rdata.eq(self.snapshot[index][32 * half : 32 * half + 32])
                with m.Default():
                    m.d.sync += axil.rresp.eq(RESP_DECERR)

    def _write_channel(self, m: Module) -> tuple[Signal, Signal, Signal]:
        axil = self.axil
        taken = Signal()
        legal = Signal()
        locked = Signal()
        write = Signal()
        m.d.comb += [
            # Address and data are taken together; both stay valid until then.
            taken.eq(axil.awvalid & axil.wvalid & ~axil.bvalid),
            axil.awready.eq(taken),
            axil.wready.eq(taken),
            write.eq(taken & legal & ~locked),
        ]
        with m.Switch(axil.awaddr):
            for register in REGISTERS:
                if register.access != "ro":
                    with m.Case(register.offset):
                        m.d.comb += legal.eq(axil.wstrb.all())
                        if register.name in LOCKED:
                            m.d.comb += locked.eq(self.busy)
        with m.If(axil.bvalid & axil.bready):
            m.d.sync += axil.bvalid.eq(0)
        with m.If(taken):
            m.d.sync += axil.bvalid.eq(1)
            m.d.sync += axil.bresp.eq(Mux(legal, Mux(locked, RESP_SLVERR, RESP_OKAY), RESP_DECERR))
        return write, axil.wdata, axil.awaddr
