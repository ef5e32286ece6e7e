"""Checks of the single fields of a command."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..commands import (
    CAUSE_BITS,
    COMMAND_FIELDS,
    COMMAND_VERSION,
    RUN_BYTES,
    ErrorCause,
    Field,
    GemmFlag,
    Opcode,
)
from ..config import BATCH_BITS, DIMENSION_BITS, K_LIMIT, AcceleratorConfig
from ..copy.copier import RUN_COUNT_BITS
from ..depths import BURST_BOUNDARY_BYTES
from ..params import MAX_OUT_SCALE, MAX_OUT_SHIFT, MAX_SCORE_SHIFT, THETA_BITS
from .settings import lengths_columns

PAGE_BITS = exact_log2(BURST_BOUNDARY_BYTES)


def known_opcodes(config: AcceleratorConfig) -> tuple[Opcode, ...]:
    """Commands that an accelerator of this configuration accepts."""
    known = [Opcode.GEMM, Opcode.FENCE, Opcode.SNAPSHOT]
    if config.error_model.errs:
        known.append(Opcode.SET_POINT)
    if config.error_model.draws:
        known.append(Opcode.SET_ERRORS)
    if config.checksum is not None:
        known.append(Opcode.COPY)
    if config.attention:
        known.append(Opcode.ATTENTION)
    return tuple(known)


def command_fields(config: AcceleratorConfig, opcode: Opcode) -> tuple[Field, ...]:
    """Fields of a command that an accelerator of this configuration has; its other bytes are reserved."""
    lacking = () if config.keeps_activations or opcode != Opcode.GEMM else ("block_rows",)
    return tuple(spec for spec in COMMAND_FIELDS[opcode] if spec.name not in lacking)


def stored_bytes(config: AcceleratorConfig) -> int:
    """Bytes of a command that carry fields; of the others only "any bit set" is kept."""
    return max(spec.offset + spec.bits // 8 for opcode in known_opcodes(config) for spec in COMMAND_FIELDS[opcode])


def fields_of(command: Value, opcode: Opcode) -> dict[str, Value]:
    """The bits of a command that are the fields of `opcode`, by name."""
    return {spec.name: command[8 * spec.offset : 8 * spec.offset + spec.bits] for spec in COMMAND_FIELDS[opcode]}


class FieldChecks(wiring.Component):
    """Tells what is wrong with the fields of a command; combinational.

    The fields are checked one by one, in the order of `ErrorCause` in the documentation; what depends on two operands
    is left to `Extents`.

    Members
    -------
    command : bits of the command, `stored_bytes` of it
    reserved : for each of `known_opcodes`, whether any bit is set that it has no field for
    cause : the first cause to refuse it, or NONE
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(8 * stored_bytes(config)),
                "reserved": In(len(known_opcodes(config))),
                "cause": Out(CAUSE_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        known = known_opcodes(self.config)
        gemm = fields_of(self.command, Opcode.GEMM)
        opcode = gemm["opcode"]
        reserved = [(opcode == each) & self.reserved[index] for index, each in enumerate(known)]
        checks = [
            (ErrorCause.OPCODE, ~Cat(opcode == each for each in known).any()),
            (ErrorCause.VERSION, gemm["version"] != COMMAND_VERSION),
            (ErrorCause.RESERVED, Cat(reserved).any()),
        ]
        checks += [(cause, (opcode == Opcode.GEMM) & wrong) for cause, wrong in self._gemm_checks(m, gemm)]
        if Opcode.SET_ERRORS in known:
            own = fields_of(self.command, Opcode.SET_ERRORS)
            unused = [own[f"rate_{point}"] for point in range(self.config.operating_points, 8)]
            if unused:
                checks.append((ErrorCause.RATE, (opcode == Opcode.SET_ERRORS) & Cat(unused).any()))
        for other, own_checks in (
            (Opcode.SET_POINT, self._point_checks),
            (Opcode.COPY, self._copy_checks),
            (Opcode.ATTENTION, self._attention_checks),
        ):
            if other in known:
                found = own_checks(fields_of(self.command, other))
                checks += [(cause, (opcode == other) & wrong) for cause, wrong in found]
        for value, condition in reversed(checks):
            with m.If(condition):
                m.d.comb += self.cause.eq(value)
        return m

    def _point_checks(self, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        config = self.config
        address, stride = fields["lengths_addr"], fields["lengths_stride"]
        base, limit = fields["read_base"], fields["read_limit"]
        if config.error_model.settles:
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
        int16 = (flags & GemmFlag.INT16) != 0
        check = (flags & GemmFlag.CHECK) != 0
        needs_check = GemmFlag.CORRECT | GemmFlag.SUPPRESS | GemmFlag.ZERO
        both = GemmFlag.SUPPRESS | GemmFlag.ZERO
        known = sum(GemmFlag) & ~GemmFlag.CAUSAL
        if not self.config.keeps_activations:
            known &= ~GemmFlag.KEEP_ACTIVATIONS
        if self.config.checksum is None:
            known &= ~(needs_check | GemmFlag.CHECK)
        row_bytes = Signal(DIMENSION_BITS + 2)
        m.d.comb += row_bytes.eq(fields["n"] << Mux(requant, int16, 2))
        return [
            (
                ErrorCause.FLAGS,
                ((flags & ~Const(known, 16)) != 0)
                | (requant & ~channel)
                | (int16 & ~requant)
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
            (ErrorCause.LOG, self._bad_log(fields, check)),
            *self._kept_checks(fields),
        ]

    def _kept_checks(self, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        config = self.config
        if not config.keeps_activations:
            return []
        block_rows = fields["block_rows"]
        wrong: Value = block_rows > config.block_rows
        if config.group_count:
            assert config.checksum is not None
            wrong = wrong | (block_rows % config.checksum.group_rows != 0)
        largest = Mux(block_rows == 0, config.block_rows, block_rows)
        rows = Mux(fields["m"] < largest, fields["m"], largest)
        k_tiles = (fields["k"][: K_LIMIT.bit_length()] + config.rows - 1) // config.rows
        keep = (fields["flags"] & GemmFlag.KEEP_ACTIVATIONS) != 0
        return [
            (ErrorCause.BLOCK_ROWS, wrong),
            (ErrorCause.KEPT, keep & (rows * k_tiles > config.activation_vectors)),
        ]

    def _bad_log(self, fields: dict[str, Value], check: Value) -> Value:
        log_addr, log_bytes = fields["log_addr"], fields["log_bytes"]
        wrong = (
            (log_addr[: exact_log2(self.config.bus_bytes)] != 0)
            | log_bytes[: exact_log2(self.config.log_record_bytes)].any()
            | (log_addr < fields["write_base"])
            | (log_addr + log_bytes > fields["write_limit"])
        )
        return Mux(check & (log_bytes != 0), wrong, log_addr.any() | log_bytes.any())

    def _attention_checks(self, fields: dict[str, Value]) -> list[tuple[ErrorCause, Value]]:
        config = self.config
        bus_bits = exact_log2(config.bus_bytes)

        def misaligned(name: str) -> Value:
            return fields[name][:bus_bits] != 0

        def out_of_range(name: str, most: int) -> Value:
            return (fields[name] == 0) | (fields[name] > most)

        flags = fields["flags"]
        check = (flags & GemmFlag.CHECK) != 0
        needs_check = GemmFlag.CORRECT | GemmFlag.SUPPRESS | GemmFlag.ZERO
        both = GemmFlag.SUPPRESS | GemmFlag.ZERO
        known = GemmFlag.CAUSAL
        if config.checksum is not None:
            known |= needs_check | GemmFlag.CHECK
        key_tiles = (fields["keys"][: K_LIMIT.bit_length()] + config.cols - 1) // config.cols
        thetas = (fields["theta"], fields["value_theta"])
        return [
            (
                ErrorCause.FLAGS,
                ((flags & ~Const(known, 16)) != 0) | (((flags & needs_check) != 0) & ~check) | ((flags & both) == both),
            ),
            (ErrorCause.BATCH, out_of_range("batch", (1 << BATCH_BITS) - 1)),
            (ErrorCause.M, out_of_range("m", (1 << DIMENSION_BITS) - 1)),
            (ErrorCause.N, out_of_range("n", config.block_col_tiles * config.cols)),
            (ErrorCause.K, out_of_range("k", config.slab_k_tiles * config.rows)),
            (ErrorCause.LDA, misaligned("lda")),
            (ErrorCause.LDW, misaligned("ldw")),
            (ErrorCause.LDY, misaligned("ldy") | (fields["ldy"] < fields["n"])),
            (ErrorCause.A_ADDR, misaligned("a_addr")),
            (ErrorCause.W_ADDR, misaligned("w_addr")),
            (ErrorCause.Y_ADDR, misaligned("y_addr")),
            (ErrorCause.A_BATCH_STRIDE, misaligned("a_batch_stride")),
            (ErrorCause.W_BATCH_STRIDE, misaligned("w_batch_stride")),
            (ErrorCause.Y_BATCH_STRIDE, misaligned("y_batch_stride")),
            (ErrorCause.READ_WINDOW, self._bad_window(fields["read_base"], fields["read_limit"])),
            (ErrorCause.WRITE_WINDOW, self._bad_window(fields["write_base"], fields["write_limit"])),
            (
                ErrorCause.THETA,
                Mux(check, Cat(each >> THETA_BITS for each in thetas).any(), Cat(thetas).any()),
            ),
            (ErrorCause.LOG, self._bad_log(fields, check)),
            (ErrorCause.KEYS, out_of_range("keys", K_LIMIT)),
            (ErrorCause.V_ADDR, misaligned("v_addr")),
            (ErrorCause.LDV, misaligned("ldv")),
            (ErrorCause.V_BATCH_STRIDE, misaligned("v_batch_stride")),
            (
                ErrorCause.BLOCK_ROWS,
                out_of_range("block_rows", config.block_rows)
                | (fields["block_rows"] * key_tiles > config.block_rows * config.block_col_tiles),
            ),
            (
                ErrorCause.SCALES,
                out_of_range("score_shift", MAX_SCORE_SHIFT)
                | out_of_range("out_shift", MAX_OUT_SHIFT)
                | (fields["out_scale"] > MAX_OUT_SCALE),
            ),
        ]
