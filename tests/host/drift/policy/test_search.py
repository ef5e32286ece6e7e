"""Policies that are searched: what they cost, that they keep the budget, and the published ones."""

from __future__ import annotations

import pytest

from brownout.host import Accelerator, offloaded_model
from brownout.host.drift.characterisation.characterise import characterise, image_metrics
from brownout.host.drift.characterisation.slices import Slice, bit_slices, block_slices, cross, evaluation_slices
from brownout.host.drift.characterisation.stopping import Stopping
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint, only_bits
from brownout.host.drift.policy.presets import PRESETS, get_preset
from brownout.host.drift.policy.search import (
    FoundPolicy,
    make_problem,
    overclock_points,
    search_parameters,
    search_policy,
    undervolt_points,
)
from brownout.host.drift.policy.stage_costs import measure_moves, measure_stages
from brownout.host.drift.power_policy import TablePolicy, constant
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import PublishedDrift, Rollback, Unprotected
from brownout.host.workload.product_site import BLOCK_LINEAR_KINDS, ProductSite

from ..denoiser import CONFIG, RESIDUE, draw, offloaded

STOPPING = Stopping(images=8, batch=4, relative=0.5, absolute=1e-4)
POINTS = [OperatingPoint(voltage_v=0.8, check_voltage_v=0.85), OperatingPoint(voltage_v=0.6, check_voltage_v=0.75)]
LINEAR = Slice(name="", kinds=("other",))


@pytest.fixture(scope="module")
def net():
    with Accelerator(CONFIG, backend="twin") as accelerator:
        yield offloaded(accelerator)


@pytest.fixture(scope="module")
def profile(net):
    slices = cross(evaluation_slices([[1, 2]], LINEAR), block_slices([["blocks.0"], ["blocks.1"]]))
    return characterise(
        net, draw(net), slices, POINTS, metrics=image_metrics(), strategy=Rollback(RESIDUE), stopping=STOPPING
    )


def search(net, profile, budget, **options):
    options = {"strategy": Rollback(RESIDUE), "metrics": image_metrics(), "stopping": STOPPING, **options}
    return search_policy(net, draw(net), profile, budget, **options)


def test_costs_add_up_to_those_of_the_whole_run(net):
    """Every product's own cost at its point, and every move, against one run by that table."""
    accelerator, strategy = offloaded_model(net).accelerator, Unprotected()
    # The guard band: so that nothing differs but what is counted.
    points = [NOMINAL, OperatingPoint(voltage_v=0.86), OperatingPoint(voltage_v=0.87, frequency_hz=1.9e9)]
    stages = measure_stages(net, draw(net), points, strategy=strategy, kinds=["other"], count=2)
    assert [stage.key for stage in stages] == [(e, f"blocks.{b}") for e in range(3) for b in range(2)]
    assert all(stage.governed == [True, False, True] for stage in stages)
    moves = measure_moves(accelerator, points)
    choice = [0, 2, 1, 1, 2, 0]
    table = TablePolicy(
        {stage.key: points[point] for stage, point in zip(stages, choice, strict=True)}, kinds=["other"]
    )
    before = dict(accelerator.stats)
    with protect(net, strategy, table):
        draw(net)(0, 2)
    after = accelerator.stats
    import numpy as np

    for objective, counter in (("energy", "energy_j"), ("time", "time_s")):
        problem = make_problem(stages, {name: each / 2 for name, each in moves.items()}, np.zeros((6, 3)), objective)
        predicted = problem.total_cost(np.array(choice))
        assert predicted == pytest.approx((after[counter] - before[counter]) / 2, rel=0.02)
        without = sum(stage.costs[objective][point] for stage, point in zip(stages, choice, strict=True))
        assert predicted > 1.1 * without


def test_products_without_a_history_stay_at_the_default(net):
    stages = measure_stages(net, draw(net), [NOMINAL, *POINTS], strategy=Rollback(RESIDUE), kinds=["other"])
    assert [stage.allowed.tolist() for stage in stages] == [[True, False, False]] * 2 + [[True] * 3] * 4
    with pytest.raises(ValueError, match="points need voltages and clocks"):
        measure_stages(net, draw(net), [OperatingPoint(error_rate=0.1)], strategy=Unprotected())


@pytest.mark.parametrize("budget", [1e-9, 2e-4, 1.0])
def test_found_policies_keep_the_budget(net, profile, budget):
    # Moves cost next to nothing here, or all products of so small a model would stay where they are.
    policy = search(net, profile, budget)
    measured = policy.measured.damage
    assert measured.upper <= budget
    assert policy.measured.energy_j <= policy.nominal.energy_j * 1.5
    assert set(policy.table.points.values()) <= set(POINTS)
    assert all(evaluation > 0 for evaluation, _ in policy.table.points)
    assert FoundPolicy.from_json(policy.to_json()) == policy
    assert TablePolicy.from_json(policy.table.to_json()) == policy.table


