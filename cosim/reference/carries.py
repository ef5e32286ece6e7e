"""Sums of one block of a command with the late carries of the `carry` model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.constants import NOMINAL_LENGTH
from brownout.hw.errors.state import check_columns
from brownout.hw.residues import RESIDUE_BITS, RESIDUE_MODULUS
from brownout.hw.tiling import Block

from .command import Command
from .error_models import REFERENCE_ERROR_MODELS, ReferenceErrorModel, Sums
from .numbers import Ints, check_weights, digits_of, is_residue, wrap


def late_bits(settled: NDArray[np.uint64], p: NDArray[np.uint64], lengths: Ints, widths: Ints) -> NDArray[np.uint64]:
    """Bits of `settled` whose carry comes from too far below: arrays (rows, columns), (columns,), (columns,)."""
    one = np.uint64(1)
    places = np.arange(int(widths.max()))
    zero = (p[..., None] >> places.astype(np.uint64)) & one == 0
    # Ones of `p` that end at each place, back to the last zero.
    ones = places - np.maximum.accumulate(np.where(zero, places, -1), axis=-1)
    run = ((ones >= lengths[:, None]).astype(np.uint64) << places.astype(np.uint64)).sum(axis=-1)
    mask = (one << widths.astype(np.uint64)) - one
    return (settled ^ p) & (run << one) & mask


def carry_pass(
    activations: Ints,
    weights: Ints,
    lengths: Ints,
    widths: Ints,
    residue: NDArray[np.bool_],
    razor: NDArray[np.bool_],
) -> tuple[Ints, Ints, Ints]:
    """One pass through the array with late carries.

    Parameters
    ----------
    activations : int64 array (rows in issue order, R)
    weights : int64 array (R, columns)
    lengths : int64 array (R, columns)
        Settled carry length of each element in the pass, 0 to 63.
    widths, residue : arrays (columns,)
        Width of each column's sums; whether they are sums modulo 8191.
    razor : bool array (columns,)
        Columns whose elements finish a late sum in the cycle of the element below, which drops its product.

    Returns
    -------
    int64 array (rows, columns), int64 array (columns,), int64 array (columns,)
        What leaves the array, signed, or 0..8191 for residues; number of sums in each column that were not settled in
        time, and wrong then; number of products dropped in each column.
    """
    mask = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    x = np.zeros((activations.shape[0], weights.shape[1]), np.uint64)
    wrong = np.zeros(weights.shape[1], np.int64)
    dropped = np.zeros(weights.shape[1], np.int64)
    borrowed = np.zeros(x.shape, bool)  # The element above needs this element's cycle.
    for k in range(weights.shape[0]):
        product = activations[:, k, None] * weights[None, k, :]
        y = np.where(residue, product % RESIDUE_MODULUS, product).astype(np.uint64) & mask
        settled = (x + y) & mask
        late = late_bits(settled, x ^ y, lengths[k], widths)
        late[0] = 0
        stale = np.concatenate([settled[:1], settled[:-1]])
        out = (settled & ~late) | (stale & late)
        dropped += borrowed.sum(axis=0)
        late_sums = (out != settled) & ~borrowed
        wrong += late_sums.sum(axis=0)
        out = np.where(borrowed, x, np.where(razor, settled, out))
        borrowed = late_sums & razor
        folded = ((out & np.uint64(RESIDUE_MODULUS)) + (out >> np.uint64(RESIDUE_BITS))) & np.uint64(RESIDUE_MODULUS)
        x = np.where(residue, folded, out)
    half = np.where(residue, 0, np.int64(1) << (widths - 1))
    return (x.astype(np.int64) + half) % (np.int64(1) << widths) - half, wrong, dropped


def _check_columns(config: AcceleratorConfig, checksum: ChecksumConfig) -> tuple[tuple[int, int, bool, int], ...]:
    """Segment, check, whether it sums residues, and width, of each check column in order."""
    return tuple(
        (s, j, is_residue(checksum, j), checksum.check_bits(j))
        for s in range(len(config.segments))
        for j in range(checksum.checks)
    )


def carry_sums(cmd: Command, block: Block) -> Sums:
    """Sums of a block with the errors of the `carry` model, pass by pass."""
    config, checksum, b = cmd.config, cmd.checksum, block.batch
    groups = cmd.groups(block)
    issued: list[Ints] = []
    places: list[tuple[int, int]] = []
    for g, rows in enumerate(groups):
        issued.append(cmd.a[b, rows])
        places += [(-1, m) for m in rows]
        if checksum is not None and checksum.column_checks:
            issued.append(digits_of(cmd.a[b, rows].sum(axis=0), checksum.digits))
            places += [(g, i) for i in range(checksum.digits)]
    activations = np.concatenate(issued)
    columns_of_checks = () if checksum is None else _check_columns(config, checksum)
    checks = len(columns_of_checks)
    lengths: Ints = np.full((config.rows, config.cols + check_columns(config)), NOMINAL_LENGTH)
    if cmd.errors.lengths is not None:
        lengths = cmd.errors.lengths.astype(np.int64) & NOMINAL_LENGTH
    lengths = lengths[:, : config.cols + checks]
    widths = np.full(config.cols + checks, 32)
    residue = np.zeros(config.cols + checks, bool)
    razor = config.razor & (np.arange(config.cols + checks) < config.cols)
    for column, (_, _, modular, bits) in enumerate(columns_of_checks, config.cols):
        residue[column] = modular
        widths[column] = RESIDUE_BITS + 1 if modular else bits

    # Elements beyond K have no product to drop, but are there, and count.
    depth = -(-cmd.k // config.rows) * config.rows
    activations = np.pad(activations, ((0, 0), (0, depth - cmd.k)))
    sums = Sums({}, {}, {})
    for tile in cmd.tiles(block):
        columns = cmd.tile_columns(tile)
        weights = np.zeros((depth, config.cols + checks), np.int64)
        weights[: cmd.k, : len(columns)] = cmd.w[b][:, columns]
        if checksum is not None:
            weights[: cmd.k, config.cols :] = check_weights(cmd.w[b], config, tile)
        total = np.zeros((len(activations), config.cols + checks), np.int64)
        for start in range(0, depth, config.rows):
            k = slice(start, start + config.rows)
            out, wrong, dropped = carry_pass(activations[:, k], weights[k], lengths, widths, residue, razor)
            total += out
            cmd.injected += int(wrong.sum())
            cmd.dropped += int(dropped.sum())
        for (g, m), values in zip(places, total, strict=True):
            for n, value in zip(columns, values, strict=False):
                if g < 0:
                    sums.data[m, n] = int(wrap(value, 32))
                else:
                    sums.digits[g, m, n] = int(wrap(value, 32))
            if g < 0:
                for value, (s, j, modular, bits) in zip(values[config.cols :], columns_of_checks, strict=True):
                    sums.checks[m, tile, s, j] = int(value % RESIDUE_MODULUS if modular else wrap(value, bits))
    return sums


@REFERENCE_ERROR_MODELS.register
class CarryReference(ReferenceErrorModel):
    """Late carries."""

    name = "carry"

    def sums(self, cmd: Command, block: Block) -> Sums:
        return carry_sums(cmd, block)
