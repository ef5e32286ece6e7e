"""Delays that change while an accelerator runs, and policies that follow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, DelayModel, Protection, offloaded_model
from brownout.host.device.power.timing import error_rate_of_delay
from brownout.host.drift.adaptive.controller import RateController, voltage_ladder
from brownout.host.drift.adaptive.policy import AdaptivePolicy
from brownout.host.drift.adaptive.rules import best_theta
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy, constant
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import PublishedDrift, Rollback, Unprotected

from ..denoiser import CONFIG, RESIDUE, inputs, offloaded, products

LOW = OperatingPoint(voltage_v=0.65, check_voltage_v=0.75)
LADDER = voltage_ladder(0.6, 0.82)
TARGET = 1e-2


def slower(accelerator, factor):
    accelerator.set_delay_model(replace(accelerator.delay_model, delay_factor=factor))


@pytest.fixture
def accelerator():
    with Accelerator(CONFIG, backend="twin") as each:
        yield each


def test_rates_follow_the_delay_model_where_they_came_from_it(accelerator):
    accelerator.set_operating_point(voltage_v=0.7)
    slower(accelerator, 1.05)
    rates = [point.error_rate for point in accelerator.operating_points]
    assert rates == [pytest.approx(error_rate_of_delay(1.671 * 1.05))] * 2 + [0.0]
    accelerator.set_error_rate(0.25, check_rate=0.5)
    slower(accelerator, 1.1)
    assert [point.error_rate for point in accelerator.operating_points] == [0.25, 0.25, 0.5]
    # Moves go by the present delay model.
    accelerator.set_operating_point(voltage_v=0.8, domain="check")
    assert accelerator.operating_points[2].error_rate == pytest.approx(error_rate_of_delay(1.265 * 1.1))


def test_lengths_follow_the_delay_model():
    config = replace(CONFIG, timing_model="carry")
    generator = torch.Generator().manual_seed(1)
    a, w = (torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator) for shape in ((40, 24), (24, 12)))

    def product(factor, at_once):
        delay_model = DelayModel(variation=0.0)
        with Accelerator(config, backend="twin", delay_model=replace(delay_model, delay_factor=at_once)) as accelerator:
            accelerator.set_operating_point(voltage_v=0.82)
            slower(accelerator, factor)
            return accelerator.gemm(a, w), accelerator.stats

    shifted, stats = product(1.06, at_once=1.0)
    direct, expected = product(1.06, at_once=1.06)
    assert torch.equal(shifted, direct)
    assert stats["injected"] == expected["injected"] > 0
    assert not torch.equal(shifted, product(1.0, at_once=1.0)[0])
    # And back, to where nothing errs.
    assert torch.equal(product(0.9, at_once=1.06)[0], a.int() @ w.int())


def test_it_costs_nothing(accelerator):
    accelerator.set_operating_point(voltage_v=0.7)
    before = dict(accelerator.stats)
    slower(accelerator, 1.05)
    assert dict(accelerator.stats) == before
    a, w = torch.ones(8, 8, dtype=torch.int8), torch.ones(8, 8, dtype=torch.int8)
    accelerator.gemm(a, w)
    assert accelerator.stats["time_s"] > before["time_s"]


def test_what_the_delay_model_does_not_cover_changes_nothing(accelerator):
    accelerator.set_operating_point(voltage_v=0.65)
    delay_model, points = accelerator.delay_model, accelerator.operating_points
    with pytest.raises(ValueError, match=r"a relative delay of 2.308 is beyond the table"):
        slower(accelerator, 1.2)
    assert accelerator.delay_model is delay_model
    assert accelerator.operating_points == points
    with pytest.raises(ValueError, match=r"DelayModel.delay_factor must be positive, not 0"):
        slower(accelerator, 0)
    with Accelerator(backend="twin") as other, pytest.raises(ValueError, match="set_delay_model needs"):
        other.set_delay_model(DelayModel())


def test_safe_settings_are_judged_again(accelerator):
    net = offloaded(accelerator)
    edge = OperatingPoint(voltage_v=0.86)
    with protect(net, Rollback(RESIDUE), constant(edge)) as run:
        assert run.is_safe(edge)
        products(net, inputs(2), offloaded_model(net))
        assert accelerator.stats["checks"] == 0
        slower(accelerator, 1.05)
        assert not run.is_safe(edge)
        products(net, inputs(2), offloaded_model(net))
        assert accelerator.stats["checks"] > 0


def adaptive(**options):
    controller = RateController(CONFIG, DelayModel(), LADDER, TARGET, worst_factor=1.1)
    return AdaptivePolicy(SelectivePolicy(low=LOW, first=1), controller, **options)


def run(policy, accelerator, net, steps=6, shift_at=None, strategy=None):
    """Sums of all products of a run in which delays grow by 8 %."""
    seen = {}
    strategy = Rollback(RESIDUE) if strategy is None else strategy
    with protect(net, strategy, policy, seed=2):
        observe = offloaded_model(net)
        observe.observer = lambda name, sums: seen.setdefault(name, []).append(sums.clone())
        for index, x in enumerate(inputs(steps)):
            if index == shift_at:
                slower(accelerator, 1.08)
            net(x, 1000 - index)
        observe.observer = None
    return seen


@pytest.mark.rtl
@pytest.mark.parametrize("model", ["flip", "carry"])
def test_rtl_and_twin_shift_alike(model):
    """With CONFIG's elaboration, and that of test_protection_rtl."""
    generator = torch.Generator().manual_seed(1)
    a, w = (torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator) for shape in ((20, 24), (24, 12)))
    results = []
    for backend in ("twin", "rtl"):
        found = []
        delay_model = DelayModel(variation=0.01)
        with Accelerator(replace(CONFIG, timing_model=model), backend=backend, delay_model=delay_model) as accelerator:
            accelerator.set_operating_point(voltage_v=0.7 if model == "flip" else 0.81)
            for factor in (1.0, 1.2, 0.98):
                slower(accelerator, factor)
                found.append(accelerator.gemm(a, w, protection=Protection()))
            results.append((found, accelerator.stats))
    (twin, twin_stats), (rtl, rtl_stats) = results
    assert all(torch.equal(x, y) for x, y in zip(twin, rtl, strict=True))
    assert twin_stats == {name: rtl_stats[name] for name in twin_stats}
    assert twin_stats["detected"] > 0


