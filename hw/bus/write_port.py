"""Write side of the AXI4 master."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..commands import CAUSE_BITS, ErrorCause
from ..config import AcceleratorConfig
from ..depths import BURST_QUEUE
from .axi import RESP_OKAY, TRANSACTION_ID, Axi4Signature, constant_outputs
from .read_port import burst_layout


def write_beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Data and byte strobes of one beat."""
    return data.StructLayout({"data": 8 * config.bus_bytes, "strb": config.bus_bytes})


class WritePort(wiring.Component):
    """Issues write bursts, fills them from a stream of beats and collects the responses.

    Survives a reset of the datapath. While `stop` is high no further burst is taken, nothing is taken from `beat`, and
    the beats still owed to the bus are sent with all strobes low, so that they change nothing. What was offered on W
    before stays until the bus takes it, whatever becomes of `beat` and `stop`. After a stop the datapath begins anew.

    Members
    -------
    request : stream of bursts
    beat : stream of beats, in the order of the bursts
    stop : finish without data
    idle : nothing is outstanding
    error : pulse, an error response or one with another ID
    cause : ErrorCause of `error`
    surplus : pulse, a response came while none was due; it is dropped
    progress : pulse, a handshake happened on AW, W or B
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "axi": Out(Axi4Signature(address_bits=config.address_bits, data_bytes=config.bus_bytes)),
                "request": In(stream.Signature(burst_layout(config))),
                "beat": In(stream.Signature(write_beat_layout(config))),
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
        m.submodules.lengths = lengths = SyncFIFOBuffered(width=8, depth=BURST_QUEUE)
        bursts = Signal(range(self.config.write_outstanding + 1))
        complete = Signal.like(bursts)  # of them those whose data is out
        taken = Signal()
        wrong_id = Signal()
        sent = Signal()
        answered = Signal()
        left = Signal(8)
        in_burst = Signal()
        held = Signal()  # W waits; what it offers is in `kept`
        kept = Signal(self.beat.payload.shape())
        offered = Signal.like(kept)
        # Since `stop` came, `kept` is not what the datapath offers: it is blank, or the datapath has forgotten it.
        abandoned = Signal()
        m.d.comb += [
            constant_outputs(axi, "aw", self.config.bus_bytes),
            self.request.ready.eq(
                ~self.stop
                & lengths.w_rdy
                & (bursts < Const(self.config.write_outstanding))
                & (~axi.awvalid | axi.awready)
            ),
            taken.eq(self.request.valid & self.request.ready),
            lengths.w_en.eq(taken),
            lengths.w_data.eq(self.request.payload.len),
            axi.wvalid.eq(held | (in_burst & (self.stop | self.beat.valid))),
            axi.wlast.eq(left == 0),
            axi.wdata.eq(offered.data),
            axi.wstrb.eq(offered.strb),
            sent.eq(axi.wvalid & axi.wready),
            self.beat.ready.eq(in_burst & axi.wready & ~self.stop & ~abandoned),
            axi.bready.eq(1),
            answered.eq(axi.bvalid & (complete != 0) & (bursts != axi.awvalid)),
            self.idle.eq(bursts == 0),
            wrong_id.eq(axi.bid != TRANSACTION_ID),
            self.error.eq(answered & ((axi.bresp != RESP_OKAY) | wrong_id)),
            self.cause.eq(Mux(wrong_id, ErrorCause.AXI_ID, ErrorCause.AXI_WRITE)),
            self.surplus.eq(axi.bvalid & ~answered),
            self.progress.eq((axi.awvalid & axi.awready) | sent | answered),
            lengths.r_en.eq(~in_burst | (sent & axi.wlast)),
        ]
        with m.If(held):
            m.d.comb += offered.eq(kept)
        with m.Elif(~self.stop):
            m.d.comb += offered.eq(self.beat.payload)
        m.d.sync += [
            bursts.eq(bursts + taken - answered),
            complete.eq(complete + (sent & axi.wlast) - answered),
            held.eq(axi.wvalid & ~axi.wready),
            kept.eq(offered),
            abandoned.eq(axi.wvalid & ~axi.wready & (self.stop | abandoned)),
        ]
        with m.If(axi.awready):
            m.d.sync += axi.awvalid.eq(0)
        with m.If(taken):
            m.d.sync += [
                axi.awvalid.eq(1),
                axi.awaddr.eq(self.request.payload.addr),
                axi.awlen.eq(self.request.payload.len),
            ]
        with m.If(lengths.r_en):
            m.d.sync += in_burst.eq(lengths.r_rdy)
            # Before the first burst the queue's memory has read nothing, and WLAST would be unknown with it.
            with m.If(lengths.r_rdy):
                m.d.sync += left.eq(lengths.r_data)
        with m.Elif(sent):
            m.d.sync += left.eq(left - 1)
        return m
