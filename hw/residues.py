"""Weights of residue checks: for each width of a segment powers of numbers that a search has found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import accumulate, repeat

RESIDUE_BITS = 13
RESIDUE_MODULUS = (1 << RESIDUE_BITS) - 1
"""Mersenne prime 8191: reduction is an end-around carry."""


@dataclass(frozen=True)
class ResidueWeights:
    """Weights factor * generator^c mod 8191 of the columns c of segments up to so wide, for each locator.

    Errors tend to be plus or minus powers of two, which are 26 of the 8190 residues. A *relation* is two of them in
    different places (columns, the plain check, the locator itself) that leave what one error leaves in another column,
    or what an error of the plain check leaves.

    Attributes
    ----------
    columns : int
        Columns of the widest segment for which the weights are.
    factors, generators : tuple of int
        Factor and generator of the first and of the second locator.
    relations : int
        Number of relations (two places and a third one) of the first locator alone, at `columns` columns. Both locators
        together have none.
    """

    columns: int
    factors: tuple[int, int]
    generators: tuple[int, int]
    relations: int


SEARCHED_WEIGHTS = (
    ResidueWeights(columns=16, factors=(3, 1), generators=(473, 3), relations=0),
    ResidueWeights(columns=24, factors=(11, 1), generators=(5386, 3), relations=0),
    ResidueWeights(columns=32, factors=(47, 1), generators=(5227, 3), relations=0),
    ResidueWeights(columns=40, factors=(95, 1), generators=(481, 3), relations=0),
    ResidueWeights(columns=48, factors=(41, 1), generators=(481, 3), relations=5),
    ResidueWeights(columns=64, factors=(217, 1), generators=(2096, 3), relations=85),
    ResidueWeights(columns=96, factors=(23, 1), generators=(2843, 3), relations=639),
    ResidueWeights(columns=128, factors=(149, 1), generators=(2843, 3), relations=1870),
)
"""Found by ``benchmarks/residue_weights.py``: the fewest relations, then the fewest double errors that other places
explain too, then the smallest numbers."""


@cache
def residue_weights(columns: int, locator: int) -> tuple[int, ...]:
    """Weight of each column of a segment.

    Parameters
    ----------
    columns : int
        Columns of a segment, 1..128.
    locator : int
        Number of the locator, 1 or 2.
    """
    found = next(each for each in SEARCHED_WEIGHTS if columns <= each.columns)
    first, generator = found.factors[locator - 1], found.generators[locator - 1]
    powers = accumulate(repeat(generator, columns - 1), lambda power, g: power * g % RESIDUE_MODULUS, initial=first)
    return tuple(powers)
