"""Tasks of the twin's C++ kernels: structures that Python fills and reads, from which their header is made."""

from __future__ import annotations

from functools import cache

from brownout.hw.config import MAX_LOCATORS, MAX_SEGMENT_COLS
from brownout.hw.cpp_struct import Member, SharedStructure, ctypes_fields, structures_header

STRUCTURES_HEADER = "kernel_structs.h"
"""Name of the header in the build folder."""

_MAX_CHECKS = 1 + MAX_LOCATORS


class Units(SharedStructure):
    """How the checksum units are built; the host fills it from its AcceleratorConfig."""

    members = (
        Member("int32_t", "matches", "values of row and column checks are compared"),
        Member("int32_t", "checks column_checks group_rows segment_cols segments_per_tile pairs"),
        Member("int32_t", "widths", "of the sums of row checks", count=_MAX_CHECKS),
        Member("int32_t", "moduli", "of row checks, 0 where sums are whole", count=_MAX_CHECKS),
        Member("int32_t", "weights", "(checks, segment_cols) without gaps", count=_MAX_CHECKS * MAX_SEGMENT_COLS),
    )
    _fields_ = ctypes_fields(members)


class HitList(SharedStructure):
    """Draws that are errors, in order of rows, then columns; more than `capacity` are counted but not written."""

    members = (
        Member("int64_t", "capacity found"),
        Member("int32_t *", "rows cols"),
        Member("uint32_t *", "draws"),
    )
    _fields_ = ctypes_fields(members)


class FlipTask(SharedStructure):
    """One product of a command, and the errors of the `flip` model in it."""

    members = (
        Member("int64_t", "m n"),
        Member("uint32_t", "seed error_key first_row first_col"),
        Member("const uint32_t *", "rates", "errors per 2^32 draws of each column,"),
        Member("uint32_t", "check_rate", "and of the row checks"),
        Member("int32_t", "digits checks", "rows of a group and checks of a segment"),
        Member("int64_t", "group_count"),
        Member("const int32_t *", "group_first group_rows"),
        Member("int64_t", "segment_count"),
        Member("const int64_t *", "segment_starts", "first column of each segment that is not left out, and N"),
        Member("int32_t", "threads"),
        Member(HitList, "outputs", "rows m, columns n"),
        Member(HitList, "digit_hits", "rows group * digits + digit, columns n"),
        Member(HitList, "check_hits", "rows m, columns segment * checks + check"),
        Member("int32_t *", "y", "(m, n) without gaps: the clean sums"),
        Member("const int8_t *", "a"),
        Member("int64_t", "a_row a_col"),
        Member("const int8_t *", "w"),
        Member("int64_t", "w_row w_col k"),
        Member("const uint32_t *", "thresholds"),
        Member("int32_t", "segment_cols"),
        Member("int32_t", "razor", "sums that err become zero"),
        Member("const int32_t *", "weights widths moduli", "of the checks: (checks, segment_cols), (checks), (checks)"),
        Member("int64_t *", "output_deltas check_deltas", "result: by how much the sum of each hit has changed"),
        Member("uint32_t *", "digit_deltas", "likewise, times 256^digit, as it enters a column check"),
        Member("int32_t *", "digit_groups", "result: group of each hit among the digit rows"),
    )
    _fields_ = ctypes_fields(members)


class CheckTask(SharedStructure):
    """One product of a command, the errors in it, and what the checks make of them.

    Errors are in order of rows, then columns; those of checks in order of rows, then columns = segment * checks +
    check; those of digit rows as group and column, in any order, each the change of the column's sum over digits.
    """

    members = (
        Member("int32_t *", "y"),
        Member("int64_t", "row_stride m n"),
        Member("const int64_t *", "row_blocks", "first rows of the blocks, and M"),
        Member("int64_t", "row_block_count"),
        Member("const int64_t *", "col_blocks", "first column tiles of the blocks, and their number in all"),
        Member("int64_t", "col_block_count"),
        Member("const int64_t *", "segment_starts", "first column of each segment that is not left out, and N"),
        Member("int64_t", "segment_count"),
        Member("const int32_t *", "segment_of", "of each column"),
        Member("int32_t", "theta correct"),
        Member("uint32_t", "first_row first_col"),
        Member("int64_t", "room", "records that fit into the log"),
        Member("int64_t", "error_count"),
        Member("const int32_t *", "error_rows error_cols"),
        Member("const int64_t *", "error_deltas"),
        Member("int64_t", "check_count"),
        Member("const int32_t *", "check_rows check_cols"),
        Member("const int64_t *", "check_deltas"),
        Member("int64_t", "digit_count"),
        Member("const int32_t *", "digit_groups digit_cols"),
        Member("const uint32_t *", "digit_deltas"),
        Member("int32_t", "threads"),
        Member("int64_t", "mark_capacity"),
        Member("int32_t *", "mark_rows mark_cols", "result, in no order"),
        Member("uint32_t *", "log", "result: records, without gaps"),
        Member("uint64_t *", "block_records", "result: of each block in the log, in the order of draining"),
        Member("int64_t", "detected corrected marked records missed wrong", "results"),
    )
    _fields_ = ctypes_fields(members)


class CarryTask(SharedStructure):
    """One product of a command with the late carries of the `carry` model."""

    members = (
        Member("const int8_t *", "a"),
        Member("int64_t", "a_row a_col"),
        Member("const int8_t *", "w"),
        Member("int64_t", "w_row w_col m n k"),
        Member("int32_t", "rows cols", "of the array"),
        Member("const uint8_t *", "lengths"),
        Member("int64_t", "lengths_row"),
        Member("const int64_t *", "row_blocks", "first rows of the blocks, and M"),
        Member("int64_t", "row_block_count"),
        Member("int32_t", "group_rows"),
        Member("int32_t", "digits", "0: no digit rows"),
        Member("int32_t", "checks", "0: no check columns"),
        Member("int32_t", "segment_cols"),
        Member("const int32_t *", "widths moduli weights"),
        Member("int32_t", "threads"),
        Member("int32_t", "razor", "elements finish late sums in the cycle of the one below, which drops its product"),
        Member("int32_t *", "y", "(m, n), the clean product before: columns that cannot err are left as they are"),
        Member(
            *("uint32_t *", "digit_sums"),
            "result: (groups, n), digit rows' sums times 256^digit, added up; of columns that can err only",
        ),
        Member(
            *("int64_t *", "check_sums"),
            "result: (m, column tiles * segments * checks); of check columns that can err only",
        ),
        Member("int64_t", "injected", "result: late sums; with razor in elements that added"),
        Member("int64_t", "dropped", "result: products"),
    )
    _fields_ = ctypes_fields(members)


STRUCTURES = (Units, HitList, FlipTask, CheckTask, CarryTask)


@cache
def kernels_header() -> str:
    """Text of `STRUCTURES_HEADER`."""
    return structures_header("brownout", STRUCTURES)
