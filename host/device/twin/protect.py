"""Timing errors and checksums on the twin: only errors are looked at, never sums that are right.

Errors are few and checks are linear: a syndrome is the sum of the errors that it sees. So the product is computed
clean and fast, errors are put in, and what the hardware would find, correct, mark and log follows from the list of
errors. `reference` has the same without this thought.
"""

from __future__ import annotations

import ctypes
import dataclasses
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.error_model import NOMINAL_LENGTH, SAFE_LENGTH
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK

from .call import Call
from .flips import Flips
from .geometry import PassGeometry, geometry
from .kernels import address, check_tables, load_kernels, modulus_of, units_of
from .structs import CarryTask, CheckTask

Matrix = NDArray[np.int32]

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
        Records written.
    marked_rows, marked_cols : int32 arrays
        Places of marked elements, in no order.
    errors : Errors, optional
        What erred.
    """

    block_records: NDArray[np.uint64]
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COUNTERS, DROPPED, *TRUTH), 0))
    log: bytes = b""
    marked_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    marked_cols: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
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


def inject_flips(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    sums: Matrix,
    flips: Flips,
    call: Call,
) -> Findings:
    """Put the errors of the `flip` model into a product, or with ``razor`` drop what errs; check and correct it.

    Parameters
    ----------
    config : AcceleratorConfig
    a, w : int8 arrays (M, K), (K, N)
        Any strides.
    sums : int32 array (M, N)
        The clean product; rows without gaps. Afterwards as the drain sees it, with errors and corrections.
    flips : Flips
        From `draw_flips`.
    call : Call
        Command of the product and its place in it.
    """
    task = flips.task
    if flips.injected:
        thresholds = _thresholds(call.errors.bits)
        task.y, task.thresholds = address(sums), address(thresholds)
        task.a, (task.a_row, task.a_col) = address(a), a.strides
        task.w, (task.w_row, task.w_col), task.k = address(w), w.strides, a.shape[1]
        load_kernels().brownout_flip(task)
    outputs, digits, checks = task.outputs, task.digit_hits, task.check_hits
    errors = Errors(
        outputs=Deltas(outputs.found, outputs.rows, outputs.cols, task.output_deltas, held=flips.held),
        checks=Deltas(checks.found, checks.rows, checks.cols, task.check_deltas, held=flips.held),
        digits=Deltas(digits.found, task.digit_groups, digits.cols, task.digit_deltas, True, flips.held),
        injected=flips.injected,
    )
    if not config.razor:
        return _check(config, sums, errors, call)
    findings = _check(config, sums, dataclasses.replace(errors, outputs=_changed(errors.outputs)), call)
    findings.counts[DROPPED] = outputs.found + digits.found
    # Where a sum was zero, dropping it is no error, but a fact by which products can be compared.
    findings.errors = errors
    return findings


def _changed(deltas: Deltas) -> Deltas:
    """Those that are not zero."""
    rows, cols, changes = deltas.arrays()
    kept = np.flatnonzero(changes)
    return Deltas.of(rows[kept].astype(np.int32), cols[kept].astype(np.int32), changes[kept])


@lru_cache(maxsize=64)
def _thresholds(bits: tuple[int, ...]) -> NDArray[np.uint32]:
    return np.array(bits, np.uint32)


def inject_carries(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    clean: Matrix,
    sums: Matrix,
    call: Call,
) -> Findings:
    """Compute a product with the errors of the `carry` model, or with ``razor`` drops; check and correct it.

    Parameters
    ----------
    clean : int32 array (M, N)
        The clean product; rows without gaps.
    sums : int32 array (M, N)
        Overwritten: the product as the drain sees it; rows without gaps.
    config, a, w, call
        As for `inject_flips`.
    """
    np.copyto(sums, clean)
    lengths = call.errors.lengths
    if lengths is None or not ((lengths & NOMINAL_LENGTH) < NOMINAL_LENGTH).any():
        return _check(config, sums, Errors(), call)
    checksum = config.checksum if call.options.check else None
    pieces = geometry(config, *clean.shape)
    lengths = np.ascontiguousarray(lengths, np.uint8)
    tiles = int(pieces.col_blocks[-1])
    task = CarryTask(
        a=address(a),
        a_row=a.strides[0],
        a_col=a.strides[1],
        w=address(w),
        w_row=w.strides[0],
        w_col=w.strides[1],
        m=a.shape[0],
        n=w.shape[1],
        k=a.shape[1],
        rows=config.rows,
        cols=config.cols,
        lengths=address(lengths),
        lengths_row=lengths.shape[1],
        row_blocks=address(pieces.row_blocks),
        row_block_count=len(pieces.row_blocks) - 1,
        threads=call.threads,
        razor=config.razor,
        y=address(sums),
    )
    digit_sums = np.zeros((len(pieces.group_first), w.shape[1]), np.uint32)
    check_sums = np.zeros((0, 0), np.int64)
    tables: tuple[Any, ...] = ()
    if checksum is not None:
        tables = check_tables(config)
        check_sums = np.zeros((a.shape[0], tiles * len(config.segments) * checksum.checks), np.int64)
        task.group_rows = checksum.group_rows
        task.digits = checksum.digits
        task.checks = checksum.checks
        task.segment_cols = checksum.segment_cols
        task.weights, task.widths, task.moduli = map(address, tables)
        task.digit_sums, task.check_sums = address(digit_sums), address(check_sums)
    load_kernels().brownout_carry(task)
    outputs = _differences(clean, sums)
    checked, digits = Deltas(), Deltas()
    if checksum is not None:
        checked = _check_differences(config, clean, check_sums, pieces, lengths)
        if checksum.column_checks:
            digits = _digit_differences(config, clean, digit_sums, pieces, lengths)
    findings = _check(config, sums, Errors(outputs, checked, digits, int(task.injected)), call)
    findings.counts[DROPPED] = int(task.dropped)
    return findings


def _differences(clean: Matrix, sums: Matrix) -> Deltas:
    kernel = load_kernels().brownout_differences
    capacity = 0
    rows, cols, deltas = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)
    while True:
        places = (address(rows), address(cols), address(deltas))
        count = kernel(address(clean), address(sums), *clean.shape, capacity, *places)
        if count <= capacity:
            return Deltas.of(rows, cols, deltas)
        capacity = count
        rows, cols, deltas = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int64)


def _digit_differences(
    config: AcceleratorConfig,
    clean: Matrix,
    digit_sums: NDArray[np.uint32],
    pieces: PassGeometry,
    lengths: NDArray[np.uint8],
) -> Deltas:
    """Against the sums of the clean product's columns, which clean digit rows would give."""
    can_err = (lengths[:, : config.cols] & NOMINAL_LENGTH).min(axis=0) < SAFE_LENGTH
    columns = np.flatnonzero(can_err[np.arange(clean.shape[1]) % config.cols])
    expected = np.add.reduceat(clean[:, columns].view(np.uint32), pieces.group_first, axis=0, dtype=np.uint32)
    changes = digit_sums[:, columns] - expected
    groups, index = np.nonzero(changes)
    return Deltas.of(groups.astype(np.int32), columns[index].astype(np.int32), changes[groups, index])


