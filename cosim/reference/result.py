"""What a command does and sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.log_record import Outcome

from .numbers import Ints


class SegmentOutcome(IntEnum):
    """What happened to a segment of a row; all but NOT_FLAGGED as in a log record."""

    NOT_FLAGGED = -1
    IGNORED = Outcome.IGNORED
    CORRECTED = Outcome.CORRECTED
    LOCATED = Outcome.LOCATED
    UNCORRECTABLE = Outcome.UNCORRECTABLE


@dataclass
class ReferenceResult:
    """All that a command does and sees. B products, M rows, N columns, T column tiles, S segments, J row checks.

    Attributes
    ----------
    output : int32 or int8 array (B, M, N)
        What memory holds afterwards.
    sums : int32 array (B, M, N)
        Final sums with their errors, before corrections and bias.
    corrected_sums : int32 array (B, M, N)
        The same after corrections.
    row_syndromes : int64 array (B, M, T, S, J)
        r_j; zero where a segment is left out, and without CHECK.
    column_syndromes : int64 array (B, M, N)
        q of the group that the row is in, as signed 32 bits; zero without column checks.
    outcome : int8 array (B, M, T, S)
        `SegmentOutcome` of each segment of each row.
    fit : int64 array (B, M, T, S)
        Column of the tile to which the evidence points, -1 if to none or to two.
    corrected : bool array (B, M, N)
        Elements from which an error was subtracted, also one that is a multiple of 2^32.
    uncorrectable : bool array (B, M, N)
        Whether each element is uncorrectable.
    log : bytes
        Records written, 16 bytes each.
    counters : dict of str to int
        ``checks``, ``detected``, ``corrected``, ``suppressed``, ``log_records``, ``log_dropped``, and the host's
        ``injected``, ``missed``, ``wrong``; with ``razor``, ``dropped``.
    """

    output: NDArray[Any]
    sums: NDArray[np.int32]
    corrected_sums: NDArray[np.int32]
    row_syndromes: Ints
    column_syndromes: Ints
    outcome: NDArray[np.int8]
    fit: Ints
    corrected: NDArray[np.bool_]
    uncorrectable: NDArray[np.bool_]
    log: bytes = b""
    counters: dict[str, int] = field(default_factory=dict)
