"""What the cycle model in C++ is told and tells: structures of 64-bit words, from which its header is made."""

from __future__ import annotations

from functools import cache

from brownout.hw.commands import COMMAND_FIELDS
from brownout.hw.cpp_struct import Member, SharedStructure, ctypes_fields, structures_header
from brownout.hw.registers import COUNTERS

STRUCTURES_HEADER = "cycle_model_structs.h"
"""Name of the header in the build folder."""


class ConfigWords(SharedStructure):
    """An AcceleratorConfig, and its memory at the present clock."""

    members = (
        Member("uint64_t", "rows cols bus_bytes block_rows block_col_tiles slab_k_tiles lanes"),
        Member("uint64_t", "activation_vectors", "0: activations cannot be kept"),
        Member("uint64_t", "read_outstanding write_outstanding"),
        Member("uint64_t", "checksum", "1: there are checksum units"),
        Member("uint64_t", "group_rows"),
        Member("uint64_t", "digits", "rows after each group of `group_rows` rows, 0 without column checks"),
        Member("uint64_t", "lengths_columns", "bytes of a row of a table of settled carry lengths, 0 if there is none"),
        Member("uint64_t", "domains log_record_bytes"),
        Member("uint64_t", "exponential_latency scale_latency", "of the score unit: hw/attention/depths.py"),
        Member("uint64_t", "latency_cycles"),
        Member("uint64_t", "bandwidth", "2^-16 byte per cycle"),
        Member("uint64_t", "banks row_bytes read_queue write_queue"),
    )
    _fields_ = ctypes_fields(members)


class CommandWords(SharedStructure):
    """A command: what time depends on; what it does not have is 0."""

    members = (
        Member("uint64_t", "opcode flags batch m n k lda ldw ldy a_batch_stride w_batch_stride y_batch_stride"),
        Member("uint64_t", "a_addr w_addr y_addr channel_addr log_addr log_bytes"),
        Member("uint64_t", "block_rows"),
        Member("uint64_t", "v_addr v_batch_stride ldv keys", "ATTENTION"),
        Member("uint64_t", "domain point transition_cycles lengths_addr lengths_stride", "SET_POINT"),
        Member("uint64_t", "runs source_addr target_addr list_addr", "COPY"),
    )
    _fields_ = ctypes_fields(members)


class CounterWords(SharedStructure):
    """What one or more commands add to the counters."""

    members = (
        Member("uint64_t", " ".join(counter.name for counter in COUNTERS)),
        Member("uint64_t", "dram_row_activations", "counted by the memory"),
    )
    visited = True
    _fields_ = ctypes_fields(members)


class FoundWords(SharedStructure):
    """What the checks of a product have found, or the list of a COPY. No pointer: nothing."""

    members = (
        Member("const uint64_t *", "records", "flagged segments of each block, in the order of draining"),
        Member("uint64_t", "blocks"),
        Member(*("const uint64_t *", "suppressed"), "elements that are not written: (product * M + row) * N + column"),
        Member("uint64_t", "suppressed_count"),
        Member("const uint32_t *", "runs", "of a COPY: offset and bytes of each"),
    )
    _fields_ = ctypes_fields(members)


STRUCTURES = (ConfigWords, CommandWords, CounterWords, FoundWords)

assert set(CommandWords.names()) <= {field.name for fields in COMMAND_FIELDS.values() for field in fields}


@cache
def cycle_model_header() -> str:
    """Text of `STRUCTURES_HEADER`."""
    return structures_header("brownout::cycles", STRUCTURES)
