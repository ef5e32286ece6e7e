"""Checks are charged by their netlists."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from brownout.host.device.power.check_prices import (
    IDLE_SHARE,
    check_column_price,
    check_share,
    column_sums_price,
    syndrome_bits,
)
from brownout.hw.config import ChecksumConfig


def residue(width, **options):
    return ChecksumConfig(scheme="residue", segment_cols=width, **{"column_checks": False, **options})


def test_residues_cost_what_their_transistors_say():
    # docs/protection.md: per cent of the array's energy.
    assert [round(100 * check_share(residue(width)), 1) for width in (32, 16, 8)] == [5.7, 11.2, 21.7]
    assert column_sums_price(residue(16)) == 0
    assert column_sums_price(residue(16, column_checks=True)) == pytest.approx(0.127, abs=0.001)


def test_widths_without_a_netlist_have_the_price_of_the_next_one():
    assert check_column_price(residue(64)) == check_column_price(residue(32))
    assert check_share(residue(64)) == pytest.approx(check_share(residue(32)) / 2)


def test_schemes_without_a_netlist_go_by_the_widths_of_their_weights():
    known = residue(16)
    added = SimpleNamespace(
        scheme="added", locators=1, checks=2, segment_cols=16, column_checks=True, modulus=lambda check: 8191
    )
    assert check_column_price(added) == pytest.approx(check_column_price(known), rel=0.05)
    assert column_sums_price(added) == 0


def test_an_idle_element_takes_what_follows_the_clock():
    assert 0.03 < IDLE_SHARE < 0.2


def test_syndromes_are_kept_for_each_segment():
    checksum = residue(16)
    assert syndrome_bits(checksum) == checksum.check_bits(0) + checksum.check_bits(1)
