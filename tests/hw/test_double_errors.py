"""Double errors in a segment, as docs/protection.md has them, by trying all powers of two and all places."""

import functools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import permutations, product

import pytest

from brownout.hw.checks.corrector import Corrector
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from .amaranth_bench import simulate

MODULUS = 8191
WORD = 1 << 32
CHECK = -1
"""Place of the plain check."""

POWERS = [sign << bit for bit in range(32) for sign in (1, -1)]
SUMS = defaultdict(list)
for larger, smaller in product(POWERS, repeat=2):
    if abs(larger) > abs(smaller) and abs(larger + smaller) not in POWERS:
        SUMS[larger + smaller].append((larger, smaller))


@dataclass
class Outcome:
    """What becomes of a segment: a correction by column, marked columns, word 3 of the log record; which case it is."""

    case: str
    corrections: dict[int, int]
    marked: int
    word: int


@functools.cache
def weights_of(checksum):
    """Of each locator by column; the plain check, which is the last place, has none."""
    return [(*checksum.weights(check), 0) for check in range(1, checksum.checks)]


def residues_of(checksum, errors):
    return [sum(weights[place] * e for place, e in errors) % MODULUS for weights in weights_of(checksum)]


def pairs_of(checksum, inside, r_0, residues):
    return [
        ((first, e_1), (second, e_2))
        for e_1, e_2 in SUMS.get(r_0, ())
        for first, second in permutations([*range(inside), CHECK], 2)
        if residues_of(checksum, [(first, e_1), (second, e_2)]) == residues
    ]


def expected(checksum, inside, r_0, residues, correct):
    """Rules 0 to 3 for a flagged segment of which `inside` columns are in the output."""
    everything = (1 << inside) - 1
    sign = (r_0 < 0) << 31
    fits = [c for c in range(inside) if r_0 and residues_of(checksum, [(c, r_0)]) == residues]
    wrong = [j for j, value in enumerate([r_0, *residues]) if value]
    own = not fits and len(wrong) == 1 and not (wrong == [1] and checksum.locators == 1)
    pairs = pairs_of(checksum, inside, r_0, residues) if correct else []
    if len(pairs) == 1 and not fits and not own:
        columns = [(place, e) for place, e in pairs[0] if place != CHECK]
        case = "pair" if len(columns) == 2 else "check first" if pairs[0][0][0] == CHECK else "check second"
        other = columns[1][0] if len(columns) == 2 else 255
        return Outcome(case, dict(columns), 0, columns[0][0] << 8 | 1 << 16 | other << 18 | 1 << 26 | sign)
    if pairs:
        case = "fit" if fits else "two splits" if len({first[1] for first, _ in pairs}) > 1 else "two places"
        return Outcome(case, {}, everything, inside | 3 << 16 | sign)
    if fits and correct:
        return Outcome("none", {fits[0]: r_0}, 0, fits[0] << 8 | 1 << 16 | sign)
    if fits:
        return Outcome("none", {}, 1 << fits[0], 1 | fits[0] << 8 | 2 << 16 | sign)
    if own:
        return Outcome("none", {}, 0, sign)
    return Outcome("none", {}, everything, inside | 3 << 16 | sign)


def random_syndromes(rng, checksum, inside, rare):
    """Of pairs mostly, but also of more and fewer errors, and of what no two errors explain."""
    places = [*range(inside), CHECK]
    kind = rng.random()
    if kind < 0.15 and rare:
        errors = rng.choice(rng.choice(list(rare.values())))
    elif kind < 0.3:
        # Two ways to split 3 * 2^b, or one if the larger power of two is too large.
        bit, sign = rng.choice([0, 29, 30, rng.randrange(31)]), rng.choice([1, -1])
        powers = rng.choice([(sign << bit + 1, sign << bit), (sign << min(bit + 2, 31), -sign << min(bit, 29))])
        errors = list(zip(rng.sample(places, 2), powers, strict=True)) if inside > 1 else [(0, powers[0])]
    else:
        count = rng.choice([0, 1, 2, 2, 2, 2, 2, 3])
        bits = [rng.choice([0, 31, rng.randrange(32), rng.randrange(32)]) for _ in range(count)]
        errors = [
            (place, rng.choice([1, -1]) << bit)
            for place, bit in zip(rng.sample(places, min(count, len(places))), bits, strict=False)
        ]
        if errors and CHECK not in dict(errors) and rng.random() < 0.2:
            errors[rng.randrange(len(errors))] = (CHECK, errors[0][1])
    r_0, residues = sum(e for _, e in errors), residues_of(checksum, errors)
    if rng.random() < 0.1:
        residues = [rng.choice([0, rng.randrange(MODULUS)]) for _ in residues]
    if rng.random() < 0.05:
        r_0 = rng.choice([-WORD, WORD - 1, 0, rng.randrange(-WORD, WORD)])
    return max(-WORD, min(r_0, WORD - 1)), residues


def rare_pairs(rng, checksum, size):
    """Pairs that leave what another pair or a single error leaves, by which of them."""
    found = defaultdict(list)
    three = [r_0 for r_0, splits in SUMS.items() if len(splits) == 2]
    for r_0 in rng.sample(list(SUMS), 50) + rng.sample(three, 5):
        explained = defaultdict(list)
        for (e_1, e_2), (first, second) in product(SUMS[r_0], permutations([*range(size), CHECK], 2)):
            pair = [(first, e_1), (second, e_2)]
            explained[tuple(residues_of(checksum, pair))].append(pair)
        singles = [tuple(residues_of(checksum, [(c, r_0)])) for c in range(size)]
        for residues, pairs in explained.items():
            if len(pairs) > 1:
                found[len({pair[0][1] for pair in pairs})].append(pairs[0])
            if residues in singles:
                found["single"].append(pairs[0])
    return found


