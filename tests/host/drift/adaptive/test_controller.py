"""The controller on a chip that is four lines of arithmetic, with draws of its own."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from brownout.host import DelayModel
from brownout.host.device.power.timing import error_rate_of_delay
from brownout.host.drift.adaptive.controller import RateController, voltage_ladder
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.strategies import RESIDUE_DOUBLE_ERRORS
from brownout.hw.config import AcceleratorConfig

CONFIG = AcceleratorConfig(rows=32, cols=32, timing_model="flip", checksum=RESIDUE_DOUBLE_ERRORS)
LADDER = voltage_ladder(0.62, 0.84)
TARGET = 3e-3


def rate_of(point, factor):
    delay_model = DelayModel(delay_factor=factor)
    voltages = point.voltage_v, point.check_voltage_v
    # Beyond the end of the published table, the rate of its end.
    return tuple(error_rate_of_delay(min(delay_model.relative_delay(each, 2e9), 2.187)) for each in voltages)


def optimum(factor):
    """Lowest voltage at which no more than the target errs."""
    return max(index for index, each in enumerate(LADDER) if rate_of(each, factor)[0] <= TARGET)


def drive(controller, factors, *, checks=100_000, seed=1, products=10):
    """Let the plant run so many evaluations; returns the true rate of each and the candidate that it ran at."""
    generator = np.random.default_rng(seed)
    rates, rungs = [], []
    for factor in factors:
        controller.begin_evaluation()
        rungs.append(LADDER.index(controller.candidate))
        worst = 0.0
        for _ in range(products):
            point = controller.point
            if point is None:
                continue
            rate, check_rate = rate_of(point, factor)
            worst = max(worst, rate)
            share = 1 - (1 - rate) ** 16 * (1 - check_rate) ** 2
            controller.observe(point, 0, {16: checks // products}, int(generator.binomial(checks // products, share)))
        rates.append(worst)
    controller.end_evaluation()
    return rates, rungs


make = partial(RateController, CONFIG, DelayModel(), LADDER, target_rate=TARGET, worst_factor=1.15)


@pytest.mark.parametrize("factor", [0.95, 1.0, 1.08])
def test_finds_the_lowest_voltage_and_stays_there(factor):
    rates, rungs = drive(make(), [factor] * 30)
    assert max(rates) <= TARGET
    assert rungs[0] == optimum(1.15 * 1.005)
    settled = rungs[10:]
    # No limit cycle, and no more than one step of voltage given away.
    assert len(set(settled)) == 1
    assert optimum(factor) - 1 <= settled[0] <= optimum(factor)


def test_follows_a_shift_and_its_recovery():
    factors = [1.0] * 12 + [1.07] * 12 + [1.0] * 16
    controller = make()
    rates, rungs = drive(controller, factors)
    late = [index for index, rate in enumerate(rates) if rate > TARGET]
    assert late == [12]
    assert optimum(1.07) - 1 <= rungs[14] <= optimum(1.07)
    assert rungs[-1] == rungs[11]
    assert controller.records[12].changed
    # Up at once, down in steps of at most three.
    assert min(np.diff(rungs)) < -1
    assert max(np.diff(rungs)) <= 3


def test_slow_ageing_never_gets_far_beyond_the_target():
    rates, _ = drive(make(), np.linspace(1.0, 1.1, 60))
    assert max(rates[5:]) <= 1.15 * TARGET


def test_an_emergency_ends_within_the_evaluation():
    controller = make(recovery=1)
    rates, rungs = drive(controller, [1.0] * 10 + [1.14] * 5)
    records = controller.records
    assert [each.evaluation for each in records if each.emergency] == [10]
    assert rates[10] > controller.hard_limit
    # After the first of ten products all others ran at the safe point, and so did the next evaluation.
    assert records[10].checks == 10_000
    assert records[11].recovering
    assert records[11].checks == rates[11] == 0
    assert not records[12].recovering
    assert max(rates[12:]) <= TARGET
    assert rungs[12] >= optimum(1.14) - 1


def test_few_checks_make_it_careful():
    many = drive(make(), [1.0] * 3)[1][-1]
    few = drive(make(), [1.0] * 3, checks=300)[1][-1]
    assert few < many


def test_where_nothing_errs_it_feels_its_way_down():
    target = 1e-5
    controller = make(target_rate=target)
    # A chip that is 8 % faster than its delay model: at the first candidate nothing errs at all.
    rates, rungs = drive(controller, [0.92] * 40)
    assert controller.records[0].detected == 0
    assert max(rates) <= target
    best = max(index for index, each in enumerate(LADDER) if rate_of(each, 0.92)[0] <= target)
    assert rungs[0] < best - 1
    assert best - 1 <= rungs[-1] <= best


def test_steps_down_wait():
    _, rungs = drive(make(max_steps=1, dwell=3), [0.95] * 12)
    steps = [index for index in range(1, 12) if rungs[index] != rungs[index - 1]]
    assert len(steps) > 2
    assert set(np.diff(steps)) == {3}


def test_it_goes_on_from_its_state_as_if_nothing_had_happened():
    straight, halted = make(), make()
    drive(straight, [1.0] * 6)
    drive(halted, [1.0] * 6)
    resumed = make()
    resumed.load_state(json.loads(json.dumps(halted.state())))
    rest = [1.0] * 2 + [1.14] * 3
    assert drive(straight, rest, seed=2) == drive(resumed, rest, seed=2)
    assert straight.records == resumed.records
    assert straight.state() == resumed.state()


def test_ladder_goes_down_with_the_checks_half_way():
    assert voltage_ladder(0.7, 0.72, step_v=0.01) == [
        OperatingPoint(voltage_v=0.72, check_voltage_v=0.785),
        OperatingPoint(voltage_v=0.71, check_voltage_v=0.78),
        OperatingPoint(voltage_v=0.7, check_voltage_v=0.775),
    ]
    assert [each.voltage_v for each in voltage_ladder(0.845, 0.87, step_v=0.02)] == [0.87, 0.85]
    assert voltage_ladder(0.87, 0.87)[0].check_voltage_v == 0.87


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="target_rate must be positive and not above hard_limit="):
        RateController(CONFIG, DelayModel(), LADDER, 1e-2, hard_limit=1e-3)
    with pytest.raises(ValueError, match="candidates must be of increasing relative delay"):
        RateController(CONFIG, DelayModel(), LADDER[::-1], TARGET)
    with pytest.raises(ValueError, match="candidates must be operating points with voltages"):
        RateController(CONFIG, DelayModel(), [], TARGET)
    with pytest.raises(ValueError, match=r"even the first candidate must err at worst_factor=1.02.*leave it out"):
        RateController(CONFIG, DelayModel(), voltage_ladder(0.7, 0.88), TARGET, worst_factor=1.02)
    with pytest.raises(ValueError, match="max_steps, dwell and patience must be at least 1"):
        make(dwell=0)
    with pytest.raises(ValueError, match="state has candidate 99, but there are 23"):
        make().load_state({**make().state(), "rung": 99})
    with pytest.raises(ValueError, match="lowest_v must not be above highest_v"):
        voltage_ladder(0.8, 0.7)