def _check_differences(
    config: AcceleratorConfig,
    clean: Matrix,
    check_sums: NDArray[np.int64],
    pieces: PassGeometry,
    lengths: NDArray[np.uint8],
) -> Deltas:
    """Against the weighted sums of the clean product's segments, which clean check columns would give."""
    checksum = config.checksum
    assert checksum is not None
    changes = np.zeros((clean.shape[0], pieces.segments * checksum.checks), np.int64)
    per_tile = len(config.segments)
    position = np.arange(clean.shape[1]) % config.cols % checksum.segment_cols
    for j in range(checksum.checks):
        modulus = modulus_of(checksum, j)
        safe = checksum.check_bits(j) - (0 if modulus else 1)
        can_err = (lengths[:, config.cols + j :: checksum.checks] & NOMINAL_LENGTH).min(axis=0) < safe
        wanted = can_err[np.arange(pieces.segments) % per_tile]
        if not wanted.any():
            continue
        weighted = clean * np.array(checksum.weights(j), np.int64)[position]
        expected = np.add.reduceat(weighted, pieces.segment_starts[:-1], axis=1)
        expected = expected % modulus if modulus else _wrap(expected, checksum.check_bits(j))
        found = check_sums[:, j :: checksum.checks][:, : pieces.segments]
        changes[:, j :: checksum.checks] = np.where(wanted, found - expected, 0)
    rows, cols = np.nonzero(changes)
    return Deltas.of(rows.astype(np.int32), cols.astype(np.int32), changes[rows, cols])


def _wrap(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    unused = 64 - bits
    return values << unused >> unused


def _check(config: AcceleratorConfig, sums: Matrix, errors: Errors, call: Call) -> Findings:
    """What the hardware finds, corrects, marks and logs, from the errors alone."""
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
    marked = load_kernels().brownout_check(units_of(config), task)
    for name in ("detected", "corrected", "missed", "wrong"):
        counts[name] = getattr(task, name)
    counts["suppressed"] = marked
    counts["log_records"] = task.records
    counts["log_dropped"] = task.detected - task.records
    findings.log = log[: task.records].astype("<u4", copy=False).tobytes()
    findings.marked_rows, findings.marked_cols = marks[0, :marked], marks[1, :marked]
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
