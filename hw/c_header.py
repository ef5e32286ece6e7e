"""C header of the register map and the command format."""

from __future__ import annotations

from .commands import COMMAND_BYTES, COMMAND_FIELDS, COMMAND_VERSION, ERROR_MEANING, GemmFlag, Opcode
from .config import AcceleratorConfig
from .names import checked_name, default_name
from .registers import (
    ID_WORD,
    IRQ_DONE,
    IRQ_ERROR,
    REGISTERS,
    STATUS_BUSY,
    STATUS_DRAINING,
    STATUS_ERROR,
    counter_offset,
    counters,
)


def c_header_text(config: AcceleratorConfig, name: str | None = None) -> str:
    """Header with register offsets, counter offsets, error causes and the byte offsets of command fields.

    Parameters
    ----------
    config : AcceleratorConfig
        What it describes.
    name : str, optional
        In upper case, what all macros begin with; by default with the configuration's hash, so that a program can
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
        define("CONFIG_HASH", f"0x{config.hash_word:08x}u", "value of REG_CONFIG_HASH"),
        define("ID", f"0x{ID_WORD:08x}u", "value of REG_ID"),
        "",
        "/* Registers */",
    ]
    lines += [define(f"REG_{r.name}", f"0x{r.offset:03x}u", f"{r.access}: {r.doc}") for r in REGISTERS]
    lines += [
        define("STATUS_BUSY", f"{STATUS_BUSY}u", "bit of REG_STATUS"),
        define("STATUS_ERROR", f"{STATUS_ERROR}u", "bit of REG_STATUS"),
        define("STATUS_DRAINING", f"{STATUS_DRAINING}u", "bit of REG_STATUS"),
        define("IRQ_DONE", f"{IRQ_DONE}u", "bit of REG_IRQ"),
        define("IRQ_ERROR", f"{IRQ_ERROR}u", "bit of REG_IRQ"),
        "",
        "/* 64-bit counters of the snapshot, low half first */",
    ]
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
    lines += ["", f"#endif /* {guard} */", ""]
    return "\n".join(lines)
