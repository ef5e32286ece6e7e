"""The register map: one table, from which the AXI4-Lite slave, the host and the C header derive."""

from __future__ import annotations

from dataclasses import dataclass

from .config import AcceleratorConfig

ID_WORD = 0x4E575242
"""ASCII "BRWN", little-endian."""

INTERFACE_VERSION = 2

ADDRESS_BITS = 12


@dataclass(frozen=True)
class Register:
    """A 32-bit register: byte offset, access (``ro``, ``rw``, ``wo`` or ``w1c``) and meaning."""

    name: str
    offset: int
    access: str
    doc: str


REGISTERS = (
    Register("ID", 0x000, "ro", "ASCII BRWN"),
    Register("VERSION", 0x004, "ro", "version of registers and commands"),
    Register("CONFIG_HASH", 0x008, "ro", "hash of the configuration that the RTL was generated from"),
    Register("DIMENSIONS", 0x00C, "ro", "bits 15..0 rows, 31..16 cols"),
    Register("CONTROL", 0x010, "wo", "bit 0: soft reset"),
    Register(
        *("STATUS", 0x014, "ro"),
        "bit 0: busy, bit 1: stopped by an error, bit 2: the bus still owes answers to a command that was abandoned",
    ),
    Register("IRQ", 0x018, "w1c", "bit 0: ring drained, bit 1: error; the interrupt line is their OR"),
    Register("RING_BASE_LO", 0x01C, "rw", "address of the ring, low half; aligned to a command; not while busy"),
    Register("RING_BASE_HI", 0x020, "rw", "address of the ring, high half; not while busy"),
    Register("RING_ENTRIES", 0x024, "rw", "commands in the ring, 2..65535, of which one less can wait; not while busy"),
    Register("RING_HEAD", 0x028, "ro", "index of the next command to be fetched"),
    Register("RING_TAIL", 0x02C, "rw", "doorbell: index after the last valid command; starts the ring"),
    Register("TIMEOUT", 0x030, "rw", "cycles in which nothing moves that count as an error; 0: never"),
    Register("ERROR_CAUSE", 0x034, "ro", "ErrorCause of the last failed command; of use while bit 1 of IRQ is set"),
    Register("ERROR_INDEX", 0x038, "ro", "ring index of the command that failed"),
    Register("SNAPSHOT", 0x03C, "wo", "any write copies all counters to the snapshot"),
    Register("RETIRED", 0x040, "ro", "commands completed since hard reset, modulo 2^32; a soft reset leaves it"),
)

RETIRED_MODULUS = 1 << 32
"""Where RETIRED begins at zero again."""

CONTROL_SOFT_RESET = 1
STATUS_BUSY = 1
STATUS_ERROR = 2
STATUS_DRAINING = 4
IRQ_DONE = 1
IRQ_ERROR = 2

COUNTER_BASE = 0x100
"""Counters fill the upper part of the 4 KiB: room for 480."""


@dataclass(frozen=True)
class Counter:
    """A 64-bit counter, read from the snapshot (low half first)."""

    name: str
    doc: str


COUNTERS = (
    Counter("cycles", "from the doorbell's first fetch to the last write response"),
    Counter("busy_cycles", "a row of activations entered the array"),
    Counter("stall_load_cycles", "array idle, the next pass waits for data from memory"),
    Counter("stall_weight_cycles", "array idle, the next weight tile is still being loaded into the array"),
    Counter("stall_drain_cycles", "array idle, both accumulator banks wait to be written out"),
    Counter("macs", "useful multiply-accumulates: tails do not count"),
    Counter("sram_read_bytes", "read from scratchpads and accumulators"),
    Counter("sram_write_bytes", "written to scratchpads and accumulators"),
    Counter("dram_read_bytes", "read beats times bus width"),
    Counter("dram_write_bytes", "write beats times bus width"),
    Counter("commands", "commands completed"),
)
"""Counters of every accelerator; see `counters`."""

CHECK_COUNTERS = (
    Counter("checks", "segments of output rows that were checked"),
    Counter("detected", "segments of output rows that were flagged"),
    Counter("corrected", "elements corrected"),
    Counter("suppressed", "elements marked: not written with SUPPRESS, zero with ZERO"),
    Counter("log_records", "syndrome records written"),
    Counter("log_dropped", "syndrome records for which there was no room"),
)
"""Counters of an accelerator with checksum units."""

RAZOR_COUNTERS = (Counter("dropped", "products (`carry`) or final sums (`flip`) that array elements dropped"),)
"""Counters of an accelerator with ``razor``."""


def counters(config: AcceleratorConfig) -> tuple[Counter, ...]:
    """All counters of an accelerator, in the order of their offsets.

    With a model of timing errors, the cycles of every voltage domain at every operating point are among them.
    """
    found: tuple[Counter, ...] = COUNTERS
    if config.checksum is not None:
        found += CHECK_COUNTERS
    if config.razor:
        found += RAZOR_COUNTERS
    if config.error_model.errs:
        found += (Counter("transition_cycles", "of the cycles: waiting for a change of operating point"),)
        found += tuple(
            Counter(
                f"domain_{domain}_point_{point}_cycles", f"of the cycles: domain {domain} at operating point {point}"
            )
            for domain in range(config.domains)
            for point in range(config.operating_points)
        )
    return found


def counter_offset(index: int) -> int:
    """Byte offset of the low half of counter `index`."""
    return COUNTER_BASE + 8 * index


LOCKED = ("RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES")
"""Registers that can be written only while STATUS is not busy; otherwise the answer is SLVERR."""

OFFSETS = {register.name: register.offset for register in REGISTERS}

DEFAULT_TIMEOUT = 1_000_000
"""Reset value of TIMEOUT in cycles: far beyond any memory, so that a dead bus ends in an error, not a hang."""

RESET_VALUES = {"ID": ID_WORD, "VERSION": INTERFACE_VERSION, "TIMEOUT": DEFAULT_TIMEOUT}
"""What registers read after reset; all others 0, or what the configuration says."""

SURVIVE_SOFT_RESET = ("RING_BASE_LO", "RING_BASE_HI", "RING_ENTRIES", "TIMEOUT", "RETIRED")
"""Registers that a soft reset leaves alone; others that can change have their value after reset then."""


def reset_value(register: Register, config: AcceleratorConfig | None = None) -> int | None:
    """Value after reset, as it reads; None if it depends on the configuration and there is none."""
    if register.name in ("CONFIG_HASH", "DIMENSIONS"):
        if config is None:
            return None
        return config.hash_word if register.name == "CONFIG_HASH" else config.rows | config.cols << 16
    return RESET_VALUES.get(register.name, 0)
