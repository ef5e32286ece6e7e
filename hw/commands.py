"""Format of the commands in the ring: one table, from which RTL, host and C header derive."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from .errors.constants import BIT_THRESHOLDS

COMMAND_BYTES = 256
"""Size of every command; the ring is an array of them."""

COMMAND_VERSION = 2
"""Raised when a command that was accepted is refused, or does something else."""

CHANNEL_RECORD_BYTES = 16
"""Per output channel: bias int32, mult uint31 in 32 bits, shift in 8 bits, 56 bits that must be zero."""


class Opcode(enum.IntEnum):
    """What a command does. Zero is no opcode, so that an empty ring entry is an error."""

    GEMM = 1
    SET_ERRORS = 2
    """Seed and rates of timing errors; only with a model that `draws`."""
    SET_POINT = 3
    """Move a voltage domain to another operating point."""
    FENCE = 4
    """Completes when all commands before it have."""
    SNAPSHOT = 5
    """Copies the counters to the snapshot registers."""
    COPY = 6
    """Copies runs of bytes from one region of memory to another; only with checksum units."""
    ATTENTION = 7
    """Attention of a batch of heads, whose scores stay on the chip; only with an attention unit."""


class GemmFlag(enum.IntFlag):
    """Options of a GEMM command; CHECK to ZERO need checksum units."""

    CHANNEL = 1
    """Add the bias of the channel table."""
    REQUANT = 2
    """Scale by mult and shift of the channel table to int8 or int16 (needs CHANNEL); otherwise int32 is written."""
    CHECK = 4
    """Run the checks: find, mark and log errors."""
    CORRECT = 8
    """Correct what is located (needs CHECK); otherwise it is marked."""
    SUPPRESS = 16
    """Do not write marked elements (needs CHECK)."""
    ZERO = 32
    """Write zero in place of marked elements (needs CHECK, excludes SUPPRESS)."""
    A_TILED = 64
    """A lies tile by tile, each contiguous, in the order in which it is read; otherwise row-major."""
    W_TILED = 128
    """W lies tile by tile, likewise."""
    Y_TILED = 256
    """Y is written tile by tile, likewise."""
    CAUSAL = 512
    """Of ATTENTION: a query attends to keys up to its own place only."""
    INT16 = 1024
    """Scale to int16, not to int8 (needs REQUANT)."""
    KEEP_ACTIVATIONS = 2048
    """Read the activations of a row of blocks once, in its first block (needs a deeper activation buffer)."""


def output_item_bytes(flags: int) -> int:
    """Bytes of an element that a GEMM command with these `GemmFlag` bits writes."""
    if not flags & GemmFlag.REQUANT:
        return 4
    return 2 if flags & GemmFlag.INT16 else 1


@dataclass(frozen=True)
class Field:
    """A little-endian unsigned field of a command, at a byte offset, `bits` wide (whole bytes)."""

    name: str
    offset: int
    bits: int
    doc: str


GEMM_FIELDS = (
    Field("opcode", 0, 8, "Opcode.GEMM"),
    Field("version", 1, 8, "COMMAND_VERSION"),
    Field("flags", 2, 16, "GemmFlag bits"),
    Field("batch", 4, 32, "number of products, 1..65535"),
    Field("m", 8, 32, "rows of A and Y, 1..2^24-1"),
    Field("n", 12, 32, "columns of W and Y, 1..2^24-1"),
    Field("k", 16, 32, "columns of A, rows of W, 1..131071"),
    Field(
        *("lda", 20, 32),
        "bytes from a row of A to the next, 0 for one row; bus-aligned; with A_TILED those of a row in all tiles",
    ),
    Field(
        *("ldw", 24, 32),
        "bytes from a row of W to the next, 0 for one row; bus-aligned; with W_TILED those of a row in all tiles",
    ),
    Field(
        *("ldy", 28, 32),
        "bytes from a row of Y to the next; bus-aligned, at least a row long; with Y_TILED those of a row in all tiles",
    ),
    Field("a_addr", 32, 64, "A: int8; bus-aligned"),
    Field("w_addr", 40, 64, "W: int8; bus-aligned"),
    Field("y_addr", 48, 64, "Y: int32, int16 or int8; bus-aligned"),
    Field("channel_addr", 56, 64, "channel table, N records; bus-aligned; zero without CHANNEL"),
    Field("a_batch_stride", 64, 32, "bytes from A of one product to the next, 0 for one A; bus-aligned"),
    Field("w_batch_stride", 68, 32, "bytes from W of one product to the next, 0 for one W; bus-aligned"),
    Field("y_batch_stride", 72, 32, "bytes from Y of one product to the next; bus-aligned"),
    Field("error_key", 76, 32, "names the call in draws of timing errors"),
    Field("first_row", 80, 32, "global row of the first row of this piece"),
    Field("first_col", 84, 32, "global column of the first column of this piece"),
    Field("read_base", 96, 64, "first byte that may be read; bus-aligned"),
    Field("read_limit", 104, 64, "first byte after those that may be read; bus-aligned"),
    Field("write_base", 112, 64, "first byte that may be written; bus-aligned"),
    Field("write_limit", 120, 64, "first byte after those that may be written; bus-aligned"),
    Field("theta", 128, 8, "syndromes below 2^theta in magnitude are not flagged; zero without CHECK"),
    Field(
        *("block_rows", 134, 16),
        "most rows of a block, 0 for the configuration's; reserved without a deeper activation buffer; whole groups",
    ),
    Field("log_addr", 136, 64, "syndrome log; bus-aligned, in the write window; zero without CHECK"),
    Field("log_bytes", 144, 32, "room in the log; whole records; zero for no log"),
)
"""All other bytes of a command are reserved and must be zero."""

SET_ERRORS_FIELDS = (
    Field("opcode", 0, 8, "Opcode.SET_ERRORS"),
    Field("version", 1, 8, "COMMAND_VERSION"),
    Field("seed", 4, 32, "seed of all draws"),
    *(Field(f"rate_{i}", 32 + 4 * i, 32, f"errors per 2^32 draws at operating point {i}") for i in range(8)),
    *(
        Field(f"bit_{i}", 128 + 4 * i, 32, f"chance per 2^32 that an error is in bits 0..{i}")
        for i in range(BIT_THRESHOLDS)
    ),
)
"""Rates of operating points that the configuration does not have must be zero."""

SET_POINT_FIELDS = (
    Field("opcode", 0, 8, "Opcode.SET_POINT"),
    Field("version", 1, 8, "COMMAND_VERSION"),
    Field("domain", 4, 32, "voltage domain; the checksum units' is the last"),
    Field("point", 8, 32, "operating point"),
    Field("transition_cycles", 12, 32, "cycles until the domain works again"),
    Field("lengths_addr", 32, 64, "settled carry lengths, a row of bytes per array row; zero unless `carry`"),
    Field("lengths_stride", 40, 32, "bytes from one array row to the next; bus-aligned"),
    Field("read_base", 96, 64, "first byte that may be read; bus-aligned"),
    Field("read_limit", 104, 64, "first byte after those that may be read; bus-aligned"),
)

COPY_FIELDS = (
    Field("opcode", 0, 8, "Opcode.COPY"),
    Field("version", 1, 8, "COMMAND_VERSION"),
    Field("runs", 4, 32, "number of runs in the list, 1..2^24-1"),
    Field("size", 8, 32, "bytes of a region, at least 1; every run lies in it"),
    Field("source_addr", 32, 64, "region to read; a multiple of 4096"),
    Field("target_addr", 40, 64, "region to write; a multiple of 4096"),
    Field("list_addr", 48, 64, "list of runs, RUN_BYTES each; bus-aligned"),
    Field("read_base", 96, 64, "first byte that may be read; bus-aligned"),
    Field("read_limit", 104, 64, "first byte after those that may be read; bus-aligned"),
    Field("write_base", 112, 64, "first byte that may be written; bus-aligned"),
    Field("write_limit", 120, 64, "first byte after those that may be written; bus-aligned"),
)

ATTENTION_FIELDS = (
    Field("opcode", 0, 8, "Opcode.ATTENTION"),
    Field("version", 1, 8, "COMMAND_VERSION"),
    Field("flags", 2, 16, "GemmFlag bits: CHECK, CORRECT, SUPPRESS, ZERO, CAUSAL"),
    Field("batch", 4, 32, "number of heads, 1..65535"),
    Field("m", 8, 32, "queries: rows of Q and Y, 1..2^24-1"),
    Field("n", 12, 32, "columns of V and Y, at least 1; at most block_col_tiles column tiles"),
    Field("k", 16, 32, "columns of Q, rows of the transposed keys, at least 1; at most slab_k_tiles k-tiles"),
    Field("lda", 20, 32, "bytes from a row of Q to the next; bus-aligned"),
    Field("ldw", 24, 32, "bytes from a row of the transposed keys to the next; bus-aligned"),
    Field("ldy", 28, 32, "bytes from a row of Y to the next; bus-aligned, at least a row long"),
    Field("a_addr", 32, 64, "Q: int8; bus-aligned"),
    Field("w_addr", 40, 64, "transposed keys: int8; bus-aligned"),
    Field("y_addr", 48, 64, "Y: int8; bus-aligned"),
    Field("v_addr", 56, 64, "V: int8; bus-aligned"),
    Field("a_batch_stride", 64, 32, "bytes from Q of one head to the next; bus-aligned"),
    Field("w_batch_stride", 68, 32, "bytes from the transposed keys of one head to the next; bus-aligned"),
    Field("y_batch_stride", 72, 32, "bytes from Y of one head to the next; bus-aligned"),
    Field("error_key", 76, 32, "names the product of queries and keys in draws of timing errors"),
    Field("first_row", 80, 32, "global row of the first row of this piece"),
    Field("v_batch_stride", 88, 32, "bytes from V of one head to the next; bus-aligned"),
    Field("ldv", 92, 32, "bytes from a row of V to the next; bus-aligned"),
    Field("read_base", 96, 64, "first byte that may be read; bus-aligned"),
    Field("read_limit", 104, 64, "first byte after those that may be read; bus-aligned"),
    Field("write_base", 112, 64, "first byte that may be written; bus-aligned"),
    Field("write_limit", 120, 64, "first byte after those that may be written; bus-aligned"),
    Field("theta", 128, 8, "of the scores: syndromes below 2^theta in magnitude are not flagged; zero without CHECK"),
    Field("value_theta", 129, 8, "of the sums of values, likewise"),
    Field("score_shift", 130, 8, "scores times score_mult, shifted right by so many bits, are in 2^-8 octaves; 1..47"),
    Field("out_shift", 131, 8, "sums of values times floor(out_scale / row sum), shifted right by so many bits; 1..62"),
    Field("score_mult", 132, 16, "see score_shift"),
    Field(
        "block_rows", 134, 16, "queries of a block; times the column tiles of keys they must fit an accumulator bank"
    ),
    Field("log_addr", 136, 64, "syndrome log of the sums of values; bus-aligned, in the write window"),
    Field("log_bytes", 144, 32, "room in the log; whole records; zero for no log"),
    Field("keys", 148, 32, "keys: columns of the transposed keys, rows of V, 1..131071"),
    Field("out_scale", 152, 64, "see out_shift; below 127 * 2^31"),
    Field("value_error_key", 160, 32, "names the product of exponentials and values in draws of timing errors"),
)
"""Softmax between two products; a block of queries at a time. docs/attention.md has the arithmetic."""

RUN_BYTES = 8
"""Of a run in the list of a COPY: offset in the region and number of bytes, each uint32."""

PLAIN_FIELDS = (
    Field("opcode", 0, 8, "Opcode.FENCE or Opcode.SNAPSHOT"),
    Field("version", 1, 8, "COMMAND_VERSION"),
)

COMMAND_FIELDS = {
    Opcode.GEMM: GEMM_FIELDS,
    Opcode.SET_ERRORS: SET_ERRORS_FIELDS,
    Opcode.SET_POINT: SET_POINT_FIELDS,
    Opcode.FENCE: PLAIN_FIELDS,
    Opcode.SNAPSHOT: PLAIN_FIELDS,
    Opcode.COPY: COPY_FIELDS,
    Opcode.ATTENTION: ATTENTION_FIELDS,
}


def reserved_ranges(fields: tuple[Field, ...]) -> tuple[tuple[int, int], ...]:
    """Byte ranges of a command that no field uses; they must be zero."""
    ranges, start = [], 0
    for spec in sorted(fields, key=lambda spec: spec.offset):
        if spec.offset > start:
            ranges.append((start, spec.offset))
        start = spec.offset + spec.bits // 8
    return (*ranges, *([(start, COMMAND_BYTES)] if start < COMMAND_BYTES else ()))


RESERVED_RANGES = reserved_ranges(GEMM_FIELDS)
"""Byte ranges of a GEMM command that must be zero."""


CAUSE_BITS = 8
"""Width of an `ErrorCause` in hardware."""


class ErrorCause(enum.IntEnum):
    """Why the ring stopped: the ERROR_CAUSE register."""

    NONE = 0
    OPCODE = 1
    VERSION = 2
    RESERVED = 3
    FLAGS = 4
    BATCH = 5
    M = 6
    N = 7
    K = 8
    LDA = 9
    LDW = 10
    LDY = 11
    A_ADDR = 12
    W_ADDR = 13
    Y_ADDR = 14
    CHANNEL_ADDR = 15
    A_BATCH_STRIDE = 16
    W_BATCH_STRIDE = 17
    Y_BATCH_STRIDE = 18
    READ_WINDOW = 19
    WRITE_WINDOW = 20
    A_WINDOW = 21
    W_WINDOW = 22
    Y_WINDOW = 23
    CHANNEL_WINDOW = 24
    CHANNEL_RECORD = 25
    AXI_READ = 26
    AXI_WRITE = 27
    BUS_TIMEOUT = 28
    RING_BASE = 29
    THETA = 30
    LOG = 31
    DOMAIN = 32
    POINT = 33
    RATE = 34
    LENGTHS = 35
    RUNS = 36
    SOURCE = 37
    TARGET = 38
    LIST = 39
    RUN = 40
    AXI_ID = 41
    RING_ENTRIES = 42
    RING_HEAD = 43
    RING_TAIL = 44
    READ_LENGTH = 45
    READ_SURPLUS = 46
    WRITE_SURPLUS = 47
    STALLED = 48
    KEYS = 49
    V_ADDR = 50
    LDV = 51
    V_BATCH_STRIDE = 52
    BLOCK_ROWS = 53
    SCALES = 54
    V_WINDOW = 55
    KEPT = 56


RING_CAUSES = (ErrorCause.RING_BASE, ErrorCause.RING_ENTRIES, ErrorCause.RING_HEAD, ErrorCause.RING_TAIL)
"""Found before a command is looked at: acknowledging them steps over none."""


ERROR_MEANING = {
    ErrorCause.NONE: "no error",
    ErrorCause.OPCODE: "unknown opcode",
    ErrorCause.VERSION: f"version is not {COMMAND_VERSION}",
    ErrorCause.RESERVED: "a reserved bit is set",
    ErrorCause.FLAGS: "unknown flag, or one without what it needs",
    ErrorCause.BATCH: "batch is not in 1..65535",
    ErrorCause.M: "m is not in 1..2^24-1",
    ErrorCause.N: "n is not in 1..2^24-1",
    ErrorCause.K: "k is not in 1..131071",
    ErrorCause.LDA: "lda is not bus-aligned, or with A_TILED not the bytes of a row in all tiles",
    ErrorCause.LDW: "ldw is not bus-aligned, or with W_TILED not the bytes of a row in all tiles",
    ErrorCause.LDY: "ldy is not bus-aligned or too short, or with Y_TILED not the bytes of a row in all tiles",
    ErrorCause.A_ADDR: "a_addr is not bus-aligned",
    ErrorCause.W_ADDR: "w_addr is not bus-aligned",
    ErrorCause.Y_ADDR: "y_addr is not bus-aligned",
    ErrorCause.CHANNEL_ADDR: "channel_addr is not bus-aligned, or not zero without CHANNEL",
    ErrorCause.A_BATCH_STRIDE: "a_batch_stride is not bus-aligned",
    ErrorCause.W_BATCH_STRIDE: "w_batch_stride is not bus-aligned",
    ErrorCause.Y_BATCH_STRIDE: "y_batch_stride is not bus-aligned",
    ErrorCause.READ_WINDOW: "the read window is not bus-aligned, empty or beyond the address space",
    ErrorCause.WRITE_WINDOW: "the write window is not bus-aligned, empty or beyond the address space",
    ErrorCause.A_WINDOW: "A reaches outside the read window",
    ErrorCause.W_WINDOW: "W reaches outside the read window",
    ErrorCause.Y_WINDOW: "Y reaches outside the write window",
    ErrorCause.CHANNEL_WINDOW: "the channel table reaches outside the read window",
    ErrorCause.CHANNEL_RECORD: "a channel record has mult >= 2^31, shift outside 1..62 or reserved bits set",
    ErrorCause.AXI_READ: "an AXI read was answered with an error",
    ErrorCause.AXI_WRITE: "an AXI write was answered with an error",
    ErrorCause.BUS_TIMEOUT: "the bus made no progress within the time-out",
    ErrorCause.RING_BASE: "RING_BASE is not aligned to a command, or the ring reaches beyond the address space",
    ErrorCause.THETA: "theta is above 63, or not zero without CHECK",
    ErrorCause.LOG: "the log is not bus-aligned, not of whole records or outside the write window, or without CHECK",
    ErrorCause.DOMAIN: "there is no such voltage domain",
    ErrorCause.POINT: "there is no such operating point",
    ErrorCause.RATE: "a rate of an operating point that does not exist is not zero",
    ErrorCause.LENGTHS: "the table of lengths is not bus-aligned, outside the read window, or without a use",
    ErrorCause.RUNS: "runs is not in 1..2^24-1",
    ErrorCause.SOURCE: "source_addr is not a multiple of 4096, or the region reaches outside the read window",
    ErrorCause.TARGET: "target_addr is not a multiple of 4096, or the region reaches outside the write window",
    ErrorCause.LIST: "list_addr is not bus-aligned, or the list reaches outside the read window",
    ErrorCause.RUN: "a run is empty or reaches outside its region",
    ErrorCause.AXI_ID: "an AXI response had another ID than the request",
    ErrorCause.RING_ENTRIES: "RING_ENTRIES is not in 2..65535",
    ErrorCause.RING_HEAD: "RING_HEAD is not below RING_ENTRIES; a soft reset brings it back to 0",
    ErrorCause.RING_TAIL: "RING_TAIL is not below RING_ENTRIES",
    ErrorCause.READ_LENGTH: "an AXI read burst ended before its last beat, or did not end with it",
    ErrorCause.READ_SURPLUS: "a beat of AXI read data came that no read asked for",
    ErrorCause.WRITE_SURPLUS: "an AXI write response came without a write, or before the write's last beat",
    ErrorCause.STALLED: "the command stands still although nothing is outstanding on the bus",
    ErrorCause.KEYS: "keys is not in 1..131071",
    ErrorCause.V_ADDR: "v_addr is not bus-aligned",
    ErrorCause.LDV: "ldv is not bus-aligned",
    ErrorCause.V_BATCH_STRIDE: "v_batch_stride is not bus-aligned",
    ErrorCause.BLOCK_ROWS: "block_rows is above the configuration's or cuts a group of rows; "
    "of ATTENTION: is zero or above the configuration's, or its scores do not fit a bank",
    ErrorCause.SCALES: "score_shift is not in 1..47, out_shift not in 1..62, or out_scale not below 127 * 2^31",
    ErrorCause.V_WINDOW: "V reaches outside the read window",
    ErrorCause.KEPT: "the activations of a row of blocks do not fit the activation buffer",
}


def _encode(command: object, specs: tuple[Field, ...]) -> bytes:
    out = bytearray(COMMAND_BYTES)
    for spec in specs:
        value = int(getattr(command, spec.name))
        if not 0 <= value < 1 << spec.bits:
            name = type(command).__name__
            raise ValueError(f"{name}.{spec.name} must fit {spec.bits} unsigned bits, not {value}")
        out[spec.offset : spec.offset + spec.bits // 8] = value.to_bytes(spec.bits // 8, "little")
    return bytes(out)


@dataclass(frozen=True, kw_only=True)
class GemmCommand:
    """Y[b] = A[b] W[b] for b in 0..batch-1; fields as in `GEMM_FIELDS`.

    Values are encoded as they are: the hardware, not this class, refuses malformed commands.
    """

    m: int
    n: int
    k: int
    a_addr: int
    w_addr: int
    y_addr: int
    lda: int
    ldw: int
    ldy: int
    read_base: int
    read_limit: int
    write_base: int
    write_limit: int
    batch: int = 1
    a_batch_stride: int = 0
    w_batch_stride: int = 0
    y_batch_stride: int = 0
    channel_addr: int = 0
    flags: int = 0
    error_key: int = 0
    first_row: int = 0
    first_col: int = 0
    theta: int = 0
    block_rows: int = 0
    log_addr: int = 0
    log_bytes: int = 0
    opcode: int = Opcode.GEMM
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command.

        Raises
        ------
        ValueError
            A value does not fit its field.
        """
        return _encode(self, GEMM_FIELDS)


