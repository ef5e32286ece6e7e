"""Weights for residue checks: the search that `SEARCHED_WEIGHTS` of `hw/residues.py` is from.

Run ``python benchmarks/residue_weights.py`` (a minute); writes ``build/results/residue_weights.json``.

Errors are plus or minus powers of two, modulo 8191 the 26 numbers of a group H. Let places be the columns, with their
weights, and the plain check, with weight 0. Two errors e_1, e_2 at x and y leave what e_1 + e_2 at z leaves if
(z - x) / (z - y) is in H; an error at x and one of a bit of the locator leave what an error at z leaves if z - x is. So
it is enough to look at the cosets of H in which differences of weights lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from brownout.host import write_results
from brownout.host.drift.adaptive.double_errors import unlocated_double_errors
from brownout.hw.residues import RESIDUE_BITS, RESIDUE_MODULUS, ResidueWeights

CLASSES = (16, 24, 32, 40, 48, 64, 96, 128)
"""Widths that are searched; a segment between has the weights of the next one."""

PRIMITIVE_ROOT = 17
COSETS = (RESIDUE_MODULUS - 1) // (2 * RESIDUE_BITS)
FACTORS = range(1, COSETS + 1)

Residues = NDArray[np.int64]


@cache
def coset_table() -> Residues:
    """Coset of H of each residue, 0 for H itself; that of 0 means nothing."""
    cosets = np.zeros(RESIDUE_MODULUS, np.int64)
    power = 1
    for exponent in range(RESIDUE_MODULUS - 1):
        cosets[power] = exponent % COSETS
        power = power * PRIMITIVE_ROOT % RESIDUE_MODULUS
    return cosets


def places_of(generator: int, columns: int, factor: int = 1) -> Residues:
    """Weights of the columns and of the plain check."""
    weights = [factor]
    for _ in range(columns - 1):
        weights.append(weights[-1] * generator % RESIDUE_MODULUS)
    return np.array([*weights, 0])


def relations_of_sums(places: Residues) -> int:
    """Relations of errors in columns and the plain check."""
    count = len(places)
    cosets = coset_table()[(places[:, None] - places) % RESIDUE_MODULUS]
    others = ~np.eye(count, dtype=bool)
    keys = (cosets + COSETS * np.arange(count)[:, None])[others]
    alike = np.bincount(keys)
    first, second = np.triu_indices(count - 1, 1)
    # 2^31 twice is 2^32, and that is -2^32 in the 33 bits of the plain check.
    halves = -(places[first] + places[second]) * (RESIDUE_MODULUS + 1) // 2 % RESIDUE_MODULUS
    return int((alike * (alike - 1) // 2).sum() + np.isin(halves, places).sum())


def relations_with_locator(places: Residues) -> Residues:
    """Relations of an error and one of the locator itself, by which of `FACTORS` all weights are multiplied."""
    first, second = np.triu_indices(len(places), 1)
    histogram = np.bincount(coset_table()[(places[first] - places[second]) % RESIDUE_MODULUS], minlength=COSETS)
    # Of two places each is taken for the other.
    return 2 * histogram[-coset_table()[list(FACTORS)] % COSETS]


def joint_relations(first: Residues, second: Residues) -> int:
    """Relations of sums that both locators have, with the same errors."""
    found = 0
    cosets = coset_table()
    for z in range(len(first)):
        others = np.delete(np.arange(len(first)), z)
        apart = (first[z] - first[others]) % RESIDUE_MODULUS, (second[z] - second[others]) % RESIDUE_MODULUS
        kinds = cosets[apart[0]]
        for kind in np.flatnonzero(np.bincount(kinds) > 1):
            alike = np.flatnonzero(kinds == kind)
            x, y = (alike[index] for index in np.triu_indices(len(alike), 1))
            cross = apart[0][x] * apart[1][y] - apart[0][y] * apart[1][x]
            found += int((cross % RESIDUE_MODULUS == 0).sum())
    return found


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes
    ----------
    weights : ResidueWeights
    unlocated, unlocated_joint : float
        `unlocated_double_errors` of one and of both locators.
    """

    weights: ResidueWeights
    unlocated: float
    unlocated_joint: float


def usable_generators(columns: int) -> list[int]:
    """Whose powers differ. A generator and its inverse have the same weights in another order."""
    half = [g for g in range(2, RESIDUE_MODULUS - 1) if g <= pow(g, -1, RESIDUE_MODULUS)]
    return [g for g in half if len(set(places_of(g, columns).tolist())) == columns + 1]


def search(columns: int) -> Found:
    """The fewest relations, then the fewest double errors that are not located, then the smallest numbers."""
    counted = []
    for generator in usable_generators(columns):
        places = places_of(generator, columns)
        with_locator = relations_with_locator(places)
        counted.append((relations_of_sums(places) + int(with_locator.min()), generator, int(with_locator.argmin())))
    relations = min(counted)[0]
    fewest = [(generator, FACTORS[factor]) for count, generator, factor in counted if count == relations]
    unlocated, generator, factor = min(
        (unlocated_double_errors([places_of(g, columns)[:-1].tolist()]), g, factor) for g, factor in fewest
    )
    first = places_of(generator, columns, factor)
    for second in usable_generators(columns):
        places = places_of(second, columns)
        if second != generator and not joint_relations(first, places):
            break
    joint = unlocated_double_errors([first[:-1].tolist(), places[:-1].tolist()])
    return Found(ResidueWeights(columns, (factor, 1), (generator, second), relations), unlocated, joint)


def main() -> None:
    """Search all `CLASSES`, print what `hw/residues.py` has."""
    metrics: dict[str, float] = {}
    for columns in CLASSES:
        found = search(columns)
        print(
            found.weights,
            f"not located: {found.unlocated:.4f}, with both locators {found.unlocated_joint:.4f}",
            flush=True,
        )
        metrics[f"s{columns}_relations"] = found.weights.relations
        metrics[f"s{columns}_unlocated"] = found.unlocated
        metrics[f"s{columns}_unlocated_joint"] = found.unlocated_joint
    write_results("residue_weights", metrics)


if __name__ == "__main__":
    main()
