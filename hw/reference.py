"""The reference tables of the documentation: configuration, registers, counters, commands, errors."""

from __future__ import annotations

import dataclasses
import inspect
import re

from .commands import (
    ATTENTION_FIELDS,
    CHANNEL_RECORD_BYTES,
    COMMAND_BYTES,
    COPY_FIELDS,
    ERROR_MEANING,
    GEMM_FIELDS,
    RESERVED_RANGES,
    RUN_BYTES,
    SET_ERRORS_FIELDS,
    SET_POINT_FIELDS,
    Field,
    GemmFlag,
    Opcode,
)
from .config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from .log_record import LOG_BITS_DOC, LOG_BITS_WORD, LOG_FIELDS, LOG_MASK_WORD, LOG_MASK_WORDS, WORD_BITS
from .registers import (
    CHECK_COUNTERS,
    COUNTERS,
    LOCKED,
    RAZOR_COUNTERS,
    REGISTERS,
    SURVIVE_SOFT_RESET,
    Register,
    counter_offset,
    reset_value,
)


def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def _attribute_docs(owner: type) -> dict[str, str]:
    """Texts of the class docstring's "Attributes" section, by attribute."""
    section = inspect.cleandoc(owner.__doc__ or "").split("Attributes\n----------\n")[1]
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := re.match(r"(\w+(?:, \w+)*) : ", line):
            names = match[1].split(", ")
        elif line.startswith("    "):
            for name in names:
                docs[name] = f"{docs.get(name, '')} {line.strip()}".strip()
        else:
            names = []
    return docs


def _configuration_rows(owner: type) -> list[tuple[str, ...]]:
    docs = _attribute_docs(owner)
    rows: list[tuple[str, ...]] = []
    for spec in dataclasses.fields(owner):
        default = "" if spec.default is dataclasses.MISSING else str(spec.default)
        rows.append((f"`{spec.name}`", default, docs[spec.name]))
    return rows


def _field_table(fields: tuple[Field, ...]) -> list[str]:
    rows: list[tuple[str, ...]] = [(str(f.offset), str(f.bits), f"`{f.name}`", f.doc) for f in fields]
    return _table(("byte", "bits", "field", "meaning"), rows)


def _after_reset(register: Register) -> str:
    value = reset_value(register)
    if register.access == "wo":
        return "reads 0"
    return "of the configuration" if value is None else f"{value}" if value < 10**7 else f"0x{value:08x}"


def _soft_reset(register: Register) -> str:
    if register.access == "wo" or reset_value(register) is None or register.name in ("ID", "VERSION"):
        return ""
    return "stays" if register.name in SURVIVE_SOFT_RESET else "as after reset"


