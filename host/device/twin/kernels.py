"""The twin's C++ kernels from Python: signatures of ``host/device/twin/cpp``, and tables for them."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_void_p
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.cpp_struct import layout_digest

from .structs import STRUCTURES, CarryTask, CheckTask, FlipTask, Units


@cache
def load_kernels() -> ctypes.CDLL:
    """The library, built at the first call on a machine.

    Raises
    ------
    brownout.cosim.errors.BuildError
        There is no C++ compiler, or it failed; or what it made cannot be loaded, or belongs to other structures.
    """
    from brownout.cosim.libraries import load_library
    from brownout.host.device.twin.build import build_kernels

    library = load_library(build_kernels(), layout_digest(STRUCTURES))
    pointer = c_void_p
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "requantise": (None, [pointer, c_int64, c_int64, *[pointer] * 3, c_int64, pointer, c_int32]),
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
        matches=checksum.check_scheme.matches,
        checks=checksum.checks,
        column_checks=checksum.column_checks,
        group_rows=checksum.group_rows,
        segment_cols=checksum.segment_cols,
        segments_per_tile=len(config.segments),
        pairs=checksum.pairs,
    )
    for j in range(checksum.checks):
        units.widths[j] = checksum.check_bits(j)
        units.moduli[j] = checksum.modulus(j)
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
