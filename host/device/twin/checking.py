"""Timing errors and checksums on the twin: only errors are looked at, never sums that are right.

Errors are few and checks are linear: a syndrome is the sum of the errors that it sees. So the product is computed
clean and fast, errors are put in, and what the hardware would find, correct, give up and log follows from the list of
errors. `brownout.cosim.reference` has the same without this thought.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK

from .call import Call
from .findings import Errors, Findings
from .geometry import PassGeometry, geometry
from .kernels import address, load_kernels, units_of
from .structs import CheckTask

Matrix = NDArray[np.int32]


def check_errors(config: AcceleratorConfig, sums: Matrix, errors: Errors, call: Call) -> Findings:
    """What the hardware finds, corrects, gives up and logs, from the errors alone.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator.
    sums : int32 array (M, N)
        The product with its errors; rows without gaps. Corrected in place.
    errors : Errors
        All errors in the product.
    call : Call
        Command of the product and its place in it.
    """
    options, outputs, checked, digits = call.options, errors.outputs, errors.checks, errors.digits
    m, n = sums.shape
    pieces = geometry(config, m, n)
    findings = Findings(np.zeros(pieces.blocks, np.uint64), errors=errors)
    counts = findings.counts
    counts["injected"] = errors.injected
    counts["missed"] = outputs.count
    if not options.check:
        return findings
    assert config.checksum is not None
    counts["checks"] = m * pieces.segments
    found = outputs.count + checked.count
    if not found:
        return findings
    marks = np.empty((2, min(found * config.checksum.segment_cols, m * n)), np.int32)
    room = min(call.room, LOG_RECORDS_PER_BLOCK * pieces.blocks, found)
    log = np.empty((room, config.log_record_bytes // 4), np.uint32)
    plan = _check_plan(config, m, n)
    task = CheckTask.from_buffer_copy(plan.task)
    task.y, task.theta, task.correct = address(sums), options.theta, bool(options.flags & GemmFlag.CORRECT)
    task.first_row, task.first_col = call.first_row & 0xFFFFFFFF, options.first_col
    task.error_count, task.error_rows, task.error_cols = outputs.count, outputs.rows, outputs.cols
    task.error_deltas = outputs.deltas
    task.check_count, task.check_rows, task.check_cols = checked.count, checked.rows, checked.cols
    task.check_deltas = checked.deltas
    task.digit_count, task.digit_groups, task.digit_cols = digits.count, digits.rows, digits.cols
    task.digit_deltas = digits.deltas
    task.threads = call.threads
    task.mark_capacity, task.mark_rows = marks.shape[1], address(marks)
    task.mark_cols = task.mark_rows + 4 * marks.shape[1]
    task.room, task.log, task.block_records = len(log), address(log), address(findings.block_records)
    uncorrectable = load_kernels().brownout_check(units_of(config), task)
    for name in ("detected", "corrected", "missed", "wrong"):
        counts[name] = getattr(task, name)
    counts["suppressed"] = uncorrectable
    counts["log_records"] = task.records
    counts["log_dropped"] = task.detected - task.records
    findings.log = log[: task.records].astype("<u4", copy=False).tobytes()
    findings.uncorrectable_rows, findings.uncorrectable_cols = marks[0, :uncorrectable], marks[1, :uncorrectable]
    return findings


@dataclass(frozen=True)
class _CheckPlan:
    """What checks of products of one shape have in common; `pieces` keeps alive what `task` points to."""

    task: CheckTask
    pieces: PassGeometry


@lru_cache(maxsize=256)
def _check_plan(config: AcceleratorConfig, m: int, n: int) -> _CheckPlan:
    pieces = geometry(config, m, n)
    task = CheckTask(
        row_stride=n,
        m=m,
        n=n,
        row_blocks=address(pieces.row_blocks),
        row_block_count=len(pieces.row_blocks) - 1,
        col_blocks=address(pieces.col_blocks),
        col_block_count=len(pieces.col_blocks) - 1,
        segment_starts=address(pieces.segment_starts),
        segment_count=pieces.segments,
        segment_of=address(pieces.segment_of),
    )
    return _CheckPlan(task, pieces)
