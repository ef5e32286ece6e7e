"""Errors of the `carry` model in one product, of which every sum is computed as the elements do."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.constants import NOMINAL_LENGTH, SAFE_LENGTH

from .call import Call
from .checking import Matrix, check_errors
from .error_models import TWIN_ERROR_MODELS, TwinErrorModel
from .findings import DROPPED, Deltas, Errors, Findings
from .geometry import PassGeometry, geometry
from .kernels import address, check_tables, load_kernels, modulus_of
from .structs import CarryTask


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
        Arguments of `inject_flips`.
    """
    np.copyto(sums, clean)
    lengths = call.errors.lengths
    if lengths is None or not ((lengths & NOMINAL_LENGTH) < NOMINAL_LENGTH).any():
        return check_errors(config, sums, Errors(), call)
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
    findings = check_errors(config, sums, Errors(outputs, checked, digits, int(task.injected)), call)
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


@TWIN_ERROR_MODELS.register
class CarryTwin(TwinErrorModel):
    """Late carries, from the operands."""

    name = "carry"

    def compute(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        clean: Matrix,
        sums: Matrix,
        call: Call,
    ) -> Findings:
        return inject_carries(config, a, w, clean, sums, call)
