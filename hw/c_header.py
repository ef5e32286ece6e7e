"""C header of the register map and the command format."""

from __future__ import annotations

from .commands import COMMAND_BYTES, COMMAND_FIELDS, COMMAND_VERSION, ERROR_MEANING, GemmFlag, Opcode
from .config import AcceleratorConfig
from .registers import ID_WORD, IRQ_DONE, IRQ_ERROR, REGISTERS, STATUS_BUSY, STATUS_ERROR, counter_offset, counters

_GUARD = "BROWNOUT_ACCELERATOR_H"


def _define(name: str, value: str, doc: str) -> str:
    return f"#define BROWNOUT_{name} {value} /* {doc} */"


def c_header_text(config: AcceleratorConfig) -> str:
    """Header with register offsets, counter offsets, error causes and the byte offsets of command fields."""
    lines = [f"#ifndef {_GUARD}", f"#define {_GUARD}", "", "#include <stdint.h>", "", "/* Configuration */"]
    lines += [
        _define("ROWS", str(config.rows), "array rows (K)"),
        _define("COLS", str(config.cols), "array columns (N)"),
        _define("BUS_BYTES", str(config.bus_bytes), "alignment of addresses and strides"),
        _define("CONFIG_HASH", f"0x{config.hash_word:08x}u", "value of REG_CONFIG_HASH"),
        _define("ID", f"0x{ID_WORD:08x}u", "value of REG_ID"),
        "",
        "/* Registers */",
    ]
    lines += [_define(f"REG_{r.name}", f"0x{r.offset:03x}u", f"{r.access}: {r.doc}") for r in REGISTERS]
    lines += [
        _define("STATUS_BUSY", f"{STATUS_BUSY}u", "bit of REG_STATUS"),
        _define("STATUS_ERROR", f"{STATUS_ERROR}u", "bit of REG_STATUS"),
        _define("IRQ_DONE", f"{IRQ_DONE}u", "bit of REG_IRQ"),
        _define("IRQ_ERROR", f"{IRQ_ERROR}u", "bit of REG_IRQ"),
        "",
        "/* 64-bit counters of the snapshot, low half first */",
    ]
    lines += [
        _define(f"COUNTER_{c.name.upper()}", f"0x{counter_offset(i):03x}u", c.doc)
        for i, c in enumerate(counters(config))
    ]
    lines += ["", "/* Error causes */"]
    lines += [_define(f"ERROR_{cause.name}", f"{int(cause)}u", text) for cause, text in ERROR_MEANING.items()]
    lines += ["", "/* Commands: little-endian fields at byte offsets */"]
    lines += [
        _define("COMMAND_BYTES", f"{COMMAND_BYTES}u", "size of a command"),
        _define("COMMAND_VERSION", f"{COMMAND_VERSION}u", "value of the version fields"),
    ]
    lines += [_define(f"OPCODE_{opcode.name}", f"{int(opcode)}u", "value of the opcode fields") for opcode in Opcode]
    lines += [_define(f"FLAG_{flag.name}", f"{int(flag)}u", "bit of GEMM_FLAGS") for flag in GemmFlag]
    for opcode, specs in COMMAND_FIELDS.items():
        lines += [_define(f"{opcode.name}_{f.name.upper()}", f"{f.offset}u", f"uint{f.bits}_t: {f.doc}") for f in specs]
    lines += ["", f"#endif /* {_GUARD} */", ""]
    return "\n".join(lines)