def test_searches_that_make_no_sense_are_refused(net, profile):
    with pytest.raises(ValueError, match="budget must be positive, not 0"):
        search(net, profile, 0)
    with pytest.raises(ValueError, match="objective must be one of 'energy', 'time', not 'area'"):
        search(net, profile, 1, objective="area")
    with pytest.raises(ValueError, match="the profile was measured with strategy 'ours', not 'unprotected'"):
        search(net, profile, 1, strategy=Unprotected())
    with pytest.raises(ValueError, match="this is no policy"):
        FoundPolicy.from_json("[]")
    metrics, one = image_metrics(), Stopping(images=2, batch=2)
    overlapping = characterise(
        net, draw(net), evaluation_slices([[1], [1, 2]]), POINTS[:1], metrics=metrics, stopping=one
    )
    with pytest.raises(ValueError, match="slices 'steps1' and 'steps1-2' of the profile overlap in evaluation 1"):
        search(net, overlapping, 1, strategy=Unprotected())
    bits = characterise(
        net, draw(net), bit_slices([3]), [OperatingPoint(error_rate=0.1)], metrics=metrics, stopping=one
    )
    with pytest.raises(ValueError, match="and of all bits"):
        search(net, bits, 1, strategy=Unprotected())


def test_parameters_are_the_cheapest_within_the_budget():
    def build(**chosen):
        return PublishedDrift(tile=4, **chosen)

    def find(budget, **grid):
        run, options = draw(net), {"metrics": image_metrics(), "stopping": Stopping(images=16, batch=8)}
        return search_parameters(net, run, build, grid, constant(POINTS[1]), budget, **options)

    with Accelerator(build().hardware(CONFIG), backend="twin") as accelerator:
        net = offloaded(accelerator)
        trials, best = find(1.0, interval=[1, 2], theta=[0, 40])
        # Fewer checkpoints, and nothing that goes back to them.
        assert best is trials[0]
        assert best.parameters == {"interval": 2, "theta": 40}
        costs = [trial.outcome.energy_j for trial in trials]
        assert costs == sorted(costs)
        damage = {trial.parameters["theta"]: trial.outcome.damage.mean for trial in trials}
        assert damage[40] > 2 * damage[0] > 0

        # What lets errors pass is cheaper, and too bad.
        trials, best = find(0.8 * damage[40], interval=[2], theta=[0, 40])
        assert [trial.parameters["theta"] for trial in trials] == [40, 0]
        assert [trial.within for trial in trials] == [False, True]
        assert best is trials[1]

        trials, best = find(1e-12, interval=[2])
        assert best is None
        assert not trials[0].within
        with pytest.raises(ValueError, match="grid must have at least one value of each parameter"):
            find(1.0)


@pytest.mark.parametrize(
    ("name", "protected", "interval", "steps"),
    [("drift-dit", {0, 1}, 10, 50), ("drift-pixart", {0, 29}, 8, 30), ("drift-sd15", {0, 1}, 10, 50)],
)
def test_presets_are_the_published_policies(name, protected, interval, steps):
    preset = get_preset(name)
    undervolt, overclock = preset.policy("undervolt"), preset.policy("overclock")
    for evaluation in range(steps):
        for kind in ("qkv", "attention.qk"):
            site = ProductSite(evaluation, 0.0, "x", "b.0", kind)
            low = evaluation not in protected and kind in BLOCK_LINEAR_KINDS
            assert undervolt(site).voltage_v == (0.676 if low else 0.9)
            assert overclock(site).frequency_hz == (3.57e9 if low else 2e9)
    strategy = preset.strategy()
    assert isinstance(strategy, PublishedDrift)
    assert (strategy.theta, strategy.interval, preset.steps) == (10, interval, steps)
    with pytest.raises(ValueError, match="mode must be one of 'undervolt', 'overclock', not 'fast'"):
        preset.policy("fast")


def test_unknown_presets_are_refused():
    assert len(PRESETS) == 3
    with pytest.raises(ValueError, match="unknown policy 'x'; choose one of drift-dit, drift-pixart, drift-sd15"):
        get_preset("x")


def test_settings_go_through_json():
    each = [
        NOMINAL,
        *undervolt_points([0.7]),
        *overclock_points([3e9]),
        OperatingPoint(error_rate=1e-3, check_rate=1e-4, bit_weights=only_bits([3])),
    ]
    assert [OperatingPoint.from_dict(one.to_dict()) for one in each] == each
    assert [one.label for one in each] == ["nominal", "0.7 V", "0.9 V 3 GHz", "0.001"]
    assert each[1].check_voltage_v == 0.8
