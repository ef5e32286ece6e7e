"""Operating points and timing-error settings, and the commands that change them."""

from __future__ import annotations

from amaranth.hdl import Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..arithmetic import mix
from ..bus.bursts import RowBursts
from ..bus.read_port import burst_layout
from ..commands import SET_ERRORS_FIELDS, SET_POINT_FIELDS, Opcode
from ..config import MAX_OPERATING_POINTS, AcceleratorConfig
from ..errors.constants import BIT_THRESHOLDS, LENGTH_BITS
from ..errors.draws import error_layout

POINT_BITS = (MAX_OPERATING_POINTS - 1).bit_length()
COMMAND_BITS = 8 * max(spec.offset + spec.bits // 8 for spec in (*SET_ERRORS_FIELDS, *SET_POINT_FIELDS))


def lengths_columns(config: AcceleratorConfig) -> int:
    """Bytes of a row of the table of settled carry lengths: array columns, then check columns."""
    return config.cols + len(config.check_columns)


class Settings(wiring.Component):
    """Carries out the commands that are no product.

    Members
    -------
    command : bits of the command that was checked
    opcode, start : pulse, carry it out
    done : pulse
    abort : pulse, give up what is being done
    clear : pulse, everything as after reset
    error_key : of the running product
    value_error_key : of the product of exponentials and values; with an attention unit
    request, beat : reads of the table of lengths
    reading : beats belong to it
    capture : pulse, copy the counters
    in_transition : a domain is changing its operating point
    points : operating point of every domain
    errors : state of the `flip` model for the running product
    lengths : settled carry lengths of all elements, row by row
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        elements = config.rows * lengths_columns(config) if config.error_model.settles else 0
        super().__init__(
            {
                "command": In(COMMAND_BITS),
                "start": In(1),
                "done": Out(1),
                "abort": In(1),
                "clear": In(1),
                "error_key": In(32),
                **({"value_error_key": In(32)} if config.attention and config.error_model.draws else {}),
                "request": Out(stream.Signature(burst_layout(config))),
                "beat": In(stream.Signature(8 * config.bus_bytes)),
                "reading": Out(1),
                "capture": Out(1),
                "in_transition": Out(1),
                "points": Out(data.ArrayLayout(POINT_BITS, config.domains)),
                "errors": Out(error_layout(config)),
                "lengths": Out(LENGTH_BITS * elements, init=(1 << (LENGTH_BITS * elements)) - 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        fields = {spec.name: self.command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in SET_POINT_FIELDS}
        opcode = fields["opcode"]
        left = Signal(32)
        arrived = Signal()
        if config.error_model.draws:
            self._errors(m)
        if config.error_model.settles:
            self._lengths(m, fields, arrived)
        with m.FSM():
            with m.State("IDLE"), m.If(self.start):
                m.next = "DONE"
                with m.If(opcode == Opcode.SET_POINT):
                    m.next = "READ" if config.error_model.settles else "MOVE"
                with m.If(opcode == Opcode.SNAPSHOT):
                    m.d.comb += self.capture.eq(1)
            with m.State("READ"):
                m.d.comb += self.reading.eq(1)
                with m.If(arrived):
                    m.next = "MOVE"
                with m.If(self.abort):
                    m.next = "IDLE"
            with m.State("MOVE"):
                m.d.sync += left.eq(fields["transition_cycles"])
                for domain in range(config.domains):
                    with m.If(fields["domain"] == domain):
                        m.d.sync += self.points[domain].eq(fields["point"])
                m.next = "TRANSITION"
                with m.If(self.abort):
                    m.next = "IDLE"
            with m.State("TRANSITION"):
                m.d.comb += self.in_transition.eq(left != 0)
                m.d.sync += left.eq(left - 1)
                with m.If(left <= 1):
                    m.next = "DONE"
                with m.If(self.abort):
                    m.next = "IDLE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        with m.If(self.clear):
            m.d.sync += self.points.eq(0)
        return m

    def _errors(self, m: Module) -> None:
        config = self.config
        fields = {spec.name: self.command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in SET_ERRORS_FIELDS}
        seed = Signal(32)
        rates = Signal(data.ArrayLayout(32, config.operating_points))
        # Two stages of registers: the key is constant while a product runs, and looked at many cycles after its start.
        key = Signal(32)
        m.d.sync += [
            key.eq(mix(m, self.error_key, "mixed_key")),
            self.errors.base.eq(mix(m, seed + key, "base")),
        ]
        if config.attention:
            value_key = Signal(32)
            m.d.sync += [
                value_key.eq(mix(m, self.value_error_key, "mixed_value_key")),
                self.errors.value_base.eq(mix(m, seed + value_key, "value_base")),
            ]
        for domain in range(config.domains):
            m.d.sync += self.errors.rates[domain].eq(rates[self.points[domain]])
        with m.If(self.start & (fields["opcode"] == Opcode.SET_ERRORS)):
            m.d.sync += seed.eq(fields["seed"])
            m.d.sync += [rates[point].eq(fields[f"rate_{point}"]) for point in range(config.operating_points)]
            m.d.sync += [self.errors.bits[bit].eq(fields[f"bit_{bit}"]) for bit in range(BIT_THRESHOLDS)]
        with m.If(self.clear):
            m.d.sync += [seed.eq(0), rates.eq(0)]

    def _lengths(self, m: Module, fields: dict[str, Value], arrived: Signal) -> None:
        """Read R rows of the table; take over the columns of the command's domain."""
        config = self.config
        columns, bus_bytes = lengths_columns(config), config.bus_bytes
        beats = -(-columns // bus_bytes)
        bursts = RowBursts(config, most_rows=config.rows, most_row_bytes=columns)
        m.submodules.bursts = ResetInserter(self.abort)(bursts)
        connect(m, bursts.request, flipped(self.request))
        row = Signal(range(config.rows + 1))
        beat = Signal(range(beats))
        last_beat = Signal()
        m.d.comb += [
            bursts.addr.eq(fields["lengths_addr"]),
            bursts.stride.eq(fields["lengths_stride"]),
            bursts.rows.eq(config.rows),
            bursts.beats.eq(beats),
            bursts.start.eq(self.start & (fields["opcode"] == Opcode.SET_POINT)),
            self.beat.ready.eq(self.reading),
            last_beat.eq(beat == beats - 1),
            arrived.eq(self.beat.valid & self.reading & last_beat & (row == config.rows - 1)),
        ]
        with m.If(self.start):
            m.d.sync += [row.eq(0), beat.eq(0)]
        with m.Elif(self.beat.valid & self.reading):
            m.d.sync += [beat.eq(Mux(last_beat, 0, beat + 1)), row.eq(row + last_beat)]
        with m.If(self.beat.valid & self.reading):
            for r in range(config.rows):
                for index in range(beats):
                    with m.If((row == r) & (beat == index)):
                        for column in range(index * bus_bytes, min(columns, (index + 1) * bus_bytes)):
                            domain = config.domain_of_column(column) if column < config.cols else config.check_domain
                            byte = self.beat.payload.word_select(column - index * bus_bytes, 8)
                            target = self.lengths.word_select(r * columns + column, LENGTH_BITS)
                            with m.If(fields["domain"] == domain):
                                m.d.sync += target.eq(byte)
        with m.If(self.clear):
            m.d.sync += self.lengths.eq(Const(-1, len(self.lengths)))
