"""Fetches commands from the ring, checks them and runs them one after the other."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..bus.read_port import burst_layout
from ..commands import (
    CAUSE_BITS,
    COMMAND_BYTES,
    RING_CAUSES,
    ErrorCause,
    GemmFlag,
    Opcode,
    reserved_ranges,
)
from ..config import AcceleratorConfig
from ..copy.copier import copy_layout
from ..errors.draws import error_layout
from ..params import params_layout
from .bus_watch import BusWatch
from .extents import Extents
from .field_checks import FieldChecks, command_fields, fields_of, known_opcodes, stored_bytes
from .ring import RING_INDEX_BITS, Ring
from .settings import POINT_BITS, Settings


class CommandProcessor(wiring.Component):
    """Ring engine.

    After a doorbell it looks at the ring's registers, fetches the command at `head`, refuses it or starts the engines
    with `params`, waits until they and the bus are done, and goes on until `head` reaches `tail` as it was at the
    doorbell. An error stops the ring: `failed` pulses with `cause`, `head` stays at the command that failed until
    `acknowledge`, which moves past it. Doorbells from before the error are void.

    An error in mid-command (`fault`, `surplus_cause`, a time-out) resets the datapath and stops the ports. It is
    reported once nothing is outstanding on the bus or nothing moves there for another time-out. The ports stay stopped
    as long as anything is outstanding; the next command waits for that. A soft reset waits for nothing.

    Members
    -------
    ring_base, ring_entries, tail, doorbell : from the registers
    acknowledge : pulse, the host has seen the error
    soft_reset : pulse, abandon everything and return to index 0
    timeout : cycles in which nothing moves, 0 for never
    head, busy, stopped : status
    draining : the bus still owes answers to a command that was abandoned
    reset_done : pulse, a soft reset is carried out
    drained, failed, cause : pulses and the reason
    params, start : to the engines
    copy_params, copy_start : to the copier; with checksum units
    fetching : beats belong to the command fetch
    request, beat : command fetch
    engines_done : pulse
    bus_idle, bus_progress : state of the AXI ports
    moving : something moves in the engines
    fault, fault_cause : pulse from ports and datapath, and its reason
    surplus_cause : why the running command, or the next one, is not to be trusted, for a cycle; else NONE
    stop, datapath_reset : abort
    command_done, running : for the counters
    capture : pulse, a command copies the counters
    in_transition, points, errors, lengths : of `Settings`
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.settings = Settings(config)
        copy: dict[str, object] = {}
        if config.checksum is not None:
            copy = {"copy_params": Out(copy_layout(config)), "copy_start": Out(1)}
        super().__init__(
            {
                **copy,
                "ring_base": In(64),
                "ring_entries": In(32),
                "tail": In(32),
                "doorbell": In(1),
                "acknowledge": In(1),
                "soft_reset": In(1),
                "timeout": In(32),
                "head": Out(RING_INDEX_BITS),
                "busy": Out(1),
                "stopped": Out(1),
                "draining": Out(1),
                "reset_done": Out(1),
                "drained": Out(1),
                "failed": Out(1),
                "cause": Out(CAUSE_BITS),
                "params": Out(params_layout(config)),
                "start": Out(1),
                "fetching": Out(1),
                "request": Out(stream.Signature(burst_layout(config))),
                "beat": In(stream.Signature(8 * config.bus_bytes)),
                "engines_done": In(1),
                "bus_idle": In(1),
                "bus_progress": In(1),
                "moving": In(1),
                "fault": In(1),
                "fault_cause": In(CAUSE_BITS),
                "surplus_cause": In(CAUSE_BITS),
                "stop": Out(1),
                "datapath_reset": Out(1),
                "command_done": Out(1),
                "running": Out(1),
                "capture": Out(1),
                "in_transition": Out(1),
                "points": Out(data.ArrayLayout(POINT_BITS, config.domains)),
                "errors": Out(error_layout(config)),
                "lengths": Out(len(self.settings.lengths)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus_bytes = self.config.bus_bytes
        command = Signal(8 * stored_bytes(self.config))
        # Which bytes must be zero depends on the opcode, which is not known before the first beat is in.
        reserved_set = Signal(len(known_opcodes(self.config)))
        beats_in = Signal(range(COMMAND_BYTES // bus_bytes + 1))
        fields = fields_of(command, Opcode.GEMM)
        self._decode(m, command, fields)

        pending = Signal()  # a doorbell that has not been looked at
        engines_finished = Signal()
        reset_wanted = Signal()
        unasked = Signal(CAUSE_BITS)
        m.submodules.field_checks = field_checks = FieldChecks(self.config)
        m.submodules.extents = extents = Extents(self.config)
        m.submodules.settings = settings = self.settings
        m.submodules.ring = ring = Ring(self.config)
        m.submodules.watch = watch = BusWatch()
        m.d.comb += [
            field_checks.command.eq(command),
            field_checks.reserved.eq(reserved_set),
            extents.command.eq(command),
            extents.hurry.eq(reset_wanted),
            ring.base.eq(self.ring_base),
            ring.entries.eq(self.ring_entries),
            ring.tail.eq(self.tail),
            self.head.eq(ring.head),
            watch.idle.eq(self.bus_idle),
            watch.progress.eq(self.bus_progress),
            watch.moving.eq(self.moving | settings.in_transition),
            watch.timeout.eq(self.timeout),
            self.stop.eq(watch.stop),
            self.draining.eq(watch.stop & ~self.bus_idle),
            settings.command.eq(command),
            settings.error_key.eq(fields["error_key"]),
            settings.beat.payload.eq(self.beat.payload),
            self.capture.eq(settings.capture),
            self.in_transition.eq(settings.in_transition),
            self.points.eq(settings.points),
            self.errors.eq(settings.errors),
            self.lengths.eq(settings.lengths),
        ]

        if self.config.attention and self.config.error_model.draws:
            own = fields_of(command, Opcode.ATTENTION)
            m.d.comb += settings.value_error_key.eq(own["value_error_key"])
        m.d.comb += [
            self.request.payload.addr.eq(ring.address),
            self.request.payload.len.eq(COMMAND_BYTES // bus_bytes - 1),
        ]
        with m.If(self.doorbell):
            m.d.sync += pending.eq(1)
        with m.If(self.engines_done):
            m.d.sync += engines_finished.eq(1)
        with m.If(self.soft_reset):
            # A doorbell from here on is for the ring as it will be after the reset.
            m.d.sync += [reset_wanted.eq(1), pending.eq(0)]
        with m.If(self.surplus_cause != ErrorCause.NONE):
            m.d.sync += unasked.eq(self.surplus_cause)

        def leave_on_fault() -> None:
            """Last statement of the states in which a command is under way: overrides their other transitions."""
            for wrong, cause in (
                (reset_wanted, None),
                (unasked != ErrorCause.NONE, unasked),
                (watch.expired, watch.cause),
                (self.fault, self.fault_cause),
            ):
                with m.If(wrong):
                    m.next = "ABORT"
                    if cause is not None:
                        m.d.sync += self.cause.eq(cause)

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += watch.restart.eq(1)
                with m.If(reset_wanted):
                    m.next = "RESET"
                with m.Elif(pending & ~self.stopped):
                    m.d.comb += ring.latch.eq(1)
                    m.d.sync += pending.eq(self.doorbell)
                    with m.If(ring.cause != ErrorCause.NONE):
                        m.d.sync += self.cause.eq(ring.cause)
                        m.next = "FAIL"
                    with m.Elif(ring.anything):
                        m.next = "QUIET"
                    with m.Else():
                        m.d.comb += self.drained.eq(1)
            with m.State("QUIET"):
                # Late answers to an abandoned command must not be taken for this one's.
                m.d.comb += watch.abandon.eq(~self.bus_idle)
                with m.If(unasked != ErrorCause.NONE):
                    m.d.sync += self.cause.eq(unasked)
                    m.next = "FAIL"
                with m.Elif(self.bus_idle):
                    m.next = "REQUEST"
                with m.Elif(watch.expired):
                    m.d.sync += self.cause.eq(watch.cause)
                    m.next = "FAIL"
                with m.If(reset_wanted):
                    m.next = "RESET"
            with m.State("REQUEST"):
                m.d.comb += [self.fetching.eq(1), self.request.valid.eq(1)]
                m.d.sync += [beats_in.eq(0), reserved_set.eq(0)]
                with m.If(self.request.ready):
                    m.next = "FETCH"
                leave_on_fault()
            with m.State("FETCH"):
                m.d.comb += [self.fetching.eq(1), self.beat.ready.eq(1)]
                with m.If(self.beat.valid):
                    self._store_beat(m, command, reserved_set, beats_in)
                    m.d.sync += beats_in.eq(beats_in + 1)
                    with m.If(beats_in == COMMAND_BYTES // bus_bytes - 1):
                        m.next = "CHECK"
                leave_on_fault()
            with m.State("CHECK"):
                legal = field_checks.cause == ErrorCause.NONE
                m.d.sync += self.cause.eq(field_checks.cause)
                product: Value = fields["opcode"] == Opcode.GEMM
                if self.config.attention:
                    product = product | (fields["opcode"] == Opcode.ATTENTION)
                m.d.comb += extents.start.eq(legal & product)
                m.next = "EXTENTS"
                with m.If(~product):
                    m.next = "SETTINGS_START"
                if self.config.checksum is not None:
                    with m.If(fields["opcode"] == Opcode.COPY):
                        m.next = "COPY_START"
                with m.If(~legal):
                    m.next = "FAIL"
            with m.State("EXTENTS"), m.If(extents.done):
                m.d.sync += self.cause.eq(extents.cause)
                m.next = "START"
                with m.If(extents.cause != ErrorCause.NONE):
                    m.next = "FAIL"
            with m.State("SETTINGS_START"):
                m.d.comb += settings.start.eq(1)
                m.d.sync += engines_finished.eq(0)
                m.next = "SETTINGS"
            with m.State("SETTINGS"):
                m.d.comb += watch.running.eq(1)
                with m.If(settings.reading):
                    m.d.comb += [
                        self.fetching.eq(1),
                        self.request.valid.eq(settings.request.valid),
                        self.request.payload.eq(settings.request.payload),
                        settings.request.ready.eq(self.request.ready),
                        settings.beat.valid.eq(self.beat.valid),
                        self.beat.ready.eq(settings.beat.ready),
                    ]
                with m.If(settings.done):
                    m.d.sync += engines_finished.eq(1)
                    m.next = "RUN"
                leave_on_fault()
            if self.config.checksum is not None:
                own = fields_of(command, Opcode.COPY)
                m.d.comb += [self.copy_params[name].eq(own[name]) for name in self.copy_params.shape().members]
                with m.State("COPY_START"):
                    m.d.comb += self.copy_start.eq(1)
                    m.d.sync += engines_finished.eq(0)
                    m.next = "RUN"
            with m.State("START"):
                m.d.comb += self.start.eq(1)
                m.d.sync += engines_finished.eq(0)
                m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += watch.running.eq(1)
                with m.If(engines_finished & self.bus_idle & (unasked == ErrorCause.NONE)):
                    m.d.comb += [self.command_done.eq(1), ring.advance.eq(1)]
                    m.next = "QUIET"
                    with m.If(ring.at_end):
                        # Unless the host has put further commands behind them meanwhile.
                        m.d.comb += self.drained.eq(~pending)
                        m.next = "IDLE"
                with m.Else():
                    leave_on_fault()
            with m.State("ABORT"):
                m.d.comb += [watch.abandon.eq(1), watch.restart.eq(1)]
                m.d.comb += [self.datapath_reset.eq(1), settings.abort.eq(1)]
                m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If(self.bus_idle | watch.expired):
                    m.next = "FAIL"
                with m.If(reset_wanted):
                    m.next = "RESET"
            with m.State("FAIL"):
                m.d.comb += self.failed.eq(1)
                m.d.sync += [self.stopped.eq(1), pending.eq(0), unasked.eq(ErrorCause.NONE)]
                m.next = "IDLE"
            with m.State("RESET"):
                m.d.comb += [settings.clear.eq(1), ring.clear.eq(1), self.reset_done.eq(1)]
                m.d.sync += [reset_wanted.eq(0), self.stopped.eq(0), self.cause.eq(ErrorCause.NONE)]
                m.d.sync += unasked.eq(ErrorCause.NONE)
                m.next = "IDLE"

        active = ["REQUEST", "FETCH", "CHECK", "EXTENTS", "SETTINGS_START", "SETTINGS", "START", "RUN"]
        if self.config.checksum is not None:
            active.append("COPY_START")
        m.d.comb += [
            self.running.eq(Cat(fsm.ongoing(state) for state in active).any()),
            self.busy.eq(~fsm.ongoing("IDLE") | reset_wanted | ((pending | self.doorbell) & ~self.stopped)),
        ]
        with m.If(self.acknowledge & self.stopped):
            m.d.sync += self.stopped.eq(0)
            with m.If(Cat(self.cause != cause for cause in RING_CAUSES).all()):
                m.d.comb += ring.advance.eq(1)
        return m

    def _store_beat(self, m: Module, command: Signal, reserved_set: Signal, beats_in: Signal) -> None:
        bus_bytes = self.config.bus_bytes
        with m.Switch(beats_in):
            for beat in range(COMMAND_BYTES // bus_bytes):
                first = beat * bus_bytes
                kept = min(bus_bytes, len(command) // 8 - first)
                with m.Case(beat):
                    if kept > 0:
                        m.d.sync += command[8 * first : 8 * (first + kept)].eq(self.beat.payload)
                    for index, opcode in enumerate(known_opcodes(self.config)):
                        reserved = [
                            self.beat.payload.word_select(byte - first, 8)
                            for low, high in reserved_ranges(command_fields(self.config, opcode))
                            for byte in range(max(low, first), min(high, first + bus_bytes))
                        ]
                        if reserved:
                            with m.If(Cat(reserved).any()):
                                m.d.sync += reserved_set[index].eq(1)

    def _decode(self, m: Module, command: Signal, fields: dict[str, Value]) -> None:
        if self.config.attention:
            fields = fields_of(command, Opcode.ATTENTION) | fields
        for name in params_layout(self.config).members:
            if name in fields:
                m.d.comb += self.params[name].eq(fields[name])
        for flag in GemmFlag:
            assert flag.name is not None
            if flag.name.lower() in self.params.shape().members:
                m.d.comb += self.params[flag.name.lower()].eq((fields["flags"] & flag) != 0)
        if self.config.attention:
            attention = fields["opcode"] == Opcode.ATTENTION
            m.d.comb += self.params.attention.eq(attention)
            with m.If(attention):
                # Its output is int8.
                m.d.comb += self.params.requant.eq(1)
