"""Timing errors and checksums on the twin: only errors are looked at, never sums that are right.

Errors are few and checks are linear: a syndrome is the sum of the errors that it sees. So the product is computed
clean and fast, errors are put in, and what the hardware would find, correct, mark and log follows from the list of
errors. `reference` has the same without this thought.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import LOG_RECORD_BYTES, LOG_RECORDS_PER_BLOCK, GemmFlag
from brownout.hw.config import AcceleratorConfig

from .flips import Flips, Hits
from .geometry import Geometry, geometry
from .kernels import CarryTask, CheckTask, address, load_kernels, modulus_of, units_of
from .state import NOMINAL_LENGTH, Call

SAFE_LENGTH = 31
"""No carry in 32 bits is late from this settled length on."""

Matrix = NDArray[np.int32]

COUNTERS = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")
TRUTH = ("injected", "missed", "wrong")


@dataclass
class Findings:
    """What the checks made of one product.

    Attributes
    ----------
    counts : dict of str to int
        `COUNTERS` and `TRUTH`.
    log : bytes
        Records written.
    marked_rows, marked_cols : int32 arrays
        Places of marked elements, in no order.
    errors : _Errors, optional
        What erred.
    """

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*COUNTERS, *TRUTH), 0))
    log: bytes = b""
    marked_rows: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    marked_cols: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    errors: _Errors | None = None


@dataclass(frozen=True)
class _Deltas:
    """Changes of sums at places, in order of rows, then columns."""

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    deltas: NDArray[Any]

    @classmethod
    def none(cls, dtype: type[Any] = np.int64) -> _Deltas:
        empty = np.zeros(0, np.int32)
        return cls(empty, empty, np.zeros(0, dtype))

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _Errors:
    """All errors in one product: of outputs (m, n), checks (m, segment * checks + check) and digit rows (group, n)."""

    outputs: _Deltas
    checks: _Deltas
    digits: _Deltas
    injected: int


def inject_flips(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    sums: Matrix,
    flips: Flips,
    call: Call,
) -> Findings:
    """Put the errors of the `flip` model into a product, check and correct it.

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
    bits = np.array(call.errors.bits, np.uint32)
    checked = _flip_checks(config, sums, flips.checks)
    outputs = _flip_outputs(sums, flips.outputs, bits)
    digits = _flip_digits(config, a, w, flips.digits, bits, call.threads)
    return _check(config, sums, _Errors(outputs, checked, digits, flips.injected), call)


def _flip_outputs(sums: Matrix, hits: Hits, bits: NDArray[np.uint32]) -> _Deltas:
    deltas = np.empty(len(hits), np.int64)
    if len(hits):
        places = (address(hits.rows), address(hits.cols), address(hits.draws))
        load_kernels().brownout_flip_outputs(
            address(sums), sums.shape[1], len(hits), *places, address(bits), address(deltas)
        )
    return _Deltas(hits.rows, hits.cols, deltas)


