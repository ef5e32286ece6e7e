"""What a rail takes in front of its regulator."""

from __future__ import annotations

import pytest

from brownout.host.device.power.regulators import IDEAL, INTEGRATED, LDO, REGULATORS, SWITCHING, Regulator


def test_a_linear_regulator_passes_charge_at_the_supplys_voltage():
    # Energy at the rail goes with V^2; the charge with V, at 0.9 V: V * 0.9 / 0.9^2 of the nominal.
    for voltage in (0.62, 0.75, 0.9):
        assert (voltage / 0.9) ** 2 * LDO.drawn(voltage) == pytest.approx(voltage / 0.9)


def test_a_switching_converter_loses_a_share():
    assert SWITCHING.drawn(0.9) == pytest.approx(1 / 0.93)
    assert SWITCHING.drawn(0.62) == pytest.approx(1 / 0.90)
    assert SWITCHING.drawn(0.5) == pytest.approx(1 / 0.90)
    assert SWITCHING.drawn(0.76) == pytest.approx(1 / 0.915)
    assert IDEAL.drawn(0.7) == 1


def test_faster_regulators_lose_more():
    saved = {name: 1 - (0.6216 / 0.9) ** 2 * each.drawn(0.6216) / each.drawn(0.9) for name, each in REGULATORS.items()}
    assert saved["ideal"] > saved["switching"] > saved["integrated"] > saved["ldo"] > 0.3
    assert LDO.transition_s < INTEGRATED.transition_s < SWITCHING.transition_s


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"efficiency": 0}, "Regulator.efficiency must be above 0 and at most 1, not 0"),
        ({"low_efficiency": 1.1}, "Regulator.low_efficiency must be above 0 and at most 1, not 1.1"),
        ({"transition_s": 0}, "Regulator.transition_s must be positive, not 0"),
        ({"supply_v": -1}, "Regulator.supply_v must be positive, not -1"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        Regulator(name="odd", **arguments)
    with pytest.raises(ValueError, match=r"at most the 0.9 V of 'ldo', not 1"):
        LDO.drawn(1)
