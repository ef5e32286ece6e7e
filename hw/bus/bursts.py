"""Cutting a run of beats into legal AXI bursts."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..config import AcceleratorConfig
from ..depths import BURST_BOUNDARY_BYTES, MAX_BURST_BEATS
from .read_port import burst_layout


def beats_covering(offset: Value, count: Value, bus_bytes: int) -> Value:
    """Beats touched by `count` bytes that start `offset` bytes into a beat."""
    return (offset + count + (bus_bytes - 1)) >> exact_log2(bus_bytes)


class RowBursts(wiring.Component):
    """Issues the bursts of equally long rows at a constant stride, one burst per cycle.

    `start` (only while not `busy`) latches the job. Rows begin at `addr`, may start inside a beat and are `beats`
    beats long, so every row has the same offset into its first beat (the stride is bus-aligned).

    Members
    -------
    start : pulse
    addr : byte address of the first row
    stride : bytes from row to row
    rows, beats : at least one each
    busy : requests are still to be issued
    next_row : byte address of the row after the last one, once `busy` falls
    request : stream of bursts
    """

    def __init__(self, config: AcceleratorConfig, *, most_rows: int, most_row_bytes: int) -> None:
        self.config = config
        self.most_beats = -(-most_row_bytes // config.bus_bytes) + 1
        super().__init__(
            {
                "start": In(1),
                "addr": In(config.address_bits),
                "stride": In(32),
                "rows": In(range(most_rows + 1)),
                "beats": In(range(self.most_beats + 1)),
                "busy": Out(1),
                "next_row": Out(config.address_bits),
                "request": Out(stream.Signature(burst_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.config.bus_bytes
        bus_bits = exact_log2(bus_bytes)
        boundary_bits = exact_log2(BURST_BOUNDARY_BYTES)
        row_addr = Signal(self.config.address_bits)
        # The walk inside a row: aligned beat address and beats left.
        beat_addr = Signal(self.config.address_bits - bus_bits)
        beats_left = Signal(range(self.most_beats + 1))
        rows_left = Signal.like(self.rows)
        beats = Signal.like(self.beats)
        stride = Signal(32)
        in_page = Signal(range(BURST_BOUNDARY_BYTES // bus_bytes + 1))
        burst = Signal(range(MAX_BURST_BEATS + 1))
        most = min(MAX_BURST_BEATS, BURST_BOUNDARY_BYTES // bus_bytes)
        following = Signal(self.config.address_bits)
        m.d.comb += [
            in_page.eq((BURST_BOUNDARY_BYTES // bus_bytes) - beat_addr[: boundary_bits - bus_bits]),
            burst.eq(most),
            self.request.valid.eq(self.busy),
            self.request.payload.addr.eq(beat_addr << bus_bits),
            self.request.payload.len.eq(burst - 1),
            following.eq(row_addr + stride),
            self.next_row.eq(row_addr),
        ]
        smaller = Signal.like(in_page)
        m.d.comb += smaller.eq(Mux(in_page < most, in_page, most))
        with m.If(beats_left < smaller):
            m.d.comb += burst.eq(beats_left)
        with m.Else():
            m.d.comb += burst.eq(smaller)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                row_addr.eq(self.addr),
                beat_addr.eq(self.addr >> bus_bits),
                stride.eq(self.stride),
                rows_left.eq(self.rows),
                beats.eq(self.beats),
                beats_left.eq(self.beats),
            ]
        with m.Elif(self.busy & self.request.ready):
            m.d.sync += [beats_left.eq(beats_left - burst), beat_addr.eq(beat_addr + burst)]
            with m.If(beats_left == burst):
                m.d.sync += [
                    row_addr.eq(following),
                    beat_addr.eq(following >> bus_bits),
                    beats_left.eq(beats),
                    rows_left.eq(rows_left - 1),
                ]
                with m.If(rows_left == 1):
                    m.d.sync += self.busy.eq(0)
        return m
