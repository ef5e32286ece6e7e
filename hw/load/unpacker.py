"""Repacks bus beats into elements of another width."""

from __future__ import annotations

from math import gcd

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..config import AcceleratorConfig
from ..shifters import shifted_down, shifted_up
from .jobs import job_layout


class Unpacker(wiring.Component):
    """Takes the beats of a job and emits its elements of `element_bytes` bytes, row by row.

    Throughput: one beat per cycle while an element is at least a beat wide, else one element per cycle; no cycle
    is lost between rows. Bytes past a row's valid ones are emitted as zero.

    Members
    -------
    start : pulse, latch `job` (only while not `busy`)
    beat : stream of beats
    valid, element : an element; there is no back-pressure
    row_end, job_end : the element is the last of its row, of the job
    busy : a job is in progress
    """

    def __init__(self, config: AcceleratorConfig, *, element_bytes: int) -> None:
        self.config = config
        self.element_bytes = element_bytes
        super().__init__(
            {
                "start": In(1),
                "job": In(job_layout(config)),
                "beat": In(stream.Signature(8 * config.bus_bytes)),
                "valid": Out(1),
                "element": Out(8 * element_bytes),
                "row_end": Out(1),
                "job_end": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes, element_bytes = self.config.bus_bytes, self.element_bytes
        # All byte positions are multiples of the greatest common divisor: with R = 16 on 16 bytes nothing shifts.
        unit = gcd(bus_bytes, element_bytes)
        beat_units, element_units = bus_bytes // unit, element_bytes // unit
        most_units = beat_units + element_units - 1
        job = Signal(job_layout(self.config))

        held = Signal(8 * unit * most_units)  # bytes that wait for the rest of their element
        level = Signal(range(most_units + 1))
        beats_left = Signal.like(job.beats)
        bytes_left = Signal.like(job.row_bytes)
        elements_left = Signal.like(job.elements)
        rows_left = Signal.like(job.rows)
        zero_rows_left = Signal.like(job.zero_rows)
        first_beat = Signal()

        needs_beat = Signal()
        taken = Signal()
        skip = Signal(range(beat_units + 1))
        arrived = Signal(8 * bus_bytes)
        joined = Signal(8 * unit * most_units)
        have = Signal(range(most_units + 1))
        out_of_beats = Signal()
        m.d.comb += [
            needs_beat.eq(self.busy & (level < element_units) & (beats_left != 0)),
            self.beat.ready.eq(needs_beat),
            taken.eq(needs_beat & self.beat.valid),
            skip.eq(Mux(first_beat, job.offset // unit if unit < bus_bytes else 0, 0)),
            arrived.eq(shifted_down(m, self.beat.payload, skip, unit=8 * unit)),
            joined.eq(held | Mux(taken, shifted_up(m, arrived, level, unit=8 * unit, width=len(joined)), 0)),
            have.eq(level + Mux(taken, beat_units - skip, 0)),
            out_of_beats.eq(beats_left == taken),
            self.valid.eq(self.busy & ((have >= element_units) | out_of_beats)),
            self.element.eq(
                Cat(Mux(bytes_left > index, joined[8 * index : 8 * index + 8], 0) for index in range(element_bytes))
            ),
            self.row_end.eq(elements_left == 1),
            self.job_end.eq(self.row_end & (rows_left + zero_rows_left == 1)),
        ]
        with m.If(taken):
            m.d.sync += [first_beat.eq(0), beats_left.eq(beats_left - 1)]
        with m.If(self.valid):
            m.d.sync += [
                held.eq(joined[8 * element_bytes :]),
                level.eq(Mux(have > element_units, have - element_units, 0)),
                bytes_left.eq(Mux(bytes_left > element_bytes, bytes_left - element_bytes, 0)),
                elements_left.eq(elements_left - 1),
            ]
        with m.Else():
            m.d.sync += [held.eq(joined), level.eq(have)]
        with m.If(self.valid & self.row_end):
            m.d.sync += [
                held.eq(0),
                level.eq(0),
                first_beat.eq(1),
                elements_left.eq(job.elements),
                beats_left.eq(job.beats),
                bytes_left.eq(job.row_bytes),
            ]
            with m.If(rows_left != 0):
                m.d.sync += rows_left.eq(rows_left - 1)
            with m.Else():
                m.d.sync += zero_rows_left.eq(zero_rows_left - 1)
            with m.If(rows_left <= 1):
                m.d.sync += [beats_left.eq(0), bytes_left.eq(0)]
            with m.If(self.job_end):
                m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [
                self.busy.eq(1),
                job.eq(self.job),
                held.eq(0),
                level.eq(0),
                first_beat.eq(1),
                beats_left.eq(self.job.beats),
                bytes_left.eq(self.job.row_bytes),
                elements_left.eq(self.job.elements),
                rows_left.eq(self.job.rows),
                zero_rows_left.eq(self.job.zero_rows),
            ]
        return m
