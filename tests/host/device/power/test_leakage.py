"""Leakage falls with the supply and rises with temperature."""

from __future__ import annotations

import pytest

from brownout.host.device.power.leakage import Leakage


def test_power_is_that_of_the_published_law():
    # Computed apart: 0.42 of the nominal power at 0.6216 V and 85 C.
    assert Leakage().relative_power(0.9) == pytest.approx(1)
    assert Leakage().relative_power(0.6216) == pytest.approx(0.4238, abs=2e-4)
    assert Leakage(temperature_k=298.15).relative_power(0.9) < 0.6
    assert Leakage(law="constant").relative_power(0.6) == 1


def test_refusals():
    with pytest.raises(ValueError, match=r"Leakage\.law must be 'liao' or 'constant', not 'cubic'"):
        Leakage(law="cubic")
    with pytest.raises(ValueError, match=r"Leakage\.temperature_k must be positive, not 0"):
        Leakage(temperature_k=0)