@dataclass(frozen=True, kw_only=True)
class SetErrorsCommand:
    """Seed, rates per operating point and distribution over bits of the `flip` timing-error model.

    Attributes
    ----------
    seed : int
        Seed of all draws of timing errors, uint32.
    rates : tuple of int
        Errors per 2^32 draws at operating points 0, 1, ...; the rest are 0.
    bits : tuple of int
        30 increasing uint32: chance per 2^32 that the flipped bit is at most bit 0, 1, ... 29.
    """

    seed: int
    rates: tuple[int, ...]
    bits: tuple[int, ...] = tuple(((i + 1) << 32) // 31 for i in range(BIT_THRESHOLDS))
    opcode: int = Opcode.SET_ERRORS
    version: int = COMMAND_VERSION

    def __getattr__(self, name: str) -> int:
        kind, _, index = name.partition("_")
        if kind == "rate" and index.isdecimal():
            return self.rates[int(index)] if int(index) < len(self.rates) else 0
        if kind == "bit" and index.isdecimal():
            return self.bits[int(index)]
        raise AttributeError(name)

    def encode(self) -> bytes:
        """The 256 bytes of the command; raises ValueError if a value does not fit its field."""
        return _encode(self, SET_ERRORS_FIELDS)


@dataclass(frozen=True, kw_only=True)
class SetPointCommand:
    """Move a voltage domain to an operating point; fields as in `SET_POINT_FIELDS`."""

    domain: int
    point: int
    transition_cycles: int = 0
    lengths_addr: int = 0
    lengths_stride: int = 0
    read_base: int = 0
    read_limit: int = 0
    opcode: int = Opcode.SET_POINT
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command; raises ValueError if a value does not fit its field."""
        return _encode(self, SET_POINT_FIELDS)


@dataclass(frozen=True, kw_only=True)
class CopyCommand:
    """Copies runs of bytes from a region of memory to the same places of another; fields as in `COPY_FIELDS`."""

    runs: int
    size: int
    source_addr: int
    target_addr: int
    list_addr: int
    read_base: int
    read_limit: int
    write_base: int
    write_limit: int
    opcode: int = Opcode.COPY
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command; raises ValueError if a value does not fit its field."""
        return _encode(self, COPY_FIELDS)


@dataclass(frozen=True, kw_only=True)
class AttentionCommand:
    """Y[b] = softmax(Q[b] K[b]^T) V[b] for b in 0..batch-1; fields as in `ATTENTION_FIELDS`.

    Values are encoded as they are: the hardware, not this class, refuses malformed commands.
    """

    m: int
    n: int
    k: int
    keys: int
    a_addr: int
    w_addr: int
    v_addr: int
    y_addr: int
    lda: int
    ldw: int
    ldv: int
    ldy: int
    read_base: int
    read_limit: int
    write_base: int
    write_limit: int
    block_rows: int
    score_mult: int
    score_shift: int
    out_scale: int
    out_shift: int
    batch: int = 1
    a_batch_stride: int = 0
    w_batch_stride: int = 0
    v_batch_stride: int = 0
    y_batch_stride: int = 0
    flags: int = 0
    error_key: int = 0
    value_error_key: int = 0
    first_row: int = 0
    theta: int = 0
    value_theta: int = 0
    log_addr: int = 0
    log_bytes: int = 0
    opcode: int = Opcode.ATTENTION
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command; raises ValueError if a value does not fit its field."""
        return _encode(self, ATTENTION_FIELDS)


@dataclass(frozen=True, kw_only=True)
class PlainCommand:
    """A command without operands: `Opcode.FENCE` or `Opcode.SNAPSHOT`."""

    opcode: int
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command; raises ValueError if a value does not fit its field."""
        return _encode(self, PLAIN_FIELDS)


assert {f.name for f in fields(GemmCommand)} == {f.name for f in GEMM_FIELDS}
assert {f.name for f in fields(AttentionCommand)} == {f.name for f in ATTENTION_FIELDS}
