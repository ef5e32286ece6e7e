"""Timing errors and checksums of one GEMM command, written down from docs/protection.md without regard to speed.

RTL and fast twin are compared with this. It works in Python's and numpy's 64-bit integers, which hold every sum that
occurs without wrapping, and wraps where the page says so.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.golden import ChannelTable
from brownout.hw.commands import LOG_PLAIN_CHECK, LOG_RECORDS_PER_BLOCK, GemmFlag
from brownout.hw.config import RESIDUE_BITS, RESIDUE_MODULUS, AcceleratorConfig, ChecksumConfig
from brownout.hw.tiling import Block, blocks

from .state import NOMINAL_LENGTH, CommandOptions, ErrorState, check_columns

Ints = NDArray[np.integer[Any]]

WORD = 1 << 32


class Outcome(IntEnum):
    """What happened to a segment of a row; all but NOT_FLAGGED as in a log record."""

    NOT_FLAGGED = -1
    IGNORED = 0
    CORRECTED = 1
    MARKED_BY_FIT = 2
    MARKED = 3


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
        `Outcome` of each segment of each row.
    fit : int64 array (B, M, T, S)
        Column of the tile to which the evidence points, -1 if to none or to two.
    corrected : bool array (B, M, N)
        Elements from which an error was subtracted, also one that is a multiple of 2^32.
    marked : bool array (B, M, N)
        Elements marked.
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
    marked: NDArray[np.bool_]
    log: bytes = b""
    counters: dict[str, int] = field(default_factory=dict)


def mix(x: int) -> int:
    """The hash of all draws, 32 bits to 32 bits."""
    x %= WORD
    x ^= x >> 16
    x = x * 0x7FEB352D % WORD
    x ^= x >> 15
    x = x * 0x846CA68B % WORD
    return x ^ (x >> 16)


def draw(seed: int, error_key: int, row: int, col: int, digit: int = 0, check: int = 0) -> int:
    """One draw; `row` and `col` are global."""
    base = mix(seed + mix(error_key))
    row_key = mix(base + row * 0x9E3779B1 + digit * 0x7F4A7C15)
    return mix(row_key + col * 0x85EBCA77 + check * 0xC2B2AE3D)


def pick(drawn: int) -> int:
    """The second number of a draw, which chooses the bit."""
    return mix(drawn ^ 0x27D4EB2F)


def wrap(value: Any, bits: int) -> Any:
    """Two's complement of `bits` bits, signed."""
    return (value + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))


def digits_of(total: Ints, count: int) -> Ints:
    """Balanced base-256 digits (count, ...), least significant first, each in -128..127."""
    digits = []
    for _ in range(count):
        low = wrap(total, 8)
        digits.append(low)
        total = (total - low) // 256
    assert not total.any(), "the sum needs more digits than there are"
    return np.array(digits, np.int64).reshape(count, *total.shape)


def check_weights(w: Ints, config: AcceleratorConfig, tile: int) -> Ints:
    """u_j[k, s] of one column tile: (K, segments * checks), the check columns in their order."""
    checksum = config.checksum
    assert checksum is not None
    columns = []
    for segment in config.segments:
        for j in range(checksum.checks):
            total = np.zeros(w.shape[0], np.int64)
            for c in segment:
                n = tile * config.cols + c
                if n < w.shape[1]:
                    total += checksum.weights(j)[c - segment.start] * w[:, n]
            columns.append(total % RESIDUE_MODULUS if is_residue(checksum, j) else total)
    return np.stack(columns, axis=1)


def is_residue(checksum: ChecksumConfig, check: int) -> bool:
    """Whether a row check is a sum modulo 8191."""
    return checksum.scheme == "residue" and check > 0


def late_bits(settled: NDArray[np.uint64], p: NDArray[np.uint64], lengths: Ints, widths: Ints) -> NDArray[np.uint64]:
    """Bits of `settled` whose carry comes from too far below: arrays (rows, columns), (columns,), (columns,)."""
    one = np.uint64(1)
    run = np.zeros_like(p)
    ones = np.zeros(p.shape, np.int64)
    for i in range(int(widths.max())):
        ones = np.where((p >> np.uint64(i)) & one == one, ones + 1, 0)
        run |= (ones >= lengths).astype(np.uint64) << np.uint64(i)
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
        Settled carry lengths.
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