@pytest.mark.rtl
def test_rtl_and_twin_adapt_alike():
    results = []
    for backend in ("twin", "rtl"):
        with Accelerator(CONFIG, backend=backend) as accelerator:
            policy = adaptive()
            seen = run(policy, accelerator, offloaded(accelerator, 4), steps=4, shift_at=2)
            results.append((seen, dict(accelerator.stats), policy.controller.records))
    (twin, twin_stats, twin_records), (rtl, rtl_stats, rtl_records) = results
    assert all(torch.equal(a, b) for name in twin for a, b in zip(twin[name], rtl[name], strict=True))
    assert twin_stats == pytest.approx(rtl_stats)
    assert twin_records == rtl_records
    assert twin_stats["injected"] > 0


def test_low_products_run_at_the_controllers_setting_and_all_others_as_before(accelerator):
    policy, seen = adaptive(), []
    net = offloaded(accelerator)
    with protect(net, Rollback(RESIDUE), policy):
        observe = offloaded_model(net)
        observe.observer = lambda name, sums: seen.append(accelerator.operating_points[0].voltage_v)
        for x in inputs(3):
            net(x, 0)
    assert set(seen[:8]) == {0.9}
    records = policy.controller.records
    assert set(seen[8:16]) == {records[1].voltage_v}
    assert records[1].voltage_v < 0.8


def test_candidates_may_be_clocks(accelerator):
    clocks = [OperatingPoint(frequency_hz=clock * 1e6, check_voltage_v=0.9) for clock in range(2400, 4200, 200)]
    controller = RateController(CONFIG, DelayModel(), clocks, TARGET, worst_factor=1.1)
    policy = AdaptivePolicy(SelectivePolicy(low=LOW, first=1), controller)
    net, seen = offloaded(accelerator), []
    with protect(net, Rollback(RESIDUE), policy, seed=2):
        observe = offloaded_model(net)
        observe.observer = lambda name, sums: seen.append(accelerator.operating_points[2].frequency_hz)
        for x in inputs(4):
            net(x, 0)
    chosen = [record.frequency_hz for record in controller.records]
    assert seen[8:] == [clock for clock in chosen[1:] for _ in range(8)]
    # 1e-2 is at a delay of 1.915, over 1.1 and the margin.
    assert chosen[0] == 3.4e9
    assert max(error_rate_of_delay(clock / 2e9) for clock in chosen) <= TARGET
    assert controller.records[-1].factor_high < 1.2


