"""Recompute what checksums flag, where it matters statistically, and no more than that."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK

from ...device.product.operands import ResidentWeights
from ...device.product.protection import LogRecord, Protection
from ...device.twin.geometry import geometry
from ...offloading.execution import ProductCall
from ...offloading.history import HistoryKey
from ...storage.decoding import Count, Positive, check
from ...storage.state import State
from ..operating_point import OperatingPoint
from .base import DriftRun, Strategy
from .checksums import LOG_RECORDS, PUBLISHED_TILE, classic

WHOLE_ROW_SHARE = 0.25
"""Of a row's segments: with more of them, all of the row is computed again. Each segment reads the row's activations
anew, and a byte from DRAM costs as much as some 200 multiply-accumulates, of which a segment of 32 columns has 32."""


@dataclass(frozen=True)
class _Deviations:
    """State of `RecomputeAbft`: keys and standard deviations."""

    deviations: list[tuple[Count, int, Count, Positive]]


def concerned_segments(
    config: AcceleratorConfig,
    shape: tuple[int, ...],
    log: list[LogRecord],
    *,
    first_row: int,
    overflowed: bool,
    magnitude: float,
    count: int,
) -> NDArray[np.bool_]:
    """Segments of rows that are in need of another computation.

    Of tiles that are critical, those that the log names. A tile is critical that has a syndrome of at least
    `magnitude`, or at least `count` flagged rows. Where a block has lost records, those that it has come first: what
    follows the last of them is not known, and is concerned.

    Parameters
    ----------
    config : AcceleratorConfig
        Accelerator with ``classic`` checks, and with the blocks of the product.
    shape : tuple of int
        (M, N) or (B, M, N) of the product.
    log : list of LogRecord
        Records of the product.
    first_row : int
        Place of the product's first row, as in the log.
    overflowed : bool
        Whether a block has lost records.
    magnitude, count
        Where tiles begin to matter.

    Returns
    -------
    bool array (B * M, segments)
        Rows as in a log; segments as in `geometry`.
    """
    assert config.checksum is not None
    rows, m, n = math.prod(shape[:-1]), shape[-2], shape[-1]
    pieces = geometry(config, m, n)
    concerned = np.zeros((rows, pieces.segments), bool)
    if not log:
        return concerned
    row = np.array([record.row - first_row for record in log])
    segment = np.searchsorted(pieces.segment_starts, [record.col for record in log], "right") - 1
    syndrome = np.abs([float(record.syndrome) for record in log])
    product, inner = np.divmod(row, m)
    height = config.checksum.group_rows
    tile = (product * -(-m // height) + inner // height) * pieces.segments + segment
    _, of_record, flagged = np.unique(tile, return_inverse=True, return_counts=True)
    largest = np.zeros(len(flagged))
    np.maximum.at(largest, of_record, syndrome)
    critical = ((largest >= magnitude) | (flagged >= count))[of_record]
    concerned[row[critical], segment[critical]] = True
    if overflowed:
        row_block = np.searchsorted(pieces.row_blocks, inner, "right") - 1
        starts = pieces.segment_starts[segment] // config.cols
        col_block = np.searchsorted(pieces.col_blocks, starts, "right") - 1
        block = (product * len(pieces.row_blocks) + row_block) * len(pieces.col_blocks) + col_block
        _, last, kept = np.unique(block[::-1], return_index=True, return_counts=True)
        for each in len(log) - 1 - last[kept >= LOG_RECORDS_PER_BLOCK]:
            end = product[each] * m + pieces.row_blocks[row_block[each] + 1]
            first, after = np.searchsorted(
                pieces.segment_starts[:-1], pieces.col_blocks[col_block[each] : col_block[each] + 2] * config.cols
            )
            concerned[row[each], segment[each] + 1 : after] = True
            concerned[row[each] + 1 : end, first:after] = True
    return concerned


class RecomputeAbft(Strategy):
    """What matters statistically is computed again at the safe point (ReaLM, arXiv 2503.24053).

    Two things make a tile critical: a large syndrome, and many flagged rows. Of critical tiles the flagged rows are
    computed again, in the tile's columns only; a row with many flagged tiles, whole. What is large is measured against
    the standard deviation of the product's sums in the last evaluation, which a single error of that size could pass
    for. The first evaluation is clean. Everything that attention's checks see matters.

    The columns of a tile are uploaded as resident weights when they are first needed, which in the end takes the memory
    of the weights again; a driver would address them within the weights, by the stride of their rows.

    Parameters
    ----------
    deviations : float
        A tile with a syndrome of so many standard deviations is critical.
    count : int
        So is one with so many flagged rows; with 1, whatever is flagged.
    noticed : float
        Rows are flagged from so many times `deviations` on, to a power of two; at most 1.
    tile : int
        Rows and columns of a tile.
    """

    name = "recompute"
    reads_values = True
    priced_by_measurement = True

    def __init__(
        self, deviations: float = 0.25, *, count: int = 1, noticed: float = 1.0, tile: int = PUBLISHED_TILE
    ) -> None:
        if not deviations > 0:
            raise ValueError(f"deviations must be positive, not {deviations!r}")
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count!r}")
        if not 0 < noticed <= 1:
            raise ValueError(f"noticed must be above 0 and at most 1, not {noticed!r}")
        self.deviations, self.count, self.noticed, self.checksum = deviations, count, noticed, classic(tile)
        self._deviations: dict[HistoryKey, float] = {}
        self._weights: dict[tuple[int, int], ResidentWeights] = {}
        self._logarithms: defaultdict[str, list[float]] = defaultdict(list)

    def begin_run(self, run: DriftRun) -> None:
        self._deviations.clear()
        self._weights.clear()
        self._logarithms.clear()

    def forget_product(self, number: int) -> None:
        self._deviations = {key: value for key, value in self._deviations.items() if key.product != number}
        self._weights = {key: columns for key, columns in self._weights.items() if key[0] != number}

    def state(self) -> State:
        return State({"deviations": [[*astuple(key), value] for key, value in self._deviations.items()]})

    def load_state(self, state: State, run: DriftRun) -> None:
        found = check(state.values, _Deviations, "the state of the strategy")
        self._deviations = {HistoryKey(*key): value for *key, value in found.deviations}

    def measured(self) -> dict[str, float]:
        """``deviation.NAME`` of each layer: geometric mean of the standard deviations of its sums."""
        return {
            f"deviation.{name}": 2 ** (sum(logarithms) / len(logarithms))
            for name, logarithms in self._logarithms.items()
        }

    def _learn(self, run: DriftRun, call: ProductCall, out: torch.Tensor) -> None:
        name = call.product.name
        if run.is_valueless:
            deviation = run.expected(f"deviation.{name}")
        else:
            deviation = max(float(out.double().std()), 1.0) if out.numel() > 1 else 1.0
        self._logarithms[name].append(math.log2(deviation))
        self._deviations[call.history_key] = deviation

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        out = run.scratch("sums", call)
        deviation = self._deviations.get(call.history_key)
        if run.is_safe(point) or deviation is None:
            if not run.is_safe(point):
                run.clean += 1
                point = run.safe
            run.run(call, out, point)
        else:
            magnitude = self.deviations * deviation
            theta = max(0, math.floor(math.log2(max(self.noticed * magnitude, 1.0))))
            self._checked(run, call, point, out, theta, magnitude)
        self._learn(run, call, out)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        # Scores and exponentials of different images have nothing in common: everything that is seen matters.
        self._checked(run, call, point, out, 0, 0.0)

    def _checked(
        self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor, theta: int, magnitude: float
    ) -> None:
        accelerator = run.accelerator
        before = accelerator.check_counts["log_dropped"]
        run.run(call, out, point, Protection(correct=False, theta=theta, log_records=LOG_RECORDS))
        concerned = concerned_segments(
            accelerator.last_blocks,
            call.shape,
            accelerator.last_log,
            first_row=call.first_row,
            overflowed=accelerator.check_counts["log_dropped"] > before,
            magnitude=magnitude,
            count=self.count,
        )
        whole = concerned.sum(1) > WHOLE_ROW_SHARE * concerned.shape[1]
        run.recompute_rows(call, out, torch.from_numpy(np.flatnonzero(whole)))
        if whole.any() and (call.a.ndim == 3 or 2 * whole.sum() > len(whole)):
            # That was all of the product.
            return
        concerned[whole] = False
        starts = geometry(accelerator.config, *call.shape[-2:]).segment_starts
        for product, of_product in enumerate(np.split(concerned, len(concerned) // call.shape[-2])):
            for segment in np.flatnonzero(of_product.any(0)):
                columns = slice(int(starts[segment]), int(starts[segment + 1]))
                rows = np.flatnonzero(of_product[:, segment]) + product * call.shape[-2]
                w = self._columns(run, call, product, columns)
                run.recompute_columns(call, out, torch.from_numpy(rows), columns, w)

    def _columns(
        self, run: DriftRun, call: ProductCall, product: int, columns: slice
    ) -> torch.Tensor | ResidentWeights:
        """Columns of the right operand."""
        if isinstance(call.w, torch.Tensor):
            return call.w[product, :, columns]
        if call.a.ndim == 3:
            return call.w.values[product, :, columns]
        key = (call.product.number, columns.start)
        if key not in self._weights:
            self._weights[key] = run.accelerator.upload(call.w.values[0, :, columns])
        return self._weights[key]
