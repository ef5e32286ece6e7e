"""The twin's C++ kernels from Python: types and signatures of ``host/device/twin/cpp``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_int32, c_int64, c_uint32, c_void_p
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

MAX_CHECKS = 3
MAX_SEGMENT_COLS = 128


class Units(Structure):
    """`BrownoutUnits`: how the checksum units are built."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "scheme",
                "checks",
                "column_checks",
                "group_rows",
                "segment_cols",
                "segments_per_tile",
                "pairs",
            )
        ),
        ("widths", c_int32 * MAX_CHECKS),
        ("weights", c_int32 * (MAX_CHECKS * MAX_SEGMENT_COLS)),
    )


class HitList(Structure):
    """`BrownoutHits`: draws that are errors."""

    _fields_ = (
        *((name, c_int64) for name in ("capacity", "found")),
        *((n, c_void_p) for n in ("rows", "cols", "draws")),
    )


class FlipTask(Structure):
    """`BrownoutFlips`: the errors of the `flip` model in one product."""

    _fields_ = (
        *((name, c_int64) for name in ("m", "n")),
        *((name, c_uint32) for name in ("seed", "error_key", "first_row", "first_col")),
        ("rates", c_void_p),
        ("check_rate", c_uint32),
        *((name, c_int32) for name in ("digits", "checks")),
        ("group_count", c_int64),
        *((name, c_void_p) for name in ("group_first", "group_rows")),
        ("segment_count", c_int64),
        ("segment_starts", c_void_p),
        ("threads", c_int32),
        *((name, HitList) for name in ("outputs", "digit_hits", "check_hits")),
        *((name, c_void_p) for name in ("y", "a")),
        *((name, c_int64) for name in ("a_row", "a_col")),
        ("w", c_void_p),
        *((name, c_int64) for name in ("w_row", "w_col", "k")),
        ("thresholds", c_void_p),
        *((name, c_int32) for name in ("segment_cols", "razor")),
        *((name, c_void_p) for name in ("weights", "widths", "moduli")),
        *((name, c_void_p) for name in ("output_deltas", "check_deltas", "digit_deltas", "digit_groups")),
    )


class CheckTask(Structure):
    """`BrownoutCheck`: the errors in one product, and what the checks make of them."""

    _fields_ = (
        ("y", c_void_p),
        *((name, c_int64) for name in ("row_stride", "m", "n")),
        ("row_blocks", c_void_p),
        ("row_block_count", c_int64),
        ("col_blocks", c_void_p),
        ("col_block_count", c_int64),
        ("segment_starts", c_void_p),
        ("segment_count", c_int64),
        ("segment_of", c_void_p),
        *((name, c_int32) for name in ("theta", "correct")),
        *((name, c_uint32) for name in ("first_row", "first_col")),
        *((name, c_int64) for name in ("records_per_block", "room", "error_count")),
        *((name, c_void_p) for name in ("error_rows", "error_cols", "error_deltas")),
        ("check_count", c_int64),
        *((name, c_void_p) for name in ("check_rows", "check_cols", "check_deltas")),
        ("digit_count", c_int64),
        *((name, c_void_p) for name in ("digit_groups", "digit_cols", "digit_deltas")),
        ("threads", c_int32),
        ("mark_capacity", c_int64),
        *((name, c_void_p) for name in ("mark_rows", "mark_cols", "log", "block_records")),
        *((name, c_int64) for name in ("detected", "corrected", "marked", "records", "missed", "wrong")),
    )


class CarryTask(Structure):
    """`BrownoutCarry`: one product with late carries."""

    _fields_ = (
        ("a", c_void_p),
        *((name, c_int64) for name in ("a_row", "a_col")),
        ("w", c_void_p),
        *((name, c_int64) for name in ("w_row", "w_col", "m", "n", "k")),
        *((name, c_int32) for name in ("rows", "cols")),
        ("lengths", c_void_p),
        ("lengths_row", c_int64),
        ("row_blocks", c_void_p),
        ("row_block_count", c_int64),
        *((name, c_int32) for name in ("group_rows", "digits", "checks", "segment_cols")),
        *((name, c_void_p) for name in ("widths", "moduli", "weights")),
        *((name, c_int32) for name in ("threads", "razor")),
        *((name, c_void_p) for name in ("y", "digit_sums", "check_sums")),
        *((name, c_int64) for name in ("injected", "dropped")),
    )


@cache
def load_kernels() -> ctypes.CDLL:
    """The library, built at the first call on a machine.

    Raises
    ------
    brownout.cosim.errors.BuildError
        There is no C++ compiler, or it failed; or what it made cannot be loaded.
    """
    from brownout.cosim.libraries import load_library
    from brownout.host.device.twin.build import build_kernels

    library = load_library(build_kernels())
    pointer = c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "draw": (None, [POINTER(FlipTask)]),
        "flip": (None, [POINTER(FlipTask)]),
        "save_segments": (None, [pointer, c_int64, pointer, c_int64, c_int64, c_int64, pointer, pointer]),
        "check": (c_int64, [POINTER(Units), POINTER(CheckTask)]),
        "carry": (None, [POINTER(CarryTask)]),
        "differences": (c_int64, [pointer, pointer, c_int64, c_int64, c_int64, pointer, pointer, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, f"brownout_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def address(array: NDArray[Any]) -> int:
    """Where an array's first element is."""
    return array.ctypes.data


@lru_cache(maxsize=64)
def units_of(config: AcceleratorConfig) -> Units:
    """The checksum units of a configuration; do not change what is returned."""
    checksum = config.checksum
    assert checksum is not None
    units = Units(
        scheme=CHECK_SCHEMES.names().index(checksum.scheme),
        checks=checksum.checks,
        column_checks=checksum.column_checks,
        group_rows=checksum.group_rows,
        segment_cols=checksum.segment_cols,
        segments_per_tile=len(config.segments),
        pairs=checksum.pairs,
    )
    for j in range(checksum.checks):
        units.widths[j] = checksum.check_bits(j)
        for i, weight in enumerate(checksum.weights(j)):
            units.weights[j * checksum.segment_cols + i] = weight
    return units


def modulus_of(checksum: ChecksumConfig, check: int) -> int:
    """Modulus of a row check's sums, 0 for a wide sum."""
    return checksum.modulus(check)


@lru_cache(maxsize=64)
def check_tables(config: AcceleratorConfig) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Weights (checks, segment_cols), widths (checks,) and moduli (checks,) of the row checks; do not change them."""
    checksum = config.checksum
    assert checksum is not None
    checks = range(checksum.checks)
    weights = np.array([checksum.weights(j) for j in checks], np.int32)
    widths = np.array([checksum.check_bits(j) for j in checks], np.int32)
    return weights, widths, np.array([modulus_of(checksum, j) for j in checks], np.int32)
