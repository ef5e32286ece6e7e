"""C header of the register map and the command format."""

from __future__ import annotations

from collections.abc import Callable

from .commands import (
    CHANNEL_RECORD_BYTES,
    COMMAND_BYTES,
    COMMAND_FIELDS,
    COMMAND_VERSION,
    ERROR_MEANING,
    RUN_BYTES,
    GemmFlag,
    Opcode,
)
from .config import AcceleratorConfig
from .log_record import (
    LOG_BITS_DOC,
    LOG_BITS_WORD,
    LOG_FIELDS,
    LOG_MASK_WORD,
    LOG_PLAIN_CHECK,
    LOG_RECORDS_PER_BLOCK,
    OUTCOME_MACROS,
    WORD_BITS,
)
from .names import checked_name, default_name
from .registers import (
    CONTROL_SOFT_RESET,
    ID_WORD,
    INTERFACE_VERSION,
    IRQ_DONE,
    IRQ_ERROR,
    REGISTERS,
    STATUS_BUSY,
    STATUS_DRAINING,
    STATUS_ERROR,
    counter_offset,
    counters,
    reset_value,
)
from .tiling import BALANCED_PIECES

CHANNEL_RECORD = (("bias", 0, "int32"), ("mult", 4, "uint32, below 2^31"), ("shift", 8, "uint8, 1..62"))
"""Fields of a record of the channel table: byte offset, type; the rest is 0."""


def c_header_text(config: AcceleratorConfig, name: str | None = None) -> str:
    """Header with all numbers that a driver needs: registers, counters, errors, commands, tables, logs, tiles.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator that the header describes.
    name : str, optional
        Prefix of all macros, in upper case; by default with the configuration's hash, so that a program can
        include the headers of different configurations: `brownout.hw.names.default_name`.

    Raises
    ------
    ValueError
        `name` cannot be the name of a module and of C macros.
    """
    prefix = (default_name(config) if name is None else checked_name(name)).upper()

    def define(name: str, value: str, doc: str) -> str:
        return f"#define {prefix}_{name} {value} /* {doc} */"

    guard = f"{prefix}_H"
    lines = [f"#ifndef {guard}", f"#define {guard}", "", "#include <stdint.h>", "", "/* Configuration */"]
    lines += [
        define("ROWS", str(config.rows), "array rows (K)"),
        define("COLS", str(config.cols), "array columns (N)"),
        define("BUS_BYTES", str(config.bus_bytes), "alignment of addresses and strides"),
        define("ADDRESS_BITS", str(config.address_bits), "width of addresses"),
        define("CONFIG_HASH", f"0x{config.hash_word:08x}u", "value of REG_CONFIG_HASH"),
        define("ID", f"0x{ID_WORD:08x}u", "value of REG_ID"),
        define("INTERFACE_VERSION", f"{INTERFACE_VERSION}u", "value of REG_VERSION"),
        define("DOMAINS", f"{config.domains}u", "voltage domains, that of checksum units the last"),
        define("OPERATING_POINTS", f"{config.operating_points}u", "operating points of a domain"),
        "",
        "/* Registers */",
    ]
    lines += [define(f"REG_{r.name}", f"0x{r.offset:03x}u", f"{r.access}: {r.doc}") for r in REGISTERS]
    lines += [
        define("CONTROL_SOFT_RESET", f"{CONTROL_SOFT_RESET}u", "bit of REG_CONTROL"),
        define("STATUS_BUSY", f"{STATUS_BUSY}u", "bit of REG_STATUS"),
        define("STATUS_ERROR", f"{STATUS_ERROR}u", "bit of REG_STATUS"),
        define("STATUS_DRAINING", f"{STATUS_DRAINING}u", "bit of REG_STATUS"),
        define("IRQ_DONE", f"{IRQ_DONE}u", "bit of REG_IRQ"),
        define("IRQ_ERROR", f"{IRQ_ERROR}u", "bit of REG_IRQ"),
        "",
        "/* Values of registers after reset */",
    ]
    lines += [
        define(f"RESET_{r.name}", f"0x{reset_value(r, config):x}u", f"REG_{r.name}")
        for r in REGISTERS
        if r.access != "wo"
    ]
    lines += ["", "/* 64-bit counters of the snapshot, low half first */"]
    lines += [
        define(f"COUNTER_{c.name.upper()}", f"0x{counter_offset(i):03x}u", c.doc)
        for i, c in enumerate(counters(config))
    ]
    lines += ["", "/* Error causes */"]
    lines += [define(f"ERROR_{cause.name}", f"{int(cause)}u", text) for cause, text in ERROR_MEANING.items()]
    lines += ["", "/* Commands: little-endian fields at byte offsets */"]
    lines += [
        define("COMMAND_BYTES", f"{COMMAND_BYTES}u", "size of a command"),
        define("COMMAND_VERSION", f"{COMMAND_VERSION}u", "value of the version fields"),
    ]
    lines += [define(f"OPCODE_{opcode.name}", f"{int(opcode)}u", "value of the opcode fields") for opcode in Opcode]
    lines += [define(f"FLAG_{flag.name}", f"{int(flag)}u", "bit of GEMM_FLAGS") for flag in GemmFlag]
    for opcode, specs in COMMAND_FIELDS.items():
        lines += [define(f"{opcode.name}_{f.name.upper()}", f"{f.offset}u", f"uint{f.bits}_t: {f.doc}") for f in specs]
    lines += [
        define("RUN_BYTES", f"{RUN_BYTES}u", "size of a run in the list of a COPY"),
        "",
        "/* Records of the channel table: little-endian fields at byte offsets */",
        define("CHANNEL_RECORD_BYTES", f"{CHANNEL_RECORD_BYTES}u", "size of a record; what has no name is 0"),
        *(define(f"CHANNEL_{field.upper()}", f"{offset}u", kind) for field, offset, kind in CHANNEL_RECORD),
        "",
        "/* Operands in tiles */",
        define("BLOCK_ROWS", f"{config.block_rows}u", "most rows of a piece of M"),
        define("BLOCK_COL_TILES", f"{config.block_col_tiles}u", "most units of COLS columns of a piece of N"),
        define("SLAB_K_TILES", f"{config.slab_k_tiles}u", "most units of ROWS columns of A of a piece of K"),
        define("BALANCED_PIECES", f"{BALANCED_PIECES}u", "so many last pieces of an extent are made equal"),
    ]
    if config.keeps_activations:
        vectors = define("ACTIVATION_VECTORS", f"{config.activation_vectors}u", "vectors of ROWS bytes of the buffer")
        lines += ["", "/* KEEP_ACTIVATIONS */", vectors]
    if config.checksum is not None:
        lines += ["", *_log_lines(config, define)]
    return "\n".join([*lines, "", f"#endif /* {guard} */", ""])