class _Command:
    """One command being carried out."""

    def __init__(
        self, config: AcceleratorConfig, a: Ints, w: Ints, options: CommandOptions, errors: ErrorState
    ) -> None:
        self.config, self.a, self.w, self.options, self.errors = config, a, w, options, errors
        self.batch, self.m, self.k = a.shape
        self.n = w.shape[2]
        self.checksum = config.checksum if options.check else None
        self.columns_checked = self.checksum is not None and self.checksum.column_checks
        self.injected = self.dropped = 0

    def global_row(self, b: int, m: int) -> int:
        return (self.options.first_row + b * self.m + m) % WORD

    def global_col(self, n: int) -> int:
        return (self.options.first_col + n) % WORD

    def groups(self, block: Block) -> list[range]:
        """Rows of each group of a block; all rows as one if columns are not checked."""
        stop = block.first_row + block.rows
        size = self.checksum.group_rows if self.checksum is not None else block.rows
        return [range(start, min(start + size, stop)) for start in range(block.first_row, stop, size)]

    def tiles(self, block: Block) -> range:
        return range(block.first_col_tile, block.first_col_tile + block.col_tiles)

    def tile_columns(self, tile: int) -> range:
        return range(tile * self.config.cols, min((tile + 1) * self.config.cols, self.n))

    def segment_columns(self, tile: int, segment: int) -> range:
        """Global columns of a segment, as n; empty if it is left out."""
        columns = self.config.segments[segment]
        first = tile * self.config.cols
        return range(min(first + columns.start, self.n), min(first + columns.stop, self.n))

    def error_of(self, domain: int, **place: int) -> int | None:
        """The draw, if it is an error."""
        drawn = draw(self.errors.seed, self.options.error_key, **place)
        if drawn >= self.errors.rate_of(domain):
            return None
        self.injected += 1
        return drawn

    def err(self, value: int, drawn: int) -> int:
        """A sum of an array column with its error: a bit inverted, or with ``razor`` dropped."""
        if self.config.razor:
            self.dropped += 1
            return 0
        bit = sum(threshold <= pick(drawn) for threshold in self.errors.bits)
        return int(wrap(value ^ (1 << bit), 32))


@dataclass
class _Sums:
    """Final sums of one block: of its rows, its digit rows (by group) and its row checks."""

    data: dict[tuple[int, int], int]
    digits: dict[tuple[int, int, int], int]
    checks: dict[tuple[int, int, int, int], int]


def _clean_sums(cmd: _Command, block: Block) -> _Sums:
    sums = _Sums({}, {}, {})
    b = block.batch
    for tile in cmd.tiles(block):
        for n in cmd.tile_columns(tile):
            for m in range(block.first_row, block.first_row + block.rows):
                sums.data[m, n] = int(cmd.a[b, m] @ cmd.w[b, :, n])
        if cmd.checksum is None:
            continue
        u = check_weights(cmd.w[b], cmd.config, tile)
        for m in range(block.first_row, block.first_row + block.rows):
            values = cmd.a[b, m] @ u
            for column, value in enumerate(values):
                s, j = divmod(column, cmd.checksum.checks)
                modular = is_residue(cmd.checksum, j)
                reduced = value % RESIDUE_MODULUS if modular else wrap(value, cmd.checksum.check_bits(j))
                sums.checks[m, tile, s, j] = int(reduced)
        if cmd.checksum.column_checks:
            for g, rows in enumerate(cmd.groups(block)):
                digits = digits_of(cmd.a[b, rows].sum(axis=0), cmd.checksum.digits)
                for i, digit_row in enumerate(digits):
                    for n in cmd.tile_columns(tile):
                        sums.digits[g, i, n] = int(digit_row @ cmd.w[b, :, n])
    return sums


def _flip(cmd: _Command, block: Block, sums: _Sums) -> None:
    """Errors of the `flip` model in the sums of a block."""
    config = cmd.config
    for (m, n), value in sums.data.items():
        domain = config.domain_of_column(n % config.cols)
        drawn = cmd.error_of(domain, row=cmd.global_row(block.batch, m), col=cmd.global_col(n))
        if drawn is not None:
            sums.data[m, n] = cmd.err(value, drawn)
    for (g, i, n), value in sums.digits.items():
        domain = config.domain_of_column(n % config.cols)
        row = cmd.global_row(block.batch, cmd.groups(block)[g].start)
        drawn = cmd.error_of(domain, row=row, col=cmd.global_col(n), digit=1 + i)
        if drawn is not None:
            sums.digits[g, i, n] = cmd.err(value, drawn)
    for (m, tile, s, j), value in sums.checks.items():
        columns = cmd.segment_columns(tile, s)
        if not columns:
            continue
        assert cmd.checksum is not None
        row, col = cmd.global_row(block.batch, m), cmd.global_col(columns.start)
        drawn = cmd.error_of(config.check_domain, row=row, col=col, check=1 + j)
        if drawn is not None:
            width = cmd.checksum.check_bits(j)
            flipped = value ^ (1 << (pick(drawn) * width >> 32))
            sums.checks[m, tile, s, j] = flipped if is_residue(cmd.checksum, j) else wrap(flipped, width)


