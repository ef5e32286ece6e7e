"""Read side of the AXI4 master."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..commands import CAUSE_BITS, ErrorCause
from ..config import AcceleratorConfig
from .axi import RESP_OKAY, TRANSACTION_ID, Axi4Signature, constant_outputs


def burst_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A legal AXI burst: aligned address and number of beats less one."""
    return data.StructLayout({"addr": config.address_bits, "len": 8})


class ReadPort(wiring.Component):
    """Issues read bursts and passes their beats on in order, one request and one beat per cycle.

    Survives a reset of the datapath, because the bus must see every transaction through. While `stop` is high no
    further request is taken and arriving beats are dropped. A burst is over when RLAST says so, wherever it comes;
    a beat that comes without a burst is dropped.

    Members
    -------
    request : stream of bursts
    beat : stream of data beats
    stop : drop everything
    idle : nothing is outstanding
    error : pulse, a beat carried an error response or another ID, or RLAST came before the burst's last beat or not
        with it
    cause : ErrorCause of `error`
    surplus : pulse, a beat came while no burst was outstanding
    progress : pulse, a handshake happened on AR or R
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "axi": Out(Axi4Signature(address_bits=config.address_bits, data_bytes=config.bus_bytes)),
                "request": In(stream.Signature(burst_layout(config))),
                "beat": Out(stream.Signature(8 * config.bus_bytes)),
                "stop": In(1),
                "idle": Out(1),
                "error": Out(1),
                "cause": Out(CAUSE_BITS),
                "surplus": Out(1),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        # Of each burst, from the moment it is taken; never full, and filled by the time that its first beat can come.
        m.submodules.lengths = lengths = SyncFIFOBuffered(width=8, depth=self.config.read_outstanding + 1)
        bursts = Signal(range(self.config.read_outstanding + 1))
        beat = Signal(8)  # of the oldest burst
        owed = Signal()
        arrives = Signal()
        taken = Signal()
        finished = Signal()
        wrong_id = Signal()
        wrong_length = Signal()
        has_room = Signal()
        m.d.comb += [
            constant_outputs(axi, "ar", self.config.bus_bytes),
            wrong_id.eq(axi.rid != TRANSACTION_ID),
            has_room.eq(bursts < Const(self.config.read_outstanding)),
            self.request.ready.eq(~self.stop & has_room & (~axi.arvalid | axi.arready)),
            taken.eq(self.request.valid & self.request.ready),
            lengths.w_en.eq(taken),
            lengths.w_data.eq(self.request.payload.len),
            lengths.r_en.eq(finished),
            # A burst whose address still waits cannot be answered.
            owed.eq(bursts != axi.arvalid),
            axi.rready.eq(self.stop | self.beat.ready | ~owed),
            self.beat.valid.eq(axi.rvalid & owed & ~self.stop),
            self.beat.payload.eq(axi.rdata),
            arrives.eq(axi.rvalid & axi.rready & owed),
            finished.eq(arrives & axi.rlast),
            self.idle.eq(bursts == 0),
            wrong_length.eq(axi.rlast != (beat == lengths.r_data)),
            self.error.eq(arrives & ((axi.rresp != RESP_OKAY) | wrong_id | wrong_length)),
            self.surplus.eq(axi.rvalid & ~owed),
            self.progress.eq(arrives | (axi.arvalid & axi.arready)),
        ]
        with m.If(wrong_id):
            m.d.comb += self.cause.eq(ErrorCause.AXI_ID)
        with m.Elif(axi.rresp != RESP_OKAY):
            m.d.comb += self.cause.eq(ErrorCause.AXI_READ)
        with m.Else():
            m.d.comb += self.cause.eq(ErrorCause.READ_LENGTH)
        with m.If(arrives):
            m.d.sync += beat.eq(Mux(axi.rlast, 0, beat + 1))
        # A burst counts from the moment it is taken: AR may still be waiting for its handshake.
        m.d.sync += bursts.eq(bursts + taken - finished)
        with m.If(axi.arready):
            m.d.sync += axi.arvalid.eq(0)
        with m.If(taken):
            m.d.sync += [
                axi.arvalid.eq(1),
                axi.araddr.eq(self.request.payload.addr),
                axi.arlen.eq(self.request.payload.len),
            ]
        return m
