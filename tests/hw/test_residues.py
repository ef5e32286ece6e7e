"""Weights of residue checks against what they are for, by trying all errors."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from brownout.hw import residues
from brownout.hw.config import ChecksumConfig

MODULUS = 8191
CHECK, LOCATOR = "check", "locator"
FREE = 40
"""Widest segment without relations."""


def weights_of(columns, locator=1):
    return ChecksumConfig(scheme="residue", locators=2, segment_cols=columns).weights(locator)


def relations(weights):
    """Two errors of one bit each that pass for one: (two places, third place), whatever the bits and signs.

    Places are columns, the plain check and the locator. Bits are 0..31 of columns, 0..32 of the plain check, 0..12 of
    the locator; what is left is compared as the hardware does, the plain check in 33 bits.
    """
    places = [*range(len(weights)), CHECK, LOCATOR]
    bits_of = {CHECK: 33, LOCATOR: 13}
    weight_of = {CHECK: 0, LOCATOR: 1}
    found = set()
    for x, y in combinations(places, 2):
        bits = np.array(list(product(range(bits_of.get(x, 32)), range(bits_of.get(y, 32)))))
        # Others are these times a power of two.
        bits = bits[(bits.min(1) == 0) | (bits.max(1) >= 31)]
        sizes = np.concatenate([[1, sign] << bits for sign in (1, -1)] + [[-1, sign] << bits for sign in (1, -1)])
        plain = sizes * [place != LOCATOR for place in (x, y)]
        r_0 = (plain.sum(1) + (1 << 32)) % (1 << 33) - (1 << 32)
        r_1 = (sizes * [weight_of.get(p, weights[p] if p in range(128) else 0) for p in (x, y)]).sum(1) % MODULUS
        r_0, r_1 = r_0[r_0 != 0], r_1[r_0 != 0]
        wanted = r_0[:, None] % MODULUS * np.array([*weights, 0]) % MODULUS
        found |= {(x, y, [*places[:-2], CHECK][z]) for z in np.flatnonzero((wanted == r_1[:, None]).any(0))}
    return found


def test_weights_up_to_forty_columns_are_without_relations():
    widest = {weights_of(columns)[:2]: columns for columns in range(2, FREE + 1)}
    assert max(widest.values()) == FREE
    for columns in widest.values():
        assert relations(weights_of(columns)) == set()
    for columns in range(2, FREE + 1):
        # Narrower segments have the first weights of wider ones, and fewer places.
        assert weights_of(columns) == weights_of(widest[weights_of(columns)[:2]])[:columns]


def test_powers_of_17_have_relations():
    """The enumeration must see them: e in a column and 16 e in the plain check are 17 e in the column before."""
    found = relations([pow(17, c + 1, MODULUS) for c in range(16)])
    assert (1, CHECK, 0) in found
    assert len({triple for triple in found if LOCATOR not in triple}) == 15


@pytest.mark.parametrize("columns", [48, *(pytest.param(each, marks=pytest.mark.soak) for each in (64, 96, 128))])
def test_relations_of_wider_segments_are_counted(columns):
    (entry,) = [each for each in residues.SEARCHED_WEIGHTS if each.columns == columns]
    assert len(relations(weights_of(columns))) == entry.relations


@pytest.mark.parametrize("columns", [48, pytest.param(128, marks=pytest.mark.soak)])
def test_two_locators_together_have_no_relations(columns):
    # An error of one locator leaves the other one what the column leaves, which is no other column's.
    first, second = (
        {triple for triple in relations(weights_of(columns, locator)) if LOCATOR not in triple} for locator in (1, 2)
    )
    assert first
    assert second
    assert not first & second


@pytest.mark.parametrize("locator", [1, 2])
def test_segments_of_all_widths_have_different_weights(locator):
    for columns in range(1, 129):
        weights = weights_of(columns, locator)
        assert len(set(weights)) == len(weights) == columns
        assert min(weights) > 0
        assert max(weights) < MODULUS