def _check_columns(config: AcceleratorConfig, checksum: ChecksumConfig) -> tuple[tuple[int, int, bool, int], ...]:
    """Segment, check, whether it sums residues, and width, of each check column in order."""
    return tuple(
        (s, j, is_residue(checksum, j), checksum.check_bits(j))
        for s in range(len(config.segments))
        for j in range(checksum.checks)
    )


def _carry_sums(cmd: _Command, block: Block) -> _Sums:
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
    sums = _Sums({}, {}, {})
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


def _row_syndromes(cmd: _Command, sums: _Sums, m: int, tile: int, s: int) -> list[int]:
    checksum = cmd.checksum
    assert checksum is not None
    syndromes = []
    for j in range(checksum.checks):
        weights = checksum.weights(j)
        total = sum(weights[i] * sums.data[m, n] for i, n in enumerate(cmd.segment_columns(tile, s)))
        value = total - sums.checks[m, tile, s, j]
        modular = is_residue(checksum, j)
        syndromes.append(int(value % RESIDUE_MODULUS if modular else wrap(value, checksum.check_bits(j))))
    return syndromes


def large(value: int, theta: int) -> bool:
    """Whether a signed number is not zero and at least 2^theta in magnitude."""
    return value != 0 and abs(value) >= 1 << theta


def is_flagged(checksum: ChecksumConfig, r: list[int], theta: int) -> bool:
    """Whether a segment of a row is flagged, from its syndromes."""
    if r[0] != 0:
        return large(r[0], theta)
    return any((r[j] != 0 and theta <= 32) if is_residue(checksum, j) else large(r[j], theta) for j in range(1, len(r)))


def _find_fit(checksum: ChecksumConfig, r: list[int], others: list[int], q: dict[int, int] | None) -> int | None:
    """Position in the segment to which the evidence points.

    Parameters
    ----------
    checksum : ChecksumConfig
    r : list of int
        Syndromes of this segment of the row.
    others : list of int
        r_0 of the group's other rows in this segment.
    q : dict of int to int, or the positions alone
        Column syndrome, as signed 32 bits, of each position with n < N.
    """
    assert q is not None
    r_0 = r[0] % WORD
    if checksum.scheme == "matched":
        same = [i for i, value in q.items() if value % WORD == r_0]
        unique = all(other % WORD != r_0 for other in others)
        return same[0] if len(same) == 1 and r_0 != 0 and unique else None
    if checksum.scheme in ("weighted", "residue") and r[0] != 0:
        for i, value in q.items():
            if checksum.column_checks and value == 0:
                continue
            if all(_points_at(checksum, r, j, i) for j in range(1, len(r))):
                return i
    return None


def _points_at(checksum: ChecksumConfig, r: list[int], j: int, i: int) -> bool:
    expected = checksum.weights(j)[i] * r[0]
    if is_residue(checksum, j):
        return r[j] == expected % RESIDUE_MODULUS
    return r[j] == wrap(expected, checksum.check_bits(j))


@dataclass(frozen=True)
class Located:
    """An error of so much at a place of a segment."""

    place: int
    error: int


def _is_signed_power(value: int) -> bool:
    return abs(value).bit_count() == 1


def find_pairs(checksum: ChecksumConfig, r: list[int], places: Collection[int]) -> list[tuple[Located, Located]]:
    """All pairs of errors, each plus or minus a power of two, that explain the syndromes of a segment.

    Parameters
    ----------
    checksum : ChecksumConfig
    r : list of int
        Syndromes of this segment of the row.
    places : collection of int
        Positions with n < N.
    """
    if r[0] == 0 or _is_signed_power(r[0]):
        return []
    lowest = r[0] & -r[0]
    pairs = []
    for second in (lowest, -lowest):
        first = r[0] - second
        if not _is_signed_power(first) or max(abs(first), lowest) > 1 << 31:
            continue
        for i, j in permutations((*places, LOG_PLAIN_CHECK), 2):
            located = Located(i, first), Located(j, second)
            if all(
                sum(checksum.weights(c)[each.place] * each.error for each in located if each.place != LOG_PLAIN_CHECK)
                % RESIDUE_MODULUS
                == r[c]
                for c in range(1, len(r))
            ):
                pairs.append(located)
    return pairs