def test_counts_are_those_of_the_checks(accelerator):
    policy = adaptive()
    run(policy, accelerator, offloaded(accelerator))
    records = policy.controller.records
    assert len(records) == 6
    assert records[0].checks == 0
    assert sum(each.checks for each in records) == accelerator.stats["checks"]
    assert sum(each.detected for each in records) == accelerator.stats["detected"] > 0


def test_it_goes_on_from_its_state_in_mid_run(accelerator):
    net = offloaded(accelerator)

    def voltages(policy, saved=None):
        with protect(net, Rollback(RESIDUE), policy, seed=2):
            for index, x in enumerate(inputs(6)):
                if saved is not None and index == 3:
                    saved.append(json.loads(json.dumps(policy.state())))
                net(x, 0)
        return policy.controller.records

    saved, straight = [], adaptive()
    records = voltages(adaptive(), saved)
    assert voltages(straight) == records
    resumed = adaptive()
    resumed.load_state(saved[0])
    assert resumed.controller.records == records[:3]
    assert resumed.controller.candidate.voltage_v == records[3].voltage_v


def test_theta_follows_the_rate(accelerator):
    strategy = Rollback(RESIDUE)
    policy = adaptive(staleness=100.0)
    run(policy, accelerator, offloaded(accelerator), strategy=strategy)
    records = policy.controller.records
    assert policy.thetas
    assert len(policy.thetas) == sum(each.rate is not None for each in records[:-1])
    assert strategy.theta == policy.thetas[-1]
    assert best_theta(TARGET / 30, 100.0, RESIDUE) <= strategy.theta <= best_theta(TARGET * 3, 100.0, RESIDUE)


def test_checkpoints_follow_what_is_rolled_back():
    strategy = PublishedDrift(theta=0, interval=4, tile=4)
    config = strategy.hardware(CONFIG)
    intervals = {}
    for design_share in (1e-4, 0.9):
        controller = RateController(config, DelayModel(), LADDER, 3 * TARGET, worst_factor=1.1)
        policy = AdaptivePolicy(SelectivePolicy(low=LOW, first=1), controller, design_share=design_share)
        with Accelerator(config, backend="twin") as accelerator:
            strategy = PublishedDrift(theta=0, interval=4, tile=4)
            run(policy, accelerator, offloaded(accelerator), strategy=strategy)
        intervals[design_share] = policy.intervals
    assert intervals[1e-4][0] == intervals[0.9][0] == 4
    assert intervals[1e-4][-1] == 1
    assert intervals[0.9][-1] > 4
    assert np.all(np.array(intervals[0.9]) >= 4)


def test_what_cannot_follow_is_refused(accelerator):
    net = offloaded(accelerator)

    def begin(policy, strategy, **options):
        with protect(net, strategy, policy, **options):
            pass

    with pytest.raises(ValueError, match="strategy 'rollback' has no interval that could follow"):
        begin(adaptive(design_share=0.1), Rollback(RESIDUE))
    with pytest.raises(ValueError, match="strategy 'unprotected' has no theta that could follow"):
        begin(adaptive(staleness=1.0), Unprotected())
    with pytest.raises(
        ValueError, match=r"errs where delays are worst_factor=1.1 times those of the delay model; choose a safer one"
    ):
        begin(adaptive(), Rollback(RESIDUE), safe=OperatingPoint(voltage_v=0.86))
    other = RateController(replace(CONFIG, cols=8), DelayModel(), LADDER, TARGET)
    with pytest.raises(ValueError, match="the controller is for another AcceleratorConfig"):
        begin(AdaptivePolicy(constant(NOMINAL), other), Rollback(RESIDUE))