def _log_tables() -> list[str]:
    words = [(str(f.offset), f"`{f.name}`", f.doc) for f in LOG_FIELDS if f.is_word]
    words.append((str(LOG_BITS_WORD * WORD_BITS // 8), "`word`", LOG_BITS_DOC))
    bits = [
        (str(f.low) if f.width == 1 else f"{f.low}..{f.low + f.width - 1}", f"`{f.name}`", f.doc)
        for f in LOG_FIELDS
        if not f.is_word
    ]
    return [*_table(("byte", "word", "meaning"), words), *_table(("bits of `word`", "field", "meaning"), bits)]


def reference_markdown() -> str:
    """Contents of ``docs/reference.md``; ``python -m brownout.hw --reference FILE`` writes it."""
    lines = [
        "# Reference",
        "",
        "Generated from `hw/config.py`, `hw/registers.py` and `hw/commands.py` by",
        "`python -m brownout.hw --reference docs/reference.md`; a test compares the two.",
        "",
        "## AcceleratorConfig",
        "",
        *_table(("field", "default", "meaning"), _configuration_rows(AcceleratorConfig)),
        "## ChecksumConfig",
        "",
        *_table(("field", "default", "meaning"), _configuration_rows(ChecksumConfig)),
        "## MemoryConfig",
        "",
        *_table(("field", "default", "meaning"), _configuration_rows(MemoryConfig)),
        "## Registers",
        "",
        "32 bits wide, behind AXI4-Lite. Other addresses, writes to `ro` registers and writes with a strobe low answer",
        "DECERR and change nothing. So do, with SLVERR, writes to "
        + ", ".join(f"`{name}`" for name in LOCKED)
        + " while busy.",
        "",
        *_table(
            ("offset", "register", "access", "after reset", "soft reset", "meaning"),
            [
                (f"`0x{r.offset:03x}`", f"`{r.name}`", r.access, _after_reset(r), _soft_reset(r), r.doc)
                for r in REGISTERS
            ],
        ),
        "## Counters",
        "",
        "64 bits wide, low half first. A write to `SNAPSHOT` copies all of them at one moment.",
        "",
        *_table(
            ("offset", "counter", "counts"),
            [(f"`0x{counter_offset(i):03x}`", f"`{c.name}`", c.doc) for i, c in enumerate(COUNTERS)],
        ),
        "With checksum units: " + ", ".join(f"`{c.name}` ({c.doc})" for c in CHECK_COUNTERS) + ".",
        "With `razor`: " + ", ".join(f"`{c.name}` ({c.doc})" for c in RAZOR_COUNTERS) + ". With a model of",
        "timing errors then `transition_cycles` (of the cycles: waiting for a change of operating point), and for each",
        "voltage domain D and point P `domain_D_point_P_cycles` (of the cycles: domain D at operating point P). They",
        "follow without gaps; the C header of a configuration has their offsets.",
        "",
        "## GEMM command",
        "",
        f"{COMMAND_BYTES} bytes, little-endian. Bytes "
        + " and ".join(f"{low}..{high - 1}" for low, high in RESERVED_RANGES)
        + " are reserved and must be zero.",
        "",
        *_field_table(GEMM_FIELDS),
        "Flags: " + ", ".join(f"bit {flag.bit_length() - 1} `{flag.name}`" for flag in GemmFlag) + ".",
        "",
        "`KEEP_ACTIVATIONS` and `block_rows` need `activation_vectors`; see [loop-order.md](loop-order.md).",
        "",
        f"Channel table: one record of {CHANNEL_RECORD_BYTES} bytes per output column: `bias` int32, `mult` uint31 in",
        "4 bytes, `shift` in 1 byte (1..62), 7 bytes of zeros.",
        "",
        "Operands and the channel table must not lie in what the same command writes, Y and the log: what is read",
        "there is undefined. The hardware compares no operands with each other (rows of one may lie between rows of",
        "another); it refuses every overlap if the read and the write window have no byte in common. Where outputs of",
        "one batch overlap, the last product stays.",
        "",
        "## Other commands",
        "",
        "Version and size are those of GEMM; all bytes that are not listed must be zero. "
        + ", ".join(f"`{opcode.name}` is opcode {int(opcode)}" for opcode in Opcode)
        + ".",
        "`FENCE` and `SNAPSHOT` have no operands. `SET_POINT` needs a model of timing errors, `SET_ERRORS` the `flip`",
        "model, `COPY` checksum units, `ATTENTION` an attention unit.",
        "",
        "### SET_ERRORS",
        "",
        *_field_table(SET_ERRORS_FIELDS),
        "### SET_POINT",
        "",
        *_field_table(SET_POINT_FIELDS),
        "### COPY",
        "",
        *_field_table(COPY_FIELDS),
        f"List: one entry of {RUN_BYTES} bytes per run: offset in the region and number of bytes, each uint32. The",
        "bytes of a run go from the source region to the same offset of the target region, runs in their order; other",
        "bytes of the target keep their value. Where the regions overlap, the result is undefined.",
        "",
        "### ATTENTION",
        "",
        *_field_table(ATTENTION_FIELDS),
        "[attention.md](attention.md) has its arithmetic. Flags are those of GEMM.",
        "",
        "## Log records",
        "",
        "Little-endian words; [protection.md](protection.md) has what they are about.",
        "",
        *_log_tables(),
        f"With column checks {LOG_MASK_WORDS * WORD_BITS // 8} more bytes follow, from byte "
        f"{LOG_MASK_WORD * WORD_BITS // 8}: bit i of them is set if",
        "column i of the segment is marked. Without them all columns with n < N are, or the one at `place`.",
        "",
        "## Error causes",
        "",
        *_table(
            ("code", "cause", "meaning"),
            [(str(int(cause)), f"`{cause.name}`", text) for cause, text in ERROR_MEANING.items()],
        ),
    ]
    return "\n".join(lines).rstrip() + "\n"