def _flip_digits(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    hits: Hits,
    bits: NDArray[np.uint32],
    threads: int,
) -> _Deltas:
    if not len(hits):
        return _Deltas.none(np.uint32)
    assert config.checksum is not None
    pieces = geometry(config, a.shape[0], w.shape[1])
    deltas = np.empty(len(hits), np.uint32)
    load_kernels().brownout_flip_digits(
        *(address(a), *a.strides, address(w), *w.strides, a.shape[1]),
        *(address(pieces.group_first), address(pieces.group_rows), config.checksum.digits, threads),
        *(len(hits), address(hits.rows), address(hits.cols), address(hits.draws), address(bits), address(deltas)),
    )
    return _Deltas(hits.rows // np.int32(config.checksum.digits), hits.cols, deltas)


def _flip_checks(config: AcceleratorConfig, clean: Matrix, hits: Hits) -> _Deltas:
    if not len(hits):
        return _Deltas.none()
    checksum = config.checksum
    assert checksum is not None
    pieces = geometry(config, *clean.shape)
    deltas = np.empty(len(hits), np.int64)
    weights, widths, moduli = _check_tables(config)
    load_kernels().brownout_flip_checks(
        *(address(clean), clean.shape[1], address(pieces.segment_starts), checksum.checks, checksum.segment_cols),
        *(address(weights), address(widths), address(moduli)),
        *(len(hits), address(hits.rows), address(hits.cols), address(hits.draws), address(deltas)),
    )
    return _Deltas(hits.rows, hits.cols, deltas)


def _check_tables(config: AcceleratorConfig) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Weights (checks, segment_cols), widths (checks,) and moduli (checks,) of the row checks."""
    checksum = config.checksum
    assert checksum is not None
    checks = range(checksum.checks)
    weights = np.array([checksum.weights(j) for j in checks], np.int32)
    widths = np.array([checksum.check_bits(j) for j in checks], np.int32)
    return weights, widths, np.array([modulus_of(checksum, j) for j in checks], np.int32)


def inject_carries(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    clean: Matrix,
    sums: Matrix,
    call: Call,
) -> Findings:
    """Compute a product with the errors of the `carry` model, check and correct it.

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
    if lengths is None or not ((lengths & 63) < NOMINAL_LENGTH).any():
        return _check(config, sums, _Errors(_Deltas.none(), _Deltas.none(), _Deltas.none(np.uint32), 0), call)
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
        y=address(sums),
    )
    digit_sums = np.zeros((len(pieces.group_first), w.shape[1]), np.uint32)
    check_sums = np.zeros((0, 0), np.int64)
    tables: tuple[Any, ...] = ()
    if checksum is not None:
        tables = _check_tables(config)
        check_sums = np.zeros((a.shape[0], tiles * len(config.segments) * checksum.checks), np.int64)
        task.group_rows = checksum.group_rows
        task.digits = checksum.digits
        task.checks = checksum.checks
        task.segment_cols = checksum.segment_cols
        task.weights, task.widths, task.moduli = map(address, tables)
        task.digit_sums, task.check_sums = address(digit_sums), address(check_sums)
    load_kernels().brownout_carry(task)
    outputs = _differences(clean, sums)
    checked, digits = _Deltas.none(), _Deltas.none(np.uint32)
    if checksum is not None:
        checked = _check_differences(config, clean, check_sums, pieces, lengths)
        if checksum.column_checks:
            digits = _digit_differences(config, clean, digit_sums, pieces, lengths)
    return _check(config, sums, _Errors(outputs, checked, digits, int(task.injected)), call)


def _differences(clean: Matrix, sums: Matrix) -> _Deltas:
    kernel = load_kernels().brownout_differences
    capacity = 0
    rows, cols, deltas = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64)
    while True:
        places = (address(rows), address(cols), address(deltas))
        count = kernel(address(clean), address(sums), *clean.shape, capacity, *places)
        if count <= capacity:
            return _Deltas(rows, cols, deltas)
        capacity = count
        rows, cols, deltas = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int64)


def _digit_differences(
    config: AcceleratorConfig,
    clean: Matrix,
    digit_sums: NDArray[np.uint32],
    pieces: Geometry,
    lengths: NDArray[np.uint8],
) -> _Deltas:
    """Against the sums of the clean product's columns, which clean digit rows would give."""
    can_err = (lengths[:, : config.cols] & 63).min(axis=0) < SAFE_LENGTH
    columns = np.flatnonzero(can_err[np.arange(clean.shape[1]) % config.cols])
    expected = np.add.reduceat(clean[:, columns].view(np.uint32), pieces.group_first, axis=0, dtype=np.uint32)
    changes = digit_sums[:, columns] - expected
    groups, index = np.nonzero(changes)
    return _Deltas(groups.astype(np.int32), columns[index].astype(np.int32), changes[groups, index])