def _is_check_error(checksum: ChecksumConfig, r: list[int]) -> bool:
    """Whether a check itself has erred: one syndrome alone is not zero, and an error would show in another too."""
    nonzero = [j for j, value in enumerate(r) if value != 0]
    return checksum.locators > 0 and len(nonzero) == 1 and not (nonzero == [1] and checksum.locators == 1)


def _segments(cmd: _Command, block: Block) -> Iterator[tuple[int, int, int]]:
    """Row, tile and segment in the order in which a block drains."""
    for m in range(block.first_row, block.first_row + block.rows):
        for tile in cmd.tiles(block):
            for s in range(len(cmd.config.segments)):
                if cmd.segment_columns(tile, s):
                    yield m, tile, s


def _check_block(cmd: _Command, block: Block, sums: _Sums, result: ReferenceResult) -> list[bytes]:
    """Checks of a block: fills `result`, returns the records of its flagged segments."""
    checksum, b, theta = cmd.checksum, block.batch, cmd.options.theta
    assert checksum is not None
    group_of = {m: g for g, rows in enumerate(cmd.groups(block)) for m in rows}
    q: dict[tuple[int, int], int] = {}
    if cmd.columns_checked:
        for g, rows in enumerate(cmd.groups(block)):
            for tile in cmd.tiles(block):
                for n in cmd.tile_columns(tile):
                    total = sum(sums.data[m, n] for m in rows)
                    total -= sum(256**i * sums.digits[g, i, n] for i in range(checksum.digits))
                    q[g, n] = wrap(total, 32)
                    result.column_syndromes[b, rows, n] = q[g, n]
    r = {place: _row_syndromes(cmd, sums, *place) for place in _segments(cmd, block)}
    records = []
    for m, tile, s in _segments(cmd, block):
        syndromes = r[m, tile, s]
        result.row_syndromes[b, m, tile, s] = syndromes
        result.counters["checks"] += 1
        if not is_flagged(checksum, syndromes, theta):
            continue
        columns = cmd.segment_columns(tile, s)
        rows = cmd.groups(block)[group_of[m]]
        others = [r[other, tile, s][0] for other in rows if other != m]
        at = {i: q.get((group_of[m], n), 0) for i, n in enumerate(columns)}
        fit = _find_fit(checksum, syndromes, others, at)
        correct = bool(cmd.options.flags & GemmFlag.CORRECT)
        pairs = find_pairs(checksum, syndromes, at.keys()) if checksum.pairs and correct else []
        unique = len(pairs) == 1 and fit is None and not _is_check_error(checksum, syndromes)
        where = (fit or 0) << 8
        marked: list[int] = []
        repaired: list[Located] = []
        if unique:
            outcome = Outcome.CORRECTED
            repaired = [each for each in pairs[0] if each.place != LOG_PLAIN_CHECK]
            other = repaired[1].place if len(repaired) == 2 else LOG_PLAIN_CHECK
            where = repaired[0].place << 8 | other << 18 | 1 << 26
        elif pairs:
            outcome = Outcome.MARKED
            marked, fit, where = list(columns), None, 0
        elif fit is not None and correct:
            outcome = Outcome.CORRECTED
            repaired = [Located(fit, syndromes[0])]
        elif fit is not None:
            outcome = Outcome.MARKED_BY_FIT
            marked = [columns[fit]]
        elif _is_check_error(checksum, syndromes):
            outcome = Outcome.IGNORED
        else:
            outcome = Outcome.MARKED
            marked = [n for i, n in enumerate(columns) if not cmd.columns_checked or large(at[i], theta)]
        for each in repaired:
            n = columns[each.place]
            result.corrected_sums[b, m, n] = wrap(sums.data[m, n] - each.error, 32)
            result.corrected[b, m, n] = True
            result.counters["corrected"] += 1
        result.marked[b, m, marked] = True
        result.outcome[b, m, tile, s] = outcome
        if fit is not None:
            result.fit[b, m, tile, s] = cmd.config.segments[s].start + fit
        what = len(marked) | where | outcome << 16 | (syndromes[0] < 0) << 31
        words = (cmd.global_row(b, m), cmd.global_col(columns.start), syndromes[0] % WORD, what)
        record = struct.pack("<4I", *words)
        if cmd.columns_checked:
            record += sum(1 << n - columns.start for n in marked).to_bytes(16, "little")
        records.append(record)
    return records


