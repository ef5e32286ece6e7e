"""Write side of the AXI4 master."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from ..commands import CAUSE_BITS, ErrorCause
from ..config import AcceleratorConfig
from .axi import RESP_OKAY, TRANSACTION_ID, Axi4Signature, constant_outputs
from .read_port import burst_layout

BURST_QUEUE = 8
"""Bursts whose address may be out before their data is."""


def write_beat_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Data and byte strobes of one beat."""
    return data.StructLayout({"data": 8 * config.bus_bytes, "strb": config.bus_bytes})


class WritePort(wiring.Component):
    """Issues write bursts, fills them from a stream of beats and collects the responses.

    Survives a reset of the datapath. While `stop` is high no further burst is taken and the beats still owed to
    the bus are sent with all strobes low, so that they change nothing.

    Members
    -------
    request : stream of bursts
    beat : stream of beats, in the order of the bursts
    stop : finish without data
    idle : nothing is outstanding
    error : pulse, an error response or one with another ID
    cause : ErrorCause of `error`
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
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi = self.axi
        m.submodules.lengths = lengths = SyncFIFOBuffered(width=8, depth=BURST_QUEUE)
        bursts = Signal(range(self.config.write_outstanding + 1))
        taken = Signal()
        wrong_id = Signal()
        left = Signal(8)
        in_burst = Signal()
        # Strobes stay as they are while W waits: stop must not change a beat that was already offered.
        offered = Signal()
        blank = Signal()
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
            blank.eq(self.stop & ~offered),
            axi.wvalid.eq(in_burst & (self.stop | self.beat.valid)),
            axi.wlast.eq(left == 0),
            axi.wdata.eq(self.beat.payload.data),
            self.beat.ready.eq(in_burst & axi.wready & ~blank),
            axi.bready.eq(1),
            self.idle.eq(bursts == 0),
            wrong_id.eq(axi.bid != TRANSACTION_ID),
            self.error.eq(axi.bvalid & ((axi.bresp != RESP_OKAY) | wrong_id)),
            self.cause.eq(Mux(wrong_id, ErrorCause.AXI_ID, ErrorCause.AXI_WRITE)),
            self.progress.eq((axi.awvalid & axi.awready) | (axi.wvalid & axi.wready) | axi.bvalid),
            lengths.r_en.eq(~in_burst | (axi.wvalid & axi.wready & axi.wlast)),
        ]
        with m.If(~blank):
            m.d.comb += axi.wstrb.eq(self.beat.payload.strb)
        m.d.sync += [
            bursts.eq(bursts + taken - axi.bvalid),
            offered.eq(axi.wvalid & ~axi.wready & ~blank),
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
        with m.Elif(axi.wvalid & axi.wready):
            m.d.sync += left.eq(left - 1)
        return m
