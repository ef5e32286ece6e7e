"""Saving and speed of schemes under the published cost model."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from brownout.host import DelayModel
from brownout.host.drift.accounting.costs import (
    CHECK_SHARES,
    DRIFT,
    NONE,
    ROLLBACK_SCHEMES,
    Scheme,
    best_saving,
    best_speedup,
    check_voltage_v,
    saving,
    saving_at_rate,
    speedup,
    speedup_at_rate,
)
from brownout.host.drift.accounting.published import PUBLISHED

# Mean speed at 0.9 V by added cycles, nominal steps checked too, by clock in GHz: as published.
SPEEDS = {
    3e-3: {0.0: 1.72, 0.06: 1.63, 0.12: 1.54},
    1.08e-2: {0.0: 1.84, 0.06: 1.74, 0.12: 1.64},
    2.9e-2: {0.0: 1.98, 0.06: 1.87, 0.12: 1.77},
    4.6e-2: {0.0: 2.07, 0.06: 1.95, 0.12: 1.85},
}
CLOCKS = {3e-3: 3.58, 1.08e-2: 3.85, 2.9e-2: 4.16, 4.6e-2: 4.37}


@pytest.mark.parametrize("rate", SPEEDS)
def test_published_speeds(rate):
    for cycles, expected in SPEEDS[rate].items():
        choice = speedup_at_rate(Scheme(name="table", cycles=cycles, checked_at_nominal=True), rate)
        assert round(choice.frequency_hz / 1e9, 2) == CLOCKS[rate]
        # 1.86497 is printed as 1.87.
        assert choice.average == pytest.approx(expected, abs=0.0051)


def test_the_published_speed_at_the_published_clock():
    speeds = [speedup(model, NONE, 3.57e9) for model in PUBLISHED.values()]
    assert round(sum(speeds) / 3, 1) == 1.7


def test_drift_priced_with_its_checks():
    found = saving_at_rate(DRIFT, 3e-3)
    assert round(found.average, 3) == 0.319
    assert {name: round(value, 3) for name, value in found.by_model.items()} == {
        "dit": 0.299,
        "pixart": 0.346,
        "sd15": 0.311,
    }
    assert speedup_at_rate(DRIFT, 3e-3).average == pytest.approx(1.676, abs=5e-4)


def test_the_guard_band_alone_saves_nine_to_ten_per_cent():
    free = {name: replace(model, nominal_steps=()) for name, model in PUBLISHED.items()}
    choice = saving_at_rate(NONE, 0.0, models=free)
    assert choice.voltage_v == 0.85
    assert 0.09 < choice.average < 0.10


def test_checks_cost_the_square_of_their_own_voltage():
    model = PUBLISHED["dit"]
    scheme = Scheme(name="half", energy=0.1, check_voltage=0.5)
    assert check_voltage_v(scheme, 0.65, DelayModel()) == pytest.approx(0.75)
    spent = saving(model, NONE, 0.65) - saving(model, scheme, 0.65)
    # 48 of 50 steps are checked; compute is 5.81 of 6.81.
    assert spent == pytest.approx(0.96 * 0.1 * (0.75 / 0.9) ** 2 * 5.81 / 6.81)
    # Above the safe voltage the checks are where the array is.
    assert check_voltage_v(scheme, 0.88, DelayModel()) == 0.88


def test_our_schemes_cost_what_the_netlists_say():
    # docs/protection.md, at a rate of 1e-2: per cent of compute energy.
    table = {(32, 0.0): 5.7, (16, 0.0): 11.2, (16, 0.5): 14.9, (8, 0.0): 21.7, (8, 0.5): 28.8}
    delay_model = DelayModel()
    voltage = delay_model.voltage_at_rate(1e-2)
    for (width, position), per_cent in table.items():
        scheme = ROLLBACK_SCHEMES[f"residue x1 S{width} V{position:g}"]
        energy = scheme.energy * (check_voltage_v(scheme, voltage, delay_model) / voltage) ** 2
        assert 100 * energy == pytest.approx(per_cent, abs=0.06)
        assert scheme.energy == CHECK_SHARES[width]


def test_the_best_scheme_depends_on_the_rates_that_each_allows():
    cheap, strong = "residue x1 S32 V0", "residue x1 S16 V0"
    assert best_saving({cheap: 1e-2, strong: 1e-2}).scheme.name == cheap
    assert best_saving({cheap: 3e-3, strong: 3e-2}).scheme.name == strong
    fast = best_speedup({cheap: 3e-3, strong: 3e-2})
    assert fast.scheme.name == strong
    assert fast.frequency_hz == DelayModel().frequency_at_rate(3e-2)
    assert fast.voltage_v == 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_saving({}), "rates must name at least one scheme"),
        (
            lambda: best_saving({"parity": 1e-3}, {"none": NONE}),
            "rates must name schemes among 'none', not 'parity'",
        ),
        (
            lambda: best_speedup({"residue x1 S16 V0.5": 1e-3}),
            "scheme 'residue x1 S16 V0.5' has check_voltage=0.5, but overclocked checks are at the nominal voltage "
            "like the array; choose a scheme with check_voltage=0",
        ),
        (lambda: Scheme(name="x", energy=-0.1), "Scheme.energy must not be negative, but is -0.1"),
        (lambda: Scheme(name="x", cycles=-0.1), "Scheme.cycles must not be negative, but is -0.1"),
        (lambda: Scheme(name="x", memory=-1.0), "Scheme.memory must not be negative, but is -1.0"),
        (lambda: Scheme(name="x", check_voltage=1.5), "Scheme.check_voltage must be in 0..1, not 1.5"),
    ],
)
def test_what_cannot_be_priced_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
