"""Copies runs of bytes from one region of memory to another."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus.bursts import RowBursts, beats_covering
from ..bus.read_port import burst_layout
from ..bus.write_port import write_beat_layout
from ..commands import RUN_BYTES
from ..config import AcceleratorConfig
from ..depths import RUNS_AT_ONCE, SPAN_QUEUE

RUN_COUNT_BITS = 24


def copy_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Operands of a COPY command, checked."""
    address = config.address_bits
    return data.StructLayout(
        {"runs": RUN_COUNT_BITS, "size": 32, "source_addr": address, "target_addr": address, "list_addr": address}
    )


class Copier(wiring.Component):
    """Reads the list of runs piece by piece, and for each piece passes the beats of its runs from reads to writes.

    Source and target begin at pages, so a run is cut into the same bursts on both sides: each is requested of both
    ports in the same cycle, and a beat that is read is the beat that is written, with the strobes of bytes beside the
    run low. Throughput: a run in two cycles or more, a beat per cycle.

    Members
    -------
    params : constant while `busy`
    start : pulse
    busy : beats that are read belong to it
    done : pulse, all beats have been handed to the write port
    bad_run : high, a run is empty or reaches outside its region; nothing goes on until reset
    read_request, read_beat : to and from the read port
    write_request, write_beat : to the write port
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "params": In(copy_layout(config)),
                "start": In(1),
                "busy": Out(1),
                "done": Out(1),
                "bad_run": Out(1),
                "read_request": Out(stream.Signature(burst_layout(config))),
                "read_beat": In(stream.Signature(8 * config.bus_bytes)),
                "write_request": Out(stream.Signature(burst_layout(config))),
                "write_beat": Out(stream.Signature(write_beat_layout(config))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, params = self.config, self.params
        bus_bytes = config.bus_bytes
        bus_bits = exact_log2(bus_bytes)
        m.submodules.bursts = bursts = RowBursts(config, most_rows=1, most_row_bytes=(1 << 32) + bus_bytes)
        span = data.StructLayout({"head": bus_bits, "tail": bus_bits, "beats": len(bursts.beats)})
        m.submodules.spans = spans = SyncFIFOBuffered(width=span.size, depth=SPAN_QUEUE)

        list_addr = Signal(config.address_bits)
        left = Signal(RUN_COUNT_BITS)
        piece = Signal(range(RUNS_AT_ONCE + 1))
        index = Signal(range(RUNS_AT_ONCE))
        reading_list = Signal()
        list_read = self._store_list(m, reading_list, piece)
        run = self._load_run(m, index)
        passing = self._pass_beats(m, spans, span, reading_list)

        offset, length = run[:32], run[32:]
        fresh = Signal(span)
        m.d.comb += [
            bursts.rows.eq(1),
            fresh.head.eq(offset[:bus_bits]),
            fresh.tail.eq((offset + length)[:bus_bits]),
            fresh.beats.eq(beats_covering(fresh.head, length, bus_bytes)),
            spans.w_data.eq(fresh),
            piece.eq(Mux(left < RUNS_AT_ONCE, left, RUNS_AT_ONCE)),
        ]
        self._connect_requests(m, bursts, reading_list)

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"), m.If(self.start):
                m.d.sync += [list_addr.eq(params.list_addr), left.eq(params.runs)]
                m.next = "LIST"
            with m.State("LIST"):
                m.d.comb += [
                    bursts.start.eq(1),
                    bursts.addr.eq(list_addr),
                    bursts.beats.eq(beats_covering(Const(0, 1), piece * RUN_BYTES, bus_bytes)),
                ]
                m.next = "LIST_READ"
            with m.State("LIST_READ"):
                m.d.comb += reading_list.eq(1)
                m.d.sync += index.eq(0)
                with m.If(list_read):
                    m.next = "RUN_READ"
            with m.State("RUN_READ"):
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [
                    bursts.addr.eq(params.source_addr + offset),
                    bursts.beats.eq(fresh.beats),
                    self.bad_run.eq((length == 0) | (offset + length > params.size)),
                ]
                with m.If(~self.bad_run & ~bursts.busy & spans.w_rdy):
                    m.d.comb += [bursts.start.eq(1), spans.w_en.eq(1)]
                    m.d.sync += index.eq(index + 1)
                    m.next = "RUN_READ"
                    with m.If(index == piece - 1):
                        m.next = "PASS"
            with m.State("PASS"), m.If(~bursts.busy & (spans.level == 0) & ~passing):
                m.d.sync += [list_addr.eq(list_addr + RUNS_AT_ONCE * RUN_BYTES), left.eq(left - piece)]
                m.next = "LIST"
                with m.If(left == piece):
                    m.d.comb += self.done.eq(1)
                    m.next = "IDLE"
        return m

    def _store_list(self, m: Module, reading_list: Signal, piece: Value) -> Value:
        """Beats of the list go to memory; returns a pulse with the last one."""
        bus_bytes = self.config.bus_bytes
        width = max(bus_bytes, RUN_BYTES)
        m.submodules.list = self.list = memory = Memory(
            shape=8 * width, depth=max(2, RUNS_AT_ONCE * RUN_BYTES // width), init=[]
        )
        write = memory.write_port()
        beat = Signal(range(RUNS_AT_ONCE * RUN_BYTES // bus_bytes + 1))
        taken = reading_list & self.read_beat.valid
        last = beat == beats_covering(Const(0, 1), piece * RUN_BYTES, bus_bytes) - 1
        with m.If(taken):
            m.d.sync += beat.eq(Mux(last, 0, beat + 1))
        beats_per_row = width // bus_bytes
        if beats_per_row == 1:
            row: Value = self.read_beat.payload
        else:
            held = Signal(8 * bus_bytes)
            with m.If(taken):
                m.d.sync += held.eq(self.read_beat.payload)
            row = Cat(held, self.read_beat.payload)
        m.d.comb += [
            write.addr.eq(beat[exact_log2(beats_per_row) :]),
            write.data.eq(row),
            write.en.eq(taken),
        ]
        return taken & last

    def _load_run(self, m: Module, index: Signal) -> Value:
        """The run at `index`, a cycle later."""
        per_row = max(1, self.config.bus_bytes // RUN_BYTES)
        read = self.list.read_port()
        m.d.comb += [read.addr.eq(index >> exact_log2(per_row)), read.en.eq(1)]
        return read.data.word_select(index[: exact_log2(per_row)], 8 * RUN_BYTES)

    def _pass_beats(self, m: Module, spans: SyncFIFOBuffered, span: data.StructLayout, reading_list: Signal) -> Signal:
        """What is read is written, with the strobes of the run; returns whether a run is under way."""
        bus_bytes = self.config.bus_bytes
        head = Signal(span)
        passing = Signal()
        first = Signal()
        current = Signal(span)
        last = Signal()
        passed = Signal()
        after_head = Signal(bus_bytes)
        before_tail = Signal(bus_bytes)
        ones = (1 << bus_bytes) - 1
        m.d.comb += [
            head.eq(spans.r_data),
            last.eq(current.beats == 1),
            passed.eq(self.write_beat.valid & self.write_beat.ready),
            spans.r_en.eq(~passing | (passed & last)),
            self.write_beat.valid.eq(passing & self.read_beat.valid),
            self.write_beat.payload.data.eq(self.read_beat.payload),
            self.write_beat.payload.strb.eq(Mux(first, after_head, ones) & Mux(last, before_tail, ones)),
            after_head.eq(Const(ones, bus_bytes) << current.head),
            before_tail.eq(~(Const(ones, bus_bytes) << current.tail)),
            self.read_beat.ready.eq(Mux(reading_list, 1, passing & self.write_beat.ready)),
        ]
        with m.If(current.tail == 0):
            m.d.comb += before_tail.eq(ones)
        with m.If(spans.r_en):
            m.d.sync += [passing.eq(spans.r_rdy), current.eq(head), first.eq(1)]
        with m.Elif(passed):
            m.d.sync += [current.beats.eq(current.beats - 1), first.eq(0)]
        return passing

    def _connect_requests(self, m: Module, bursts: RowBursts, reading_list: Signal) -> None:
        """The list is only read; a burst of a run goes to both ports or to none."""
        request, read, write = bursts.request, self.read_request, self.write_request
        moved = Signal(self.config.address_bits)
        m.d.comb += [
            moved.eq(request.payload.addr + self.params.target_addr - self.params.source_addr),
            read.payload.eq(request.payload),
            write.payload.addr.eq(moved),
            write.payload.len.eq(request.payload.len),
            read.valid.eq(request.valid & (reading_list | write.ready)),
            write.valid.eq(request.valid & ~reading_list & read.ready),
            request.ready.eq(read.ready & (reading_list | write.ready)),
        ]
