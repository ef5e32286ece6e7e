"""From error rates back to operating points."""

from __future__ import annotations

import csv
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

import brownout.host.device.power.timing
from brownout.host import DelayModel
from brownout.host.device.power.timing import DELAY_LAWS, SAFE_DELAY, delay_of_error_rate, error_rate_of_delay

TABLE = Path(brownout.host.device.power.timing.__file__).parent / "data" / "drift_voltage_ber.csv"
ROWS = list(csv.DictReader(line for line in TABLE.read_text().splitlines() if not line.startswith("#")))
ERRING = [row for row in ROWS if float(row["error_rate"])]

# arXiv 2604.09073: error rate and clock in GHz at 0.9 V. The table is within 1 % of these, except at 1e-2.
OVERCLOCKED = {1e-6: 2.25, 1e-5: 2.30, 1e-4: 2.53, 3e-4: 2.93, 1e-3: 3.37, 3e-3: 3.57}


@pytest.mark.parametrize("row", ERRING, ids=lambda row: row["voltage_v"])
def test_the_table_is_met_exactly_in_both_directions(row):
    delay_model, rate = DelayModel(), float(row["error_rate"])
    assert delay_model.voltage_at_rate(rate) == float(row["voltage_v"])
    assert delay_model.frequency_at_rate(rate) == pytest.approx(2e9 * float(row["relative_delay"]), rel=1e-15)


@pytest.mark.parametrize("rate", OVERCLOCKED)
def test_published_overclock_points_are_predicted_within_a_hundredth(rate):
    assert DelayModel().frequency_at_rate(rate) == pytest.approx(OVERCLOCKED[rate] * 1e9, rel=0.01)


@pytest.mark.parametrize(
    "delay_model", [DelayModel(delay=delay) for delay in DELAY_LAWS], ids=lambda delay_model: delay_model.delay
)
def test_a_point_has_the_rate_that_was_asked_for(delay_model):
    draw = random.Random(4)
    for _ in range(300):
        rate = 10 ** draw.uniform(-6, -1.4)
        frequency = draw.uniform(1.2e9, 2.2e9)
        voltage = draw.uniform(0.61, 0.9)
        assert delay_model.error_rate(delay_model.voltage_at_rate(rate, 2e9), 2e9) == pytest.approx(rate, rel=1e-9)
        assert delay_model.error_rate(voltage, delay_model.frequency_at_rate(rate, voltage)) == pytest.approx(
            rate, rel=1e-9
        )
        # At the safe delay the rate jumps: rounding must stay below.
        assert delay_model.error_rate(delay_model.voltage_at_rate(0, frequency), frequency) == 0
        assert delay_model.error_rate(voltage, delay_model.frequency_at_rate(0, voltage)) == 0


def test_rates_below_the_jump_ask_for_no_errors_at_all():
    assert delay_of_error_rate(0) == delay_of_error_rate(1e-9) == SAFE_DELAY
    smallest = error_rate_of_delay(SAFE_DELAY + 1e-12)
    assert delay_of_error_rate(smallest) == pytest.approx(SAFE_DELAY, abs=1e-9)
    assert DelayModel().voltage_at_rate(0) == 0.85


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda delay_model: delay_model.voltage_at_rate(0.05),
            "an error rate must be in 0..0.046, where the table ends, not 0.05",
        ),
        (
            lambda delay_model: delay_model.frequency_at_rate(-1e-3),
            "an error rate must be in 0..0.046, where the table ends, not -0.001",
        ),
        (
            lambda delay_model: delay_model.voltage_at_rate(0, 2.3e9),
            "at 2.3e+09 Hz more than 0 of the outputs err even at 0.9 V; lower frequency_hz to at most 2.232e+09",
        ),
        (
            lambda delay_model: delay_model.voltage_at_rate(0, 1e9),
            "a delay of 2.232 times the nominal is beyond the table, which ends at 2.187 (0.6 V); raise frequency_hz "
            "or use DelayModel(delay='alpha-power')",
        ),
        (lambda delay_model: delay_model.voltage_at_rate(0, 0.0), "frequency_hz must be positive, not 0.0"),
    ],
)
def test_what_is_out_of_range_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(DelayModel())


@pytest.mark.parametrize("delay", ["table", "alpha-power", "transistors"])
def test_inverses_know_that_delays_have_changed(delay):
    law = DelayModel(delay=delay, delay_factor=1.04)
    assert law.error_rate(law.voltage_at_rate(1e-2), 2e9) == pytest.approx(1e-2, rel=1e-6)
    assert law.error_rate(0.9, law.frequency_at_rate(1e-2)) == pytest.approx(1e-2, rel=1e-6)


# SPICE of the carry at 25 C: 1.8 V is the nominal voltage, which is 0.9 V here.
SIMULATED = {1.8: 1.0, 1.62: 1.2371, 1.44: 1.6597, 1.26: 2.5602, 1.08: 5.2635, 0.9: 21.988}


@pytest.mark.parametrize("simulated_v", SIMULATED)
def test_transistors_are_as_slow_as_simulated(simulated_v):
    law = DelayModel(delay="transistors")
    assert law.delay_at(simulated_v / 2) == pytest.approx(SIMULATED[simulated_v], rel=1e-6)


def test_between_simulated_voltages_the_logarithm_of_the_delay_is_interpolated():
    # 2.5602 at 0.63 V and 2.9556 at 0.6075 V.
    law = DelayModel(delay="transistors")
    assert law.delay_at(0.61875) == pytest.approx((2.5602 * 2.9556) ** 0.5, rel=1e-6)


def test_transistors_slow_down_with_every_millivolt_and_more_than_the_table_says():
    law, table = DelayModel(delay="transistors"), DelayModel()
    delays = [law.delay_at(millivolts / 1000) for millivolts in range(900, 449, -1)]
    assert all(faster < slower for faster, slower in pairwise(delays))
    assert all(law.delay_at(voltage) > table.delay_at(voltage) for voltage in (0.8, 0.7, 0.6))


def test_transistors_err_at_a_higher_voltage_than_the_table_says():
    # A relative delay of 2.0725: in logarithms 0.255 of the way from 2.0136 (0.675 V) to 2.2547 (0.6525 V).
    assert DelayModel().voltage_at_rate(2.75e-2) == pytest.approx(0.6216, abs=1e-4)
    assert DelayModel(delay="transistors").voltage_at_rate(2.75e-2) == pytest.approx(0.6693, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda law: law.delay_at(0.44),
            "voltage_v must be in 0.45..0.9 V, where the delay is known, not 0.44; "
            "DelayModel(delay='alpha-power') has no such limits",
        ),
        (
            lambda law: law.delay_at(0.91),
            "voltage_v must be in 0.45..0.9 V, where the delay is known, not 0.91; "
            "DelayModel(delay='alpha-power') has no such limits",
        ),
        (
            lambda law: law.voltage_at_rate(0, 1e8),
            "a delay of 22.32 times the nominal is beyond the transistors, which end at 21.99 (0.45 V); "
            "raise frequency_hz or use DelayModel(delay='alpha-power')",
        ),
    ],
)
def test_what_transistors_do_not_reach_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call(DelayModel(delay="transistors"))
