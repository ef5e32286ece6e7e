"""Runs by a strategy that are broken off and resumed."""

from __future__ import annotations

import json

import pytest
import torch

from brownout.host import Accelerator, CheckpointError, OffloadedPipeline, offloaded_model
from brownout.host.caching import TaylorCache
from brownout.host.checkpoints import journal
from brownout.host.drift.adaptive.controller import RateController, voltage_ladder
from brownout.host.drift.adaptive.policy import AdaptivePolicy
from brownout.host.drift.operating_point import OperatingPoint, only_bits
from brownout.host.drift.power_policy import SelectivePolicy, TablePolicy, constant, describe_policy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import (
    Dmr,
    PredictedRollback,
    PublishedDrift,
    RangeRestriction,
    RecomputeAbft,
    Rollback,
)
from brownout.host.models.evaluate import calibration_run
from brownout.host.pipelines.shipped import ShippedPipeline
from brownout.hw.config import AcceleratorConfig

from .denoiser import CONFIG, RESIDUE, inputs, offloaded

STEPS = 5
LOW = OperatingPoint(error_rate=0.05, check_rate=0.02)
SAFE = OperatingPoint(error_rate=0.0)


class BrokenOffError(Exception):
    pass


def run(make, folder, *, stop=None, seed=1, low=LOW):
    """Outputs and statistics of a run; broken off before an evaluation."""
    strategy = make()
    with Accelerator(strategy.hardware(CONFIG), backend="twin") as accelerator:
        net = offloaded(accelerator, STEPS)
        policy = SelectivePolicy(low=low, safe=SAFE, first=1)
        with protect(net, strategy, policy, safe=SAFE, seed=seed) as execution, journal(net, folder):
            outputs = []
            for index, x in enumerate(inputs(STEPS)):
                if index == stop:
                    raise BrokenOffError
                outputs.append(net(x, 1000 - index))
        counts = (execution.evaluation, execution.clean, execution.recomputed_rows)
        return outputs, dict(accelerator.stats), counts


STRATEGIES = {
    "rollback": lambda: Rollback(RESIDUE),
    "predicted": lambda: PredictedRollback(RESIDUE),
    "drift": lambda: PublishedDrift(theta=0, interval=2, tile=4),
    "recompute": lambda: RecomputeAbft(tile=4),
    "dmr": Dmr,
    "range": RangeRestriction,
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_gives_the_same_bits_and_figures(name, stop, tmp_path):
    whole = run(STRATEGIES[name], tmp_path / "whole")
    with pytest.raises(BrokenOffError):
        run(STRATEGIES[name], tmp_path / "broken", stop=stop)
    resumed = run(STRATEGIES[name], tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(whole[0], resumed[0], strict=True))
    assert whole[1] == pytest.approx(resumed[1], rel=1e-12)
    assert whole[2] == resumed[2]


def test_a_controller_knows_what_it_knew(tmp_path):
    def draw(folder, stop=None):
        config = Rollback(RESIDUE).hardware(CONFIG)
        with Accelerator(config, backend="twin") as accelerator:
            net = offloaded(accelerator, STEPS)
            controller = RateController(config, accelerator.delay_model, voltage_ladder(0.6, 0.82), 1e-2)
            policy = AdaptivePolicy(SelectivePolicy(low=OperatingPoint(voltage_v=0.7), first=1), controller)
            with protect(net, Rollback(RESIDUE), policy, seed=3), journal(net, folder):
                outputs = []
                for index, x in enumerate(inputs(STEPS)):
                    if index == stop:
                        raise BrokenOffError
                    outputs.append(net(x, 1000 - index))
            return outputs, dict(accelerator.stats), controller.candidate

    whole = draw(tmp_path / "whole")
    with pytest.raises(BrokenOffError):
        draw(tmp_path / "broken", stop=3)
    resumed = draw(tmp_path / "broken")
    assert all(torch.equal(a, b) for a, b in zip(whole[0], resumed[0], strict=True))
    assert whole[1] == pytest.approx(resumed[1], rel=1e-12)
    assert whole[2] == resumed[2]


def test_a_cached_run_under_errors_goes_on(tmp_path):
    pipeline = ShippedPipeline("digits")
    calibration = calibration_run(pipeline.spec)
    strategy = Rollback()
    low = SelectivePolicy(low=OperatingPoint(voltage_v=0.66, check_voltage_v=0.72), first=1)

    def draw(folder, stop=None):
        steps = []

        def count(step, _timestep, _latents):
            steps.append(step)
            if step == stop:
                raise BrokenOffError

        config = strategy.hardware(AcceleratorConfig(timing_model="flip"))
        with Accelerator(config, backend="twin") as accelerator:
            with OffloadedPipeline.from_pipe(ShippedPipeline("digits"), accelerator, calibration=calibration) as pipe:
                cache = TaylorCache(interval=2, order=1, damping=0.5)
                with cache.attach(pipe.denoiser), protect(pipe.denoiser, strategy, low, seed=3):
                    images = pipe([4, 9], seed=1, callback=count, checkpoint=folder)
                    ages = dict(offloaded_model(pipe.denoiser).history.ages)
                    return images, pipe.stats, ages

    whole = draw(tmp_path / "whole")
    # The cache is where it was: the sixth evaluation is predicted from the fifth.
    with pytest.raises(BrokenOffError):
        draw(tmp_path / "broken", stop=4)
    resumed = draw(tmp_path / "broken")
    assert torch.equal(whole[0], resumed[0])
    assert whole[1] == pytest.approx(resumed[1], rel=1e-12)
    # Blocks that a cache skips go back two evaluations.
    assert whole[2] == resumed[2]
    assert whole[2][2] > 0


def test_policies_are_told_apart_whatever_the_order_of_their_sets():
    low, other = OperatingPoint(voltage_v=0.7), OperatingPoint(voltage_v=0.71)
    assert describe_policy(constant(low)) != describe_policy(constant(other))
    names = [f"transformer_blocks.{index}" for index in range(40)]
    one, two = (SelectivePolicy(low=low, blocks=set(each)) for each in (names, names[::-1]))
    # Of sets that are equal but were filled in another order.
    assert describe_policy(one) == describe_policy(two) != describe_policy(SelectivePolicy(low=low, blocks=names[:3]))
    table, more = TablePolicy({(3, "b"): low}), TablePolicy({(3, "b"): other})
    assert describe_policy(table) != describe_policy(more)
    assert json.loads(json.dumps(describe_policy(one))) == describe_policy(one)
    weighted = SelectivePolicy(low=OperatingPoint(error_rate=0.1, bit_weights=only_bits([3])))
    assert json.loads(json.dumps(describe_policy(weighted))) == describe_policy(weighted)


def test_policies_keep_their_names_in_checkpoints():
    low = OperatingPoint(voltage_v=0.7)
    described = [
        describe_policy(each) for each in (constant(low), SelectivePolicy(low=low), TablePolicy({(3, "b"): low}))
    ]
    assert [each["kind"] for each in described] == ["Constant", "Phases", "Table"]
    assert [next(iter(each["parameters"])) for each in described] == ["setting", "low", "settings"]


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"low": OperatingPoint(error_rate=0.06)}, {"make": lambda: Rollback(RESIDUE, theta=3)}],
    ids=["seed", "policy", "strategy"],
)
def test_a_run_under_other_conditions_is_refused(other, tmp_path):
    with pytest.raises(BrokenOffError):
        run(STRATEGIES["rollback"], tmp_path, stop=3)
    arguments = {"make": STRATEGIES["rollback"], **other}
    with pytest.raises(CheckpointError):
        run(arguments.pop("make"), tmp_path, **arguments)
