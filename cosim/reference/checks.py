"""What the syndromes of a segment say: whether it is flagged, where its errors are, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import permutations

from brownout.hw.commands import GemmFlag
from brownout.hw.config import ChecksumConfig
from brownout.hw.log_record import LOG_PLAIN_CHECK, pack_log_record
from brownout.hw.residues import RESIDUE_MODULUS
from brownout.hw.tiling import Block

from .command import Command
from .draws import WORD
from .error_models import Sums
from .numbers import is_residue, wrap
from .result import ReferenceResult, SegmentOutcome


def _row_syndromes(cmd: Command, sums: Sums, m: int, tile: int, s: int) -> list[int]:
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


def _column_syndromes(cmd: Command, block: Block, sums: Sums) -> dict[tuple[int, int], int]:
    """Of each group of rows and each column, as signed 32 bits."""
    assert cmd.checksum is not None
    syndromes = {}
    for g, rows in enumerate(cmd.groups(block)):
        for tile in cmd.tiles(block):
            for n in cmd.tile_columns(tile):
                total = sum(sums.data[m, n] for m in rows)
                total -= sum(256**i * sums.digits[g, i, n] for i in range(cmd.checksum.digits))
                syndromes[g, n] = wrap(total, 32)
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
    if checksum.check_scheme.matches:
        same = [i for i, value in q.items() if value % WORD == r_0]
        unique = all(other % WORD != r_0 for other in others)
        return same[0] if len(same) == 1 and r_0 != 0 and unique else None
    if checksum.check_scheme.locates and r[0] != 0:
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


def find_double_errors(
    checksum: ChecksumConfig, r: list[int], places: Collection[int]
) -> list[tuple[Located, Located]]:
    """All double errors, each plus or minus a power of two, that explain the syndromes of a segment.

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
    found = []
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
                found.append(located)
    return found


def _is_check_error(checksum: ChecksumConfig, r: list[int]) -> bool:
    """Whether a check itself has erred: one syndrome alone is not zero, and an error would show in another too."""
    nonzero = [j for j, value in enumerate(r) if value != 0]
    return checksum.locators > 0 and len(nonzero) == 1 and not (nonzero == [1] and checksum.locators == 1)


def _segments(cmd: Command, block: Block) -> Iterator[tuple[int, int, int]]:
    """Row, tile and segment in the order in which a block drains."""
    for m in range(block.first_row, block.first_row + block.rows):
        for tile in cmd.tiles(block):
            for s in range(len(cmd.config.segments)):
                if cmd.segment_columns(tile, s):
                    yield m, tile, s


def check_block(cmd: Command, block: Block, sums: Sums, result: ReferenceResult) -> list[bytes]:
    """Checks of a block: fills `result`, returns the records of its flagged segments."""
    checksum, b, theta = cmd.checksum, block.batch, cmd.options.theta
    assert checksum is not None
    group_of = {m: g for g, rows in enumerate(cmd.groups(block)) for m in rows}
    q = _column_syndromes(cmd, block, sums) if cmd.columns_checked else {}
    for (g, n), value in q.items():
        result.column_syndromes[b, cmd.groups(block)[g], n] = value
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
        doubles = find_double_errors(checksum, syndromes, at.keys()) if checksum.pairs and correct else []
        unique = len(doubles) == 1 and fit is None and not _is_check_error(checksum, syndromes)
        where = {"place": fit or 0}
        uncorrectable: list[int] = []
        repaired: list[Located] = []
        if unique:
            outcome = SegmentOutcome.CORRECTED
            repaired = [each for each in doubles[0] if each.place != LOG_PLAIN_CHECK]
            other = repaired[1].place if len(repaired) == 2 else LOG_PLAIN_CHECK
            where = {"place": repaired[0].place, "other_place": other, "pair": 1}
        elif doubles:
            outcome = SegmentOutcome.UNCORRECTABLE
            uncorrectable, fit, where = list(columns), None, {}
        elif fit is not None and correct:
            outcome = SegmentOutcome.CORRECTED
            repaired = [Located(fit, syndromes[0])]
        elif fit is not None:
            outcome = SegmentOutcome.LOCATED
            uncorrectable = [columns[fit]]
        elif _is_check_error(checksum, syndromes):
            outcome = SegmentOutcome.IGNORED
        else:
            outcome = SegmentOutcome.UNCORRECTABLE
            uncorrectable = [n for i, n in enumerate(columns) if not cmd.columns_checked or large(at[i], theta)]
        for each in repaired:
            n = columns[each.place]
            result.corrected_sums[b, m, n] = wrap(sums.data[m, n] - each.error, 32)
            result.corrected[b, m, n] = True
            result.counters["corrected"] += 1
        result.uncorrectable[b, m, uncorrectable] = True
        result.outcome[b, m, tile, s] = outcome
        if fit is not None:
            result.fit[b, m, tile, s] = cmd.config.segments[s].start + fit
        values = {
            "row": cmd.global_row(b, m),
            "col": cmd.global_col(columns.start),
            "syndrome": syndromes[0] % WORD,
            "count": len(uncorrectable),
            "outcome": outcome,
            "negative": syndromes[0] < 0,
            **where,
        }
        mask = sum(1 << n - columns.start for n in uncorrectable) if cmd.columns_checked else None
        records.append(pack_log_record(values, mask))
    return records