@dataclass
class Vector:
    """A row of the array's columns with its syndromes, under a command's parameters."""

    correct: bool
    theta: int
    row: int
    inside: int
    syndromes: list[tuple[int, list[int]]]
    sums: list[int]

    def packed_syndromes(self):
        packed = at = 0
        for r_0, residues in self.syndromes:
            for value, width in [(r_0 % (1 << 33), 33), *((residue, 13) for residue in residues)]:
                packed |= value << at
                at += width
        return packed


async def send(ctx, unit, lanes, vectors):
    ctx.set(unit.params.check, 1)
    for vector in vectors:
        if (ctx.get(unit.params.correct), ctx.get(unit.params.theta)) != (vector.correct, vector.theta):
            await ctx.tick().until(unit.empty)
            ctx.set(unit.params.correct, vector.correct)
            ctx.set(unit.params.theta, vector.theta)
        ctx.set(unit.syndromes, vector.packed_syndromes())
        for start in range(0, vector.inside, lanes):
            chunk = {"index": start // lanes, "cols": vector.inside, "row": vector.row}
            chunk["count"] = min(lanes, vector.inside - start)
            chunk["elements"] = sum(x << 32 * i for i, x in enumerate(vector.sums[start : start + lanes]))
            ctx.set(unit.chunk.payload, chunk)
            ctx.set(unit.chunk.valid, 1)
            await ctx.tick().until(unit.chunk.ready)
        ctx.set(unit.chunk.valid, 0)
    await ctx.tick().until(unit.empty)


@pytest.mark.parametrize(
    ("segment_cols", "locators", "seed"),
    [(4, 1, 1), (8, 1, 2), (24, 1, 3), (4, 2, 4), (8, 2, 5), pytest.param(16, 2, 6, marks=pytest.mark.soak)],
)
def test_pairs_are_corrected_or_marked(segment_cols, locators, seed):
    print("seed", seed)
    rng = random.Random(seed)
    checksum = ChecksumConfig(segment_cols=segment_cols, locators=locators, column_checks=False, pairs=True)
    # The array's last segment is shorter.
    cols = segment_cols + segment_cols // 2 + 1
    config = AcceleratorConfig(rows=1, cols=cols, drain_lanes=segment_cols, checksum=checksum)
    unit, lanes = Corrector(config), config.lanes
    rare = rare_pairs(rng, checksum, segment_cols)
    vectors = [
        Vector(
            correct=row < 110,
            theta=0 if row < 100 else 12,
            row=row,
            inside=rng.choice([cols, cols, rng.randint(1, cols)]),
            syndromes=[random_syndromes(rng, checksum, len(columns), rare) for columns in config.segments],
            sums=[rng.getrandbits(32) for _ in range(cols)],
        )
        for row in range(120)
    ]
    cases = Counter()
    wanted_elements, wanted_words, wanted_corrected = [], [], 0
    for vector in vectors:
        left, marked = list(vector.sums), 0
        for columns, (r_0, residues) in zip(config.segments, vector.syndromes, strict=True):
            inside = min(vector.inside, columns.stop) - columns.start
            flagged = abs(r_0) >= 1 << vector.theta or (not r_0 and any(residues))
            if inside <= 0 or not flagged:
                continue
            outcome = expected(checksum, inside, r_0, residues, vector.correct)
            cases[outcome.case] += 1
            for column, error in outcome.corrections.items():
                left[columns.start + column] -= error
            wanted_corrected += len(outcome.corrections)
            marked |= outcome.marked << columns.start
            wanted_words.append(outcome.word)
        wanted_elements += [(left[c] % WORD, marked >> c & 1) for c in range(vector.inside)]
    elements, words, corrected = [], [], 0

    async def take(ctx):
        while True:
            ctx.set(unit.out.ready, rng.random() < 0.8)
            signals = unit.out.valid & unit.out.ready, unit.out.payload, unit.out_marked
            _, _, taken, payload, marked = await ctx.tick().sample(*signals)
            if taken:
                elements.extend(
                    (payload.elements >> 32 * i & WORD - 1, marked >> i & 1) for i in range(payload["count"])
                )

    async def watch(ctx):
        nonlocal corrected
        async for _, _, valid, record, count in ctx.tick().sample(unit.record_valid, unit.record, unit.corrected):
            corrected += count
            if valid:
                words.append(record >> 96)

    async def bench(ctx):
        await send(ctx, unit, lanes, vectors)

    simulate(unit, bench, processes=[take, watch])
    assert words == wanted_words
    assert corrected == wanted_corrected
    assert elements == wanted_elements
    print(cases)
    assert min(cases[case] for case in ("pair", "check first", "check second", "none")) > 5
    # No pair leaves what a single error leaves.
    assert not cases["fit"]
    if segment_cols == 24:
        assert min(cases[case] for case in ("two places", "two splits")) > 0


def test_a_pair_is_never_taken_for_an_error_of_the_check_itself():
    for first, second in permutations([*ChecksumConfig(segment_cols=128).weights(1), 0], 2):
        for bit in range(13):
            assert (first - (second << bit)) % MODULUS
            assert (first + (second << bit)) % MODULUS