def _check_differences(
    config: AcceleratorConfig,
    clean: Matrix,
    check_sums: NDArray[np.int64],
    pieces: Geometry,
    lengths: NDArray[np.uint8],
) -> _Deltas:
    """Against the weighted sums of the clean product's segments, which clean check columns would give."""
    checksum = config.checksum
    assert checksum is not None
    changes = np.zeros((clean.shape[0], pieces.segments * checksum.checks), np.int64)
    per_tile = len(config.segments)
    position = np.arange(clean.shape[1]) % config.cols % checksum.segment_cols
    for j in range(checksum.checks):
        modulus = modulus_of(checksum, j)
        safe = checksum.check_bits(j) - (0 if modulus else 1)
        can_err = (lengths[:, config.cols + j :: checksum.checks] & 63).min(axis=0) < safe
        wanted = can_err[np.arange(pieces.segments) % per_tile]
        if not wanted.any():
            continue
        weighted = clean * np.array(checksum.weights(j), np.int64)[position]
        expected = np.add.reduceat(weighted, pieces.segment_starts[:-1], axis=1)
        expected = expected % modulus if modulus else _wrap(expected, checksum.check_bits(j))
        found = check_sums[:, j :: checksum.checks][:, : pieces.segments]
        changes[:, j :: checksum.checks] = np.where(wanted, found - expected, 0)
    rows, cols = np.nonzero(changes)
    return _Deltas(rows.astype(np.int32), cols.astype(np.int32), changes[rows, cols])


def _wrap(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    unused = 64 - bits
    return values << unused >> unused


def _check(config: AcceleratorConfig, sums: Matrix, errors: _Errors, call: Call) -> Findings:
    """What the hardware finds, corrects, marks and logs, from the errors alone."""
    options, outputs, checked, digits = call.options, errors.outputs, errors.checks, errors.digits
    findings = Findings(errors=errors)
    counts = findings.counts
    counts["injected"] = errors.injected
    counts["missed"] = len(outputs)
    if not options.check:
        return findings
    assert config.checksum is not None
    m, n = sums.shape
    pieces = geometry(config, m, n)
    counts["checks"] = m * pieces.segments
    if not (len(outputs) or len(checked)):
        return findings
    capacity = min((len(outputs) + len(checked)) * config.checksum.segment_cols, m * n)
    mark_rows, mark_cols = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    room = min(call.room, LOG_RECORDS_PER_BLOCK * pieces.blocks, len(outputs) + len(checked))
    log = np.empty((room, LOG_RECORD_BYTES // 4), np.uint32)
    task = CheckTask(
        y=address(sums),
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
        theta=options.theta,
        correct=bool(options.flags & GemmFlag.CORRECT),
        first_row=call.first_row & 0xFFFFFFFF,
        first_col=options.first_col,
        records_per_block=LOG_RECORDS_PER_BLOCK,
        room=room,
        error_count=len(outputs),
        error_rows=address(outputs.rows),
        error_cols=address(outputs.cols),
        error_deltas=address(outputs.deltas),
        check_count=len(checked),
        check_rows=address(checked.rows),
        check_cols=address(checked.cols),
        check_deltas=address(checked.deltas),
        digit_count=len(digits),
        digit_groups=address(digits.rows),
        digit_cols=address(digits.cols),
        digit_deltas=address(digits.deltas),
        threads=call.threads,
        mark_capacity=capacity,
        mark_rows=address(mark_rows),
        mark_cols=address(mark_cols),
        log=address(log),
    )
    marked = load_kernels().brownout_check(units_of(config), task)
    for name in ("detected", "corrected", "missed", "wrong"):
        counts[name] = getattr(task, name)
    counts["suppressed"] = marked
    counts["log_records"] = task.records
    counts["log_dropped"] = task.detected - task.records
    findings.log = log[: task.records].astype("<u4").tobytes()
    findings.marked_rows, findings.marked_cols = mark_rows[:marked], mark_cols[:marked]
    return findings
