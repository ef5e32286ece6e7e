"""What erred in a product on the twin, and what the checks made of it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import address

COUNTERS = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")
DROPPED = "dropped"
TRUTH = ("injected", "missed", "wrong")


@dataclass
class Findings:
    """What the checks made of one product.

    Attributes
    ----------
    block_records : uint64 array (blocks,)
        Records of each block in the log, in the order of draining.
    counts : dict of str to int
        `COUNTERS`, `DROPPED` (zero without ``razor``) and `TRUTH`.
    log : bytes
        Records that are written to the log.
    uncorrectable_rows, uncorrectable_cols : int32 arrays
        Places of uncorrectable elements, in no order.
    errors : Errors, optional
        What erred.
    """

    block_records: NDArray[np.uint64]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COUNTERS, DROPPED, *TRUTH), 0))
    log: bytes = b""
    uncorrectable_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    uncorrectable_cols: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    errors: Errors | None = None


@dataclass(frozen=True)
class Deltas:
    """Changes of sums at places, in order of rows, then columns: how many, and where they are in memory.

    Attributes
    ----------
    count : int
    rows, cols : int
        Addresses of int32.
    deltas : int
        Address of int64, or of uint32 if `narrow`.
    narrow : bool
    held : tuple
        Keeps alive what the addresses point to.
    """

    count: int = 0
    rows: int = 0
    cols: int = 0
    deltas: int = 0
    narrow: bool = False
    held: tuple[Any, ...] = ()

    @classmethod
    def of(cls, rows: NDArray[np.int32], cols: NDArray[np.int32], deltas: NDArray[Any]) -> Deltas:
        """The same from arrays."""
        narrow = deltas.itemsize == 4
        return cls(len(rows), address(rows), address(cols), address(deltas), narrow, (rows, cols, deltas))

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Copies of rows, columns and changes."""
        kinds = (ctypes.c_int32, ctypes.c_int32, ctypes.c_uint32 if self.narrow else ctypes.c_int64)
        rows, cols, deltas = (
            np.array((kind * self.count).from_address(place) if self.count else (), np.int64)
            for kind, place in zip(kinds, (self.rows, self.cols, self.deltas), strict=True)
        )
        return rows, cols, deltas


@dataclass(frozen=True)
class Errors:
    """All errors in one product: of outputs (m, n), checks (m, segment * checks + check) and digit rows (group, n)."""

    outputs: Deltas = Deltas()
    checks: Deltas = Deltas()
    digits: Deltas = Deltas()
    injected: int = 0
