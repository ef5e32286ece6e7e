"""Which elements a syndrome log calls uncorrectable, and where they lie in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.log_record import Outcome, parse_log_table
from brownout.hw.matrix_layout import MatrixLayout


@dataclass(frozen=True)
class Places:
    """Elements of an output.

    Attributes
    ----------
    rows, cols : int64 arrays of the same length
        Row (``product * M + row``) and column of each, in order.
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def runs(self, layout: MatrixLayout) -> NDArray[np.uint32]:
        """Offset and length in bytes (runs, 2) of neighbouring elements, products of (M, N) in `layout` in a row."""
        element_bytes = layout.item_bytes
        offsets = np.sort(self._offsets(layout))
        begins = np.flatnonzero(np.diff(offsets, prepend=-2 * element_bytes) != element_bytes)
        lengths = np.diff(begins, append=len(offsets)) * element_bytes
        return np.stack([offsets[begins], lengths], axis=1).astype(np.uint32)

    def _offsets(self, layout: MatrixLayout) -> NDArray[np.int64]:
        product, row = np.divmod(self.rows, layout.rows)
        row_pieces, col_pieces = np.array(layout.row_pieces), np.array(layout.col_pieces)
        first_row, rows = row_pieces[np.searchsorted(row_pieces[:, 0], row, "right") - 1].T
        piece = np.searchsorted(col_pieces[:, 0], self.cols, "right") - 1
        col_bytes = np.array(layout.col_bytes)
        before = np.cumsum(col_bytes) - col_bytes
        tile = product * layout.size_bytes + first_row * layout.row_bytes + rows * before[piece]
        return tile + (row - first_row) * col_bytes[piece] + (self.cols - col_pieces[piece, 0]) * layout.item_bytes


def uncorrectable_places(config: AcceleratorConfig, log: bytes, first_row: int, first_col: int) -> Places:
    """Elements that the records of a log call uncorrectable.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator, with checksum units.
    log : bytes
        Whole records, as in docs/protection.md.
    first_row, first_col : int
        Global place of the output's first element.
    """
    table = parse_log_table(log, config.log_record_bytes)
    rows = (table.fields["row"] - np.uint32(first_row)).astype(np.int64)
    cols = (table.fields["col"] - np.uint32(first_col)).astype(np.int64)
    if config.group_count:
        record, position = np.nonzero(table.masks)
    else:
        # Without column checks it is one element that was located, or all of the segment.
        uncorrectable = table.fields["count"].astype(np.int64)
        located = table.fields["outcome"] == Outcome.LOCATED
        record = np.repeat(np.arange(len(table)), uncorrectable)
        position = np.arange(len(record)) - np.repeat(np.cumsum(uncorrectable) - uncorrectable, uncorrectable)
        position += np.where(located, table.fields["place"], 0).astype(np.int64)[record]
    order = np.lexsort((cols[record] + position, rows[record]))
    return Places(rows[record][order], (cols[record] + position)[order])