def _log_lines(config: AcceleratorConfig, define: Callable[[str, str, str], str]) -> list[str]:
    assert config.checksum is not None
    lines = [
        "/* Records of the syndrome log: little-endian words at byte offsets, fields of LOG_WORD */",
        define("SEGMENT_COLS", f"{config.checksum.segment_cols}u", "columns of a segment"),
        define("LOG_RECORD_BYTES", f"{config.log_record_bytes}u", "size of a record"),
        define("LOG_RECORDS_PER_BLOCK", f"{LOG_RECORDS_PER_BLOCK}u", "most that are kept of a block of the output"),
    ]
    word_bytes = WORD_BITS // 8
    lines += [define(f"LOG_{f.name.upper()}", f"{f.offset}u", f.doc) for f in LOG_FIELDS if f.is_word]
    lines.append(define("LOG_WORD", f"{LOG_BITS_WORD * word_bytes}u", LOG_BITS_DOC))
    if config.checksum.column_checks:
        lines.append(
            define("LOG_MASK", f"{LOG_MASK_WORD * word_bytes}u", "a bit for each column of the segment: marked")
        )
    lines += [
        define(f"LOG_{f.name.upper()}(word)", f"((uint32_t)(word) >> {f.low} & {(1 << f.width) - 1}u)", f.doc)
        for f in LOG_FIELDS
        if not f.is_word
    ]
    lines += [define(f"LOG_{name}", f"{int(value)}u", "value of LOG_OUTCOME") for value, name in OUTCOME_MACROS.items()]
    lines.append(define("LOG_PLAIN_CHECK", f"{LOG_PLAIN_CHECK}u", "value of LOG_OTHER_PLACE"))
    return lines
