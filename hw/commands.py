"""Format of the commands in the ring: one table, from which RTL, host and C header derive."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

COMMAND_BYTES = 256
"""Size of every command; the ring is an array of them."""

COMMAND_VERSION = 1

CHANNEL_RECORD_BYTES = 16
"""Per output channel: bias int32, mult uint31 in 32 bits, shift in 8 bits, 56 bits that must be zero."""


class Opcode(enum.IntEnum):
    """What a command does. Zero is no opcode, so that an empty ring entry is an error."""

    GEMM = 1


class GemmFlag(enum.IntFlag):
    """Output options of a GEMM command."""

    CHANNEL = 1
    """Add the bias of the channel table."""
    REQUANT = 2
    """Scale to int8 by mult and shift of the channel table (needs CHANNEL); otherwise int32 is written."""


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
    Field("lda", 20, 32, "bytes from a row of A to the next; bus-aligned"),
    Field("ldw", 24, 32, "bytes from a row of W to the next; bus-aligned"),
    Field("ldy", 28, 32, "bytes from a row of Y to the next; bus-aligned, at least a row long"),
    Field("a_addr", 32, 64, "A: int8, row-major; bus-aligned"),
    Field("w_addr", 40, 64, "W: int8, row-major; bus-aligned"),
    Field("y_addr", 48, 64, "Y: int32 or int8, row-major; bus-aligned"),
    Field("channel_addr", 56, 64, "channel table, N records; bus-aligned; zero without CHANNEL"),
    Field("a_batch_stride", 64, 32, "bytes from A of one product to the next; bus-aligned"),
    Field("w_batch_stride", 68, 32, "bytes from W of one product to the next; bus-aligned"),
    Field("y_batch_stride", 72, 32, "bytes from Y of one product to the next; bus-aligned"),
    Field("error_key", 76, 32, "names the call in draws of timing errors"),
    Field("first_row", 80, 32, "global row of the first row of this piece"),
    Field("first_col", 84, 32, "global column of the first column of this piece"),
    Field("first_k_tile", 88, 32, "global k-tile of the first k-tile of this piece"),
    Field("read_base", 96, 64, "first byte that may be read; bus-aligned"),
    Field("read_limit", 104, 64, "first byte after those that may be read; bus-aligned"),
    Field("write_base", 112, 64, "first byte that may be written; bus-aligned"),
    Field("write_limit", 120, 64, "first byte after those that may be written; bus-aligned"),
)
"""All other bytes of a command are reserved and must be zero."""

RESERVED_RANGES = ((92, 96), (128, COMMAND_BYTES))
"""Byte ranges that must be zero."""


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
    RING = 29


ERROR_MEANING = {
    ErrorCause.NONE: "no error",
    ErrorCause.OPCODE: "unknown opcode",
    ErrorCause.VERSION: f"version is not {COMMAND_VERSION}",
    ErrorCause.RESERVED: "a reserved bit is set",
    ErrorCause.FLAGS: "unknown flag, or REQUANT without CHANNEL",
    ErrorCause.BATCH: "batch is not in 1..65535",
    ErrorCause.M: "m is not in 1..2^24-1",
    ErrorCause.N: "n is not in 1..2^24-1",
    ErrorCause.K: "k is not in 1..131071",
    ErrorCause.LDA: "lda is not bus-aligned",
    ErrorCause.LDW: "ldw is not bus-aligned",
    ErrorCause.LDY: "ldy is not bus-aligned or shorter than a row of Y",
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
    ErrorCause.RING: "the ring registers are not usable (base not aligned to a command, or size zero)",
}


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
    first_k_tile: int = 0
    opcode: int = Opcode.GEMM
    version: int = COMMAND_VERSION

    def encode(self) -> bytes:
        """The 256 bytes of the command.

        Raises
        ------
        ValueError
            A value does not fit its field.
        """
        out = bytearray(COMMAND_BYTES)
        for spec in GEMM_FIELDS:
            value = int(getattr(self, spec.name))
            if not 0 <= value < 1 << spec.bits:
                raise ValueError(f"GemmCommand.{spec.name} must fit {spec.bits} unsigned bits, not {value}")
            out[spec.offset : spec.offset + spec.bits // 8] = value.to_bytes(spec.bits // 8, "little")
        return bytes(out)


assert {f.name for f in fields(GemmCommand)} == {f.name for f in GEMM_FIELDS}
