"""The search for weights of residue checks."""

from __future__ import annotations

import pytest

from brownout.hw.residues import SEARCHED_WEIGHTS


@pytest.mark.soak
def test_it_finds_what_the_hardware_has(benchmark_module):
    search = benchmark_module("residue_weights")
    assert tuple(each.columns for each in SEARCHED_WEIGHTS) == search.CLASSES
    for each in SEARCHED_WEIGHTS:
        assert search.search(each.columns).weights == each