def _finish(sums: Ints, channels: ChannelTable | None, requantise: bool) -> NDArray[Any]:
    """Bias and requantisation."""
    total = wrap(sums.astype(np.int64) + (0 if channels is None else channels.bias), 32)
    if not requantise:
        return total.astype(np.int32)
    if channels is None:
        raise ValueError("requantisation needs a channel table")
    scaled = (total * channels.mult + (np.int64(1) << (channels.shift - 1))) >> channels.shift
    return np.clip(scaled, -128, 127).astype(np.int8)


def reference_gemm(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    *,
    options: CommandOptions,
    errors: ErrorState,
    channels: ChannelTable | None = None,
    requantise: bool = False,
    previous: NDArray[Any] | None = None,
) -> ReferenceResult:
    """Carry out one GEMM command with timing errors and checks.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    a, w : int8 arrays (B, M, K) and (B, K, N), or (M, K) and (K, N)
        Operands; without a batch, results have B = 1.
    options : CommandOptions
        What the command says about errors and checks.
    errors : ErrorState
        What earlier commands have set.
    channels : brownout.cosim.golden.ChannelTable, optional
        The command's channel table.
    requantise : bool
        Write int8.
    previous : array like the output, optional
        What memory holds before, and suppressed elements keep; zeros by default.

    Returns
    -------
    ReferenceResult

    Raises
    ------
    ValueError
        CHECK is set without checksum units, or requantisation without a channel table.
    """
    if options.check and config.checksum is None:
        raise ValueError("CHECK needs an AcceleratorConfig with checksum units")
    left = (a if a.ndim == 3 else a[None]).astype(np.int64)
    right = (w if w.ndim == 3 else w[None]).astype(np.int64)
    cmd = _Command(config, left, right, options, errors)
    shape = (cmd.batch, cmd.m, cmd.n)
    segments = (cmd.batch, cmd.m, -(-cmd.n // config.cols), len(config.segments))
    names = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")
    checks = 1 if config.checksum is None else config.checksum.checks
    result = ReferenceResult(
        output=np.zeros(0),
        sums=np.zeros(shape, np.int32),
        corrected_sums=np.zeros(shape, np.int32),
        row_syndromes=np.zeros((*segments, checks), np.int64),
        column_syndromes=np.zeros(shape, np.int64),
        outcome=np.full(segments, Outcome.NOT_FLAGGED, np.int8),
        fit=np.full(segments, -1, np.int64),
        corrected=np.zeros(shape, bool),
        marked=np.zeros(shape, bool),
        counters=dict.fromkeys((*names, "injected", "missed", "wrong"), 0),
    )
    room = options.log_bytes // config.log_record_bytes
    for block in blocks(config, cmd.m, cmd.n, cmd.batch):
        if config.timing_model == "carry":
            sums = _carry_sums(cmd, block)
        else:
            sums = _clean_sums(cmd, block)
            if config.timing_model == "flip":
                _flip(cmd, block, sums)
        for (m, n), value in sums.data.items():
            result.sums[block.batch, m, n] = result.corrected_sums[block.batch, m, n] = value
        if cmd.checksum is None:
            continue
        records = _check_block(cmd, block, sums, result)
        written = records[: min(LOG_RECORDS_PER_BLOCK, room - result.counters["log_records"])]
        result.log += b"".join(written)
        result.counters["detected"] += len(records)
        result.counters["log_records"] += len(written)
        result.counters["log_dropped"] += len(records) - len(written)

    clean = np.matmul(left, right)
    wrong = result.corrected_sums != clean
    result.counters["suppressed"] = int(result.marked.sum())
    result.counters["injected"] = cmd.injected
    if config.razor:
        result.counters["dropped"] = cmd.dropped
    result.counters["missed"] = int((wrong & ~result.marked & ~result.corrected).sum())
    result.counters["wrong"] = int((wrong & result.corrected).sum())

    output = _finish(result.corrected_sums, channels, requantise)
    if options.flags & GemmFlag.SUPPRESS:
        kept = np.zeros_like(output) if previous is None else previous.reshape(output.shape)
        output = np.where(result.marked, kept, output)
    elif options.flags & GemmFlag.ZERO:
        output = np.where(result.marked, np.zeros_like(output), output)
    result.output = output
    return result
