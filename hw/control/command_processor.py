"""Fetches commands from the ring, checks them and runs them one after the other."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..bus.axi import BURST_BOUNDARY_BYTES
from ..bus.read_port import burst_layout
from ..commands import (
    CAUSE_BITS,
    CHANNEL_RECORD_BYTES,
    COMMAND_BYTES,
    COMMAND_FIELDS,
    COMMAND_VERSION,
    COPY_FIELDS,
    GEMM_FIELDS,
    RUN_BYTES,
    SET_ERRORS_FIELDS,
    SET_POINT_FIELDS,
    ErrorCause,
    GemmFlag,
    Opcode,
    reserved_ranges,
)
from ..config import BATCH_BITS, DIMENSION_BITS, K_LIMIT, AcceleratorConfig
from ..copy.copier import RUN_COUNT_BITS, copy_layout
from ..params import THETA_BITS, params_layout
from ..protect.flip import error_layout
from .settings import POINT_BITS, Settings, lengths_columns
from .tile_rows import TileRows


def known_opcodes(config: AcceleratorConfig) -> tuple[Opcode, ...]:
    """Commands that an accelerator of this configuration accepts."""
    known = [Opcode.GEMM, Opcode.FENCE, Opcode.SNAPSHOT]
    if config.timing_model != "none":
        known.append(Opcode.SET_POINT)
    if config.timing_model == "flip":
        known.append(Opcode.SET_ERRORS)
    if config.checksum is not None:
        known.append(Opcode.COPY)
    return tuple(known)


def stored_bytes(config: AcceleratorConfig) -> int:
    """Bytes of a command that carry fields; of the others only "any bit set" is kept."""
    return max(spec.offset + spec.bits // 8 for opcode in known_opcodes(config) for spec in COMMAND_FIELDS[opcode])


PAGE_BITS = exact_log2(BURST_BOUNDARY_BYTES)
RING_INDEX_BITS = 16


class CommandProcessor(wiring.Component):
    """Ring engine.

    After a doorbell it fetches the command at `head`, refuses it or starts the engines with `params`, waits until
    they and the bus are done, and goes on until `head` reaches `tail`. An error stops the ring: `failed` pulses
    with `cause`, `head` stays at the command that failed until `acknowledge`, which moves past it.

    On an error in mid-command (`fault`) it holds `stop` until nothing is outstanding on the bus, or until the bus
    has made no progress for the time-out, and then resets the datapath.

    Members
    -------
    ring_base, ring_entries, tail, doorbell : from the registers
    acknowledge : pulse, the host has seen the error
    soft_reset : pulse, abandon everything and return to index 0
    timeout : cycles without bus progress, 0 for never
    head, busy, stopped : status
    drained, failed, cause : pulses and the reason
    params, start : to the engines
    copy_params, copy_start : to the copier; with checksum units
    fetching : beats belong to the command fetch
    request, beat : command fetch
    engines_done : pulse
    bus_idle, bus_progress : state of the AXI ports
    fault, fault_cause : pulse from the datapath and its reason
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
                "ring_entries": In(RING_INDEX_BITS),
                "tail": In(RING_INDEX_BITS),
                "doorbell": In(1),
                "acknowledge": In(1),
                "soft_reset": In(1),
                "timeout": In(32),
                "head": Out(RING_INDEX_BITS),
                "busy": Out(1),
                "stopped": Out(1),
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
                "fault": In(1),
                "fault_cause": In(CAUSE_BITS),
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
        reserved_set = {opcode: Signal(name=f"reserved_set_{opcode.name}") for opcode in known_opcodes(self.config)}
        beats_in = Signal(range(COMMAND_BYTES // bus_bytes + 1))
        fields = {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in GEMM_FIELDS}
        self._decode(m, fields)

        next_head = Signal(RING_INDEX_BITS)
        m.d.comb += next_head.eq(Mux(self.head + 1 == self.ring_entries, 0, self.head + 1))
        ring_bad = (
            (self.ring_entries == 0)
            | (self.ring_base[: exact_log2(COMMAND_BYTES)] != 0)
            | (self.ring_base >> self.config.address_bits).any()
            | (self.tail >= self.ring_entries)
        )
        pending = Signal()  # a doorbell that has not been looked at
        engines_finished = Signal()
        reset_wanted = Signal()
        quiet_cycles = Signal(32)
        timed_out = Signal()
        extents_start = Signal()
        extents_done = Signal()
        extents_cause = Signal(CAUSE_BITS)
        self._check_extents(m, fields, extents_start, extents_done, extents_cause)
        simple_cause = self._check_fields(m, command, fields, reserved_set)
        m.submodules.settings = settings = self.settings
        m.d.comb += [
            settings.command.eq(command),
            settings.error_key.eq(fields["error_key"]),
            settings.beat.payload.eq(self.beat.payload),
            self.capture.eq(settings.capture),
            self.in_transition.eq(settings.in_transition),
            self.points.eq(settings.points),
            self.errors.eq(settings.errors),
            self.lengths.eq(settings.lengths),
        ]

        m.d.comb += [
            timed_out.eq((self.timeout != 0) & (quiet_cycles >= self.timeout)),
            self.request.payload.addr.eq(self.ring_base + (self.head << exact_log2(COMMAND_BYTES))),
            self.request.payload.len.eq(COMMAND_BYTES // bus_bytes - 1),
        ]
        # The watchdog runs only while something is outstanding: compute phases may be long.
        with m.If(self.bus_progress | self.bus_idle):
            m.d.sync += quiet_cycles.eq(0)
        with m.Elif(~timed_out):
            m.d.sync += quiet_cycles.eq(quiet_cycles + 1)
        with m.If(self.doorbell):
            m.d.sync += pending.eq(1)
        with m.If(self.engines_done):
            m.d.sync += engines_finished.eq(1)
        with m.If(self.soft_reset):
            m.d.sync += reset_wanted.eq(1)

        def leave_on_fault() -> None:
            """Last statement of the states in which the bus is in use: overrides their other transitions."""
            with m.If(self.fault):
                m.d.sync += self.cause.eq(self.fault_cause)
                m.next = "ABORT"
            with m.Elif(timed_out):
                m.d.sync += [self.cause.eq(ErrorCause.BUS_TIMEOUT), quiet_cycles.eq(0)]
                m.next = "ABORT"
            with m.Elif(reset_wanted):
                m.next = "ABORT"

        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(reset_wanted):
                    m.next = "RESET"
                with m.Elif(pending & ~self.stopped):
                    m.d.sync += pending.eq(self.doorbell)
                    with m.If(ring_bad):
                        m.d.sync += self.cause.eq(ErrorCause.RING)
                        m.next = "FAIL"
                    with m.Elif(self.head != self.tail):
                        m.next = "QUIET"
                    with m.Else():
                        m.d.comb += self.drained.eq(1)
            with m.State("QUIET"):
                # After a time-out late answers may still come in; they must not be taken for this command's.
                m.d.comb += self.stop.eq(~self.bus_idle)
                with m.If(self.bus_idle):
                    m.next = "REQUEST"
                with m.Elif(timed_out):
                    m.d.sync += [self.cause.eq(ErrorCause.BUS_TIMEOUT), quiet_cycles.eq(0)]
                    m.next = "FAIL"
            with m.State("REQUEST"):
                m.d.comb += [self.fetching.eq(1), self.request.valid.eq(1)]
                m.d.sync += [beats_in.eq(0), *(signal.eq(0) for signal in reserved_set.values())]
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
                m.d.sync += self.cause.eq(simple_cause)
                m.d.comb += extents_start.eq((simple_cause == ErrorCause.NONE) & (fields["opcode"] == Opcode.GEMM))
                m.next = "EXTENTS"
                with m.If(fields["opcode"] != Opcode.GEMM):
                    m.next = "SETTINGS_START"
                if self.config.checksum is not None:
                    with m.If(fields["opcode"] == Opcode.COPY):
                        m.next = "COPY_START"
                with m.If(simple_cause != ErrorCause.NONE):
                    m.next = "FAIL"
            with m.State("EXTENTS"), m.If(extents_done):
                m.d.sync += self.cause.eq(extents_cause)
                m.next = "START"
                with m.If(extents_cause != ErrorCause.NONE):
                    m.next = "FAIL"
            with m.State("SETTINGS_START"):
                m.d.comb += settings.start.eq(1)
                m.d.sync += engines_finished.eq(0)
                m.next = "SETTINGS"
            with m.State("SETTINGS"):
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
                own = {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in COPY_FIELDS}
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
                with m.If(engines_finished & self.bus_idle):
                    m.d.comb += self.command_done.eq(1)
                    m.d.sync += self.head.eq(next_head)
                    m.next = "QUIET"
                    with m.If(next_head == self.tail):
                        m.d.comb += self.drained.eq(1)
                        m.next = "IDLE"
                with m.Else():
                    leave_on_fault()
            with m.State("ABORT"):
                m.d.comb += self.stop.eq(1)
                with m.If(self.bus_idle | timed_out):
                    m.d.comb += [self.datapath_reset.eq(1), settings.abort.eq(1)]
                    m.d.sync += quiet_cycles.eq(0)
                    m.next = "FAIL"
                    with m.If(reset_wanted):
                        m.next = "RESET"
            with m.State("FAIL"):
                m.d.comb += self.failed.eq(1)
                m.d.sync += [self.stopped.eq(1), pending.eq(0)]
                m.next = "IDLE"
            with m.State("RESET"):
                m.d.comb += settings.clear.eq(1)
                m.d.sync += [self.head.eq(0), self.stopped.eq(0), pending.eq(0), reset_wanted.eq(0)]
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
            with m.If(self.cause != ErrorCause.RING):
                m.d.sync += self.head.eq(next_head)
        return m

    def _store_beat(self, m: Module, command: Signal, reserved_set: dict[Opcode, Signal], beats_in: Signal) -> None:
        bus_bytes = self.config.bus_bytes
        with m.Switch(beats_in):
            for beat in range(COMMAND_BYTES // bus_bytes):
                first = beat * bus_bytes
                kept = min(bus_bytes, len(command) // 8 - first)
                with m.Case(beat):
                    if kept > 0:
                        m.d.sync += command[8 * first : 8 * (first + kept)].eq(self.beat.payload)
                    for opcode, signal in reserved_set.items():
                        reserved = [
                            self.beat.payload.word_select(byte - first, 8)
                            for low, high in reserved_ranges(COMMAND_FIELDS[opcode])
                            for byte in range(max(low, first), min(high, first + bus_bytes))
                        ]
                        if reserved:
                            with m.If(Cat(reserved).any()):
                                m.d.sync += signal.eq(1)

    def _decode(self, m: Module, fields: dict[str, Value]) -> None:
        for name in params_layout(self.config).members:
            if name in fields:
                m.d.comb += self.params[name].eq(fields[name])
        for flag in GemmFlag:
            assert flag.name is not None
            if flag.name.lower() in self.params.shape().members:
                m.d.comb += self.params[flag.name.lower()].eq((fields["flags"] & flag) != 0)

    def _check_fields(
        self, m: Module, command: Signal, fields: dict[str, Value], reserved_set: dict[Opcode, Signal]
    ) -> Signal:
        """Checks of single fields; the first that fails names the cause."""
        opcode = fields["opcode"]
        known = [opcode == each for each in known_opcodes(self.config)]
        reserved = [(opcode == each) & signal for each, signal in reserved_set.items()]
        version = command[8:16]
        checks = [
            (ErrorCause.OPCODE, ~Cat(known).any()),
            (ErrorCause.VERSION, version != COMMAND_VERSION),
            (ErrorCause.RESERVED, Cat(reserved).any()),
        ]
        checks += [(cause, (opcode == Opcode.GEMM) & wrong) for cause, wrong in self._gemm_checks(m, fields)]
        if Opcode.SET_ERRORS in known_opcodes(self.config):
            own = {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in SET_ERRORS_FIELDS}
            unused = [own[f"rate_{point}"] for point in range(self.config.operating_points, 8)]
            if unused:
                checks.append((ErrorCause.RATE, (opcode == Opcode.SET_ERRORS) & Cat(unused).any()))
        if Opcode.SET_POINT in known_opcodes(self.config):
            own = {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in SET_POINT_FIELDS}
            checks += [(cause, (opcode == Opcode.SET_POINT) & wrong) for cause, wrong in self._point_checks(own)]
        if Opcode.COPY in known_opcodes(self.config):
            own = {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in COPY_FIELDS}
            checks += [(cause, (opcode == Opcode.COPY) & wrong) for cause, wrong in self._copy_checks(own)]
        cause = Signal(CAUSE_BITS, name="simple_cause")
        for value, condition in reversed(checks):
            with m.If(condition):
                m.d.comb += cause.eq(value)
        return cause

    def _point_checks(self, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        config = self.config
        address, stride = fields["lengths_addr"], fields["lengths_stride"]
        base, limit = fields["read_base"], fields["read_limit"]
        if config.timing_model == "carry":
            bus_bits = exact_log2(config.bus_bytes)
            row_bytes = -(-lengths_columns(config) // config.bus_bytes) * config.bus_bytes
            end = address + stride * (config.rows - 1) + row_bytes
            wrong = (
                Cat(value[:bus_bits] for value in (address, stride, base, limit)).any()
                | (address < base)
                | (end > limit)
                | (limit > Const(1 << config.address_bits, 64))
            )
        else:
            wrong = Cat(address, stride, base, limit).any()
        return [
            (ErrorCause.DOMAIN, fields["domain"] >= config.domains),
            (ErrorCause.POINT, fields["point"] >= config.operating_points),
            (ErrorCause.LENGTHS, wrong),
        ]

    def _bad_window(self, base: Value, limit: Value) -> Value:
        bus_bits = exact_log2(self.config.bus_bytes)
        top = Const(1 << self.config.address_bits, 64)
        return Cat(base[:bus_bits], limit[:bus_bits]).any() | (base >= limit) | (limit > top)

    def _copy_checks(self, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        bus_bytes = self.config.bus_bytes
        read, write = (fields["read_base"], fields["read_limit"]), (fields["write_base"], fields["write_limit"])

        def outside(address: Value, length: Value, window: tuple[Value, Value]) -> Value:
            beats = (length + bus_bytes - 1) >> exact_log2(bus_bytes)
            return (address < window[0]) | (address >= window[1]) | (address + beats * bus_bytes > window[1])

        runs, source, target, runs_addr = (fields[n] for n in ("runs", "source_addr", "target_addr", "list_addr"))
        return [
            (ErrorCause.READ_WINDOW, self._bad_window(*read)),
            (ErrorCause.WRITE_WINDOW, self._bad_window(*write)),
            (ErrorCause.RUNS, (runs == 0) | (runs >> RUN_COUNT_BITS).any()),
            (ErrorCause.SOURCE, source[:PAGE_BITS].any() | outside(source, fields["size"], read)),
            (ErrorCause.TARGET, target[:PAGE_BITS].any() | outside(target, fields["size"], write)),
            (
                ErrorCause.LIST,
                runs_addr[: exact_log2(bus_bytes)].any() | outside(runs_addr, runs * RUN_BYTES, read),
            ),
        ]

    def _gemm_checks(self, m: Module, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        bus_bits = exact_log2(self.config.bus_bytes)

        def misaligned(name: str) -> Value:
            return fields[name][:bus_bits] != 0

        def out_of_range(name: str, most: int) -> Value:
            return (fields[name] == 0) | (fields[name] > most)

        flags = fields["flags"]
        channel = (flags & GemmFlag.CHANNEL) != 0
        requant = (flags & GemmFlag.REQUANT) != 0
        check = (flags & GemmFlag.CHECK) != 0
        needs_check = GemmFlag.CORRECT | GemmFlag.SUPPRESS | GemmFlag.ZERO
        both = GemmFlag.SUPPRESS | GemmFlag.ZERO
        known = sum(GemmFlag)
        if self.config.checksum is None:
            known &= ~(needs_check | GemmFlag.CHECK)
        log_addr, log_bytes = fields["log_addr"], fields["log_bytes"]
        log_wrong = (
            misaligned("log_addr")
            | log_bytes[: exact_log2(self.config.log_record_bytes)].any()
            | (log_addr < fields["write_base"])
            | (log_addr + log_bytes > fields["write_limit"])
        )
        row_bytes = Signal(DIMENSION_BITS + 2)
        m.d.comb += row_bytes.eq(Mux(requant, fields["n"], fields["n"] << 2))
        return [
            (
                ErrorCause.FLAGS,
                ((flags & ~Const(known, 16)) != 0)
                | (requant & ~channel)
                | (((flags & needs_check) != 0) & ~check)
                | ((flags & both) == both),
            ),
            (ErrorCause.BATCH, out_of_range("batch", (1 << BATCH_BITS) - 1)),
            (ErrorCause.M, out_of_range("m", (1 << DIMENSION_BITS) - 1)),
            (ErrorCause.N, out_of_range("n", (1 << DIMENSION_BITS) - 1)),
            (ErrorCause.K, out_of_range("k", K_LIMIT)),
            (ErrorCause.LDA, misaligned("lda")),
            (ErrorCause.LDW, misaligned("ldw")),
            (ErrorCause.LDY, misaligned("ldy") | (fields["ldy"] < row_bytes)),
            (ErrorCause.A_ADDR, misaligned("a_addr")),
            (ErrorCause.W_ADDR, misaligned("w_addr")),
            (ErrorCause.Y_ADDR, misaligned("y_addr")),
            (
                ErrorCause.CHANNEL_ADDR,
                Mux(channel, misaligned("channel_addr"), fields["channel_addr"] != 0),
            ),
            (ErrorCause.A_BATCH_STRIDE, misaligned("a_batch_stride")),
            (ErrorCause.W_BATCH_STRIDE, misaligned("w_batch_stride")),
            (ErrorCause.Y_BATCH_STRIDE, misaligned("y_batch_stride")),
            (ErrorCause.READ_WINDOW, self._bad_window(fields["read_base"], fields["read_limit"])),
            (ErrorCause.WRITE_WINDOW, self._bad_window(fields["write_base"], fields["write_limit"])),
            (ErrorCause.THETA, Mux(check, fields["theta"] >> THETA_BITS, fields["theta"]) != 0),
            (ErrorCause.LOG, Mux(check & (log_bytes != 0), log_wrong, log_addr.any() | log_bytes.any())),
        ]

    def _check_extents(self, m: Module, fields: dict[str, Value], start: Signal, done: Signal, cause: Signal) -> None:
        """Compare the last byte of each operand with its window, with one multiplier over several cycles.

        Before, of tiled operands, the stride with what a row takes in all tiles.
        """
        bus_bytes = self.config.bus_bytes
        factor = Signal(32)
        stride = Signal(32)
        product = Signal(64)
        end = Signal(64)
        requant = (fields["flags"] & GemmFlag.REQUANT) != 0
        channel = (fields["flags"] & GemmFlag.CHANNEL) != 0

        def whole_beats(count: Value) -> Value:
            return (count + bus_bytes - 1) & ~Const(bus_bytes - 1, 32)

        m.submodules.tile_rows = tile_rows = TileRows(self.config)
        m.d.comb += [
            tile_rows.start.eq(start),
            tile_rows.k.eq(fields["k"]),
            tile_rows.n.eq(fields["n"]),
            tile_rows.requant.eq(requant),
        ]
        a_tiled, w_tiled, y_tiled = (
            (fields["flags"] & flag) != 0 for flag in (GemmFlag.A_TILED, GemmFlag.W_TILED, GemmFlag.Y_TILED)
        )
        wrong_strides = (
            (ErrorCause.LDA, a_tiled & (fields["lda"] != tile_rows.lda)),
            (ErrorCause.LDW, w_tiled & (fields["ldw"] != tile_rows.ldw)),
            (ErrorCause.LDY, y_tiled & (fields["ldy"] != tile_rows.ldy)),
        )

        read = ("read_base", "read_limit")
        write = ("write_base", "write_limit")
        one = Const(1, 32)
        # Tiles are full up to the stride.
        a_row = Mux(a_tiled, fields["lda"], whole_beats(fields["k"]))
        w_row = Mux(w_tiled, fields["ldw"], whole_beats(fields["n"]))
        y_row = Mux(y_tiled, fields["ldy"], whole_beats(Mux(requant, fields["n"], fields["n"] << 2)))
        operands = (
            (ErrorCause.A_WINDOW, "a_addr", fields["m"], "lda", "a_batch_stride", a_row, read),
            (ErrorCause.W_WINDOW, "w_addr", fields["k"], "ldw", "w_batch_stride", w_row, read),
            (ErrorCause.Y_WINDOW, "y_addr", fields["m"], "ldy", "y_batch_stride", y_row, write),
            (
                ErrorCause.CHANNEL_WINDOW,
                "channel_addr",
                one,
                "ldy",
                "y_batch_stride",
                whole_beats(fields["n"] * CHANNEL_RECORD_BYTES),
                read,
            ),
        )
        m.d.sync += product.eq(factor * stride)
        with m.FSM(name="extents"):
            with m.State("IDLE"), m.If(start):
                m.d.sync += cause.eq(ErrorCause.NONE)
                m.next = "A_WINDOW_ROWS"
                if tile_rows.walks:
                    with m.If(a_tiled | w_tiled | y_tiled):
                        m.next = "TILE_ROWS"
            if tile_rows.walks:
                with m.State("TILE_ROWS"), m.If(tile_rows.done):
                    m.next = "A_WINDOW_ROWS"
            for index, (error, base, rows, row_stride, batch_stride, row_bytes, (low, high)) in enumerate(operands):
                following = f"{operands[index + 1][0].name}_ROWS" if index + 1 < len(operands) else "DONE"
                is_channel = error is ErrorCause.CHANNEL_WINDOW
                with m.State(f"{error.name}_ROWS"):
                    m.d.sync += [factor.eq(rows - 1), stride.eq(fields[row_stride])]
                    m.next = f"{error.name}_BATCH"
                    if index == 0:
                        for stride_cause, wrong in reversed(wrong_strides):
                            with m.If(wrong):
                                m.d.sync += cause.eq(stride_cause)
                with m.State(f"{error.name}_BATCH"):
                    m.d.sync += [
                        factor.eq(0 if is_channel else fields["batch"] - 1),
                        stride.eq(fields[batch_stride]),
                        end.eq(fields[base] + row_bytes),
                    ]
                    m.next = f"{error.name}_SUM"
                with m.State(f"{error.name}_SUM"):
                    m.d.sync += end.eq(end + product)
                    m.next = f"{error.name}_SUM_BATCH"
                with m.State(f"{error.name}_SUM_BATCH"):
                    m.d.sync += end.eq(end + product)
                    m.next = f"{error.name}_COMPARE"
                with m.State(f"{error.name}_COMPARE"):
                    # An address that is itself outside would make the sum meaningless, so it is compared as well.
                    outside = (fields[base] < fields[low]) | (fields[base] >= fields[high]) | (end > fields[high])
                    with m.If(outside & (channel if is_channel else 1) & (cause == ErrorCause.NONE)):
                        m.d.sync += cause.eq(error)
                    m.next = following
            with m.State("DONE"):
                m.d.comb += done.eq(1)
                m.next = "IDLE"
