"""What is priced from shapes is what a model takes that runs with real errors."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from brownout.host import Accelerator, DelayModel, EnergyModel, calibrate, offload
from brownout.host.device.power.energy import PARTS
from brownout.host.device.power.regulators import IDEAL
from brownout.host.drift.accounting.executed import ImageCost, nominal_image, protected_image
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.power_policy import constant, published, whole
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import (
    Dmr,
    Drop,
    GuardBand,
    PredictedRollback,
    PublishedDrift,
    RangeRestriction,
    RecomputeAbft,
    Rollback,
    Strategy,
)
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from ... import tiny_denoisers

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24))
PAIRS = ChecksumConfig(scheme="residue", segment_cols=16, column_checks=False, pairs=True)
RATE, STEPS = 2e-2, 12
VOLTAGE_V = DelayModel().voltage_at_rate(RATE)
LOW = OperatingPoint(voltage_v=VOLTAGE_V, check_voltage_v=VOLTAGE_V + (0.85 - VOLTAGE_V) / 4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return tiny_denoisers.pixart().eval().requires_grad_(False)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 7, 12, generator=generator),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        "timestep": torch.tensor([40, 40]),
    }


@pytest.fixture(scope="module")
def workload(model):
    return trace_workload(model, lambda each: each(**inputs()))


@pytest.fixture(scope="module")
def calibration(model):
    return calibrate(model, lambda each: each(**inputs()), measure_error=False)


def executed(model, calibration, strategy, policy, seed):
    """Cost of an image on the twin, with the errors of a seed."""
    net = copy.deepcopy(model)
    config = strategy.hardware(replace(CONFIG, timing_model="flip"))
    found = []
    with Accelerator(config, backend="twin") as accelerator:
        offload(net, accelerator, calibration=calibration)
        net(**inputs())
        with protect(net, strategy, policy, seed=seed, transition_s=10e-6):
            accelerator.reset_stats()
            for step in range(STEPS):
                net(**inputs(step))
                found.append(dict(accelerator.stats))
                accelerator.reset_stats()
    return ImageCost.of(found)


CASES = {
    "layers low": (lambda: Rollback(PAIRS, attempts=0), whole(LOW)),
    "everything low": (lambda: Rollback(PAIRS, attempts=0), whole(LOW, attention=LOW, modulation=LOW)),
    "attention repeated": (lambda: Rollback(PAIRS), whole(LOW, attention=LOW)),
    "drift": (PublishedDrift, published(OperatingPoint(voltage_v=DelayModel().voltage_at_rate(3e-3)))),
    "guard band": (GuardBand, constant(NOMINAL)),
}


@pytest.mark.parametrize("case", CASES)
def test_priced_is_executed(case, model, workload, calibration):
    make, policy = CASES[case]
    priced = protected_image(CONFIG, workload, make(), policy, steps=STEPS)
    runs = [executed(model, calibration, make(), policy, seed) for seed in range(3)]
    for name in ("macs", "interface_bytes", "host_bytes"):
        if case != "attention repeated":
            assert {getattr(run, name) for run in runs} == {getattr(priced, name)}, name
    mean = {part: sum(run.parts_j[part] for run in runs) / len(runs) for part in PARTS}
    total = sum(mean.values())
    for part in PARTS:
        assert priced.parts_j[part] == pytest.approx(mean[part], abs=0.005 * total), part
    assert priced.energy_j == pytest.approx(total, rel=0.01)
    assert priced.time_s == pytest.approx(sum(run.time_s for run in runs) / len(runs), rel=0.01)


def low_at(rate):
    return OperatingPoint(voltage_v=DelayModel().voltage_at_rate(rate), check_voltage_v=0.85)


BY_VALUES = {
    "drop": (Drop, whole(low_at(1e-2), attention=low_at(1e-2))),
    "twice": (Dmr, whole(low_at(1e-2))),
    "twice, attention too": (Dmr, whole(low_at(1e-2), attention=low_at(1e-2))),
    "range, kept": (RangeRestriction, whole(low_at(1e-2), attention=low_at(1e-2))),
    "range, zero": (lambda: RangeRestriction("zero"), whole(low_at(1e-2))),
    "recompute": (lambda: RecomputeAbft(1.0, count=4, noticed=0.25), whole(low_at(5e-3))),
    "predicted": (lambda: PredictedRollback(PAIRS, attempts=0), whole(low_at(2e-3))),
}
"""Of strategies that look at values, and of those whose errors cost something all the same."""


@pytest.mark.parametrize("case", BY_VALUES)
def test_what_depends_on_values_is_priced_as_it_was_measured(case, model, workload, calibration):
    make, policy = BY_VALUES[case]
    runs, measured = [], []
    for seed in range(3):
        strategy = make()
        runs.append(executed(model, calibration, strategy, policy, seed))
        measured.append(strategy.measured())
    mean_measured = {name: sum(each[name] for each in measured) / len(measured) for name in measured[0]}
    priced = protected_image(CONFIG, workload, make(), policy, steps=STEPS, measured=mean_measured)
    mean = {part: sum(run.parts_j[part] for run in runs) / len(runs) for part in PARTS}
    total = sum(mean.values())
    for part in PARTS:
        assert priced.parts_j[part] == pytest.approx(mean[part], abs=0.005 * total), part
    assert priced.energy_j == pytest.approx(total, rel=0.01)
    assert priced.time_s == pytest.approx(sum(run.time_s for run in runs) / len(runs), rel=0.01)
    assert priced.host_bytes == pytest.approx(sum(run.host_bytes for run in runs) / len(runs), rel=0.02)


@pytest.mark.parametrize(
    ("make", "name"),
    [(RangeRestriction, "replaced.layer"), (RecomputeAbft, r"deviation\..*")],
)
def test_what_was_not_measured_is_asked_for(make, name, workload):
    reason = rf"^strategy .* decides by values of sums, which a workload has not; give measured= with '{name}', as "
    with pytest.raises(ValueError, match=reason):
        protected_image(CONFIG, workload, make(), whole(LOW), steps=2)


def test_repeating_attention_is_priced(workload):
    zeroed, repeated = (
        protected_image(CONFIG, workload, Rollback(PAIRS, attempts=attempts), whole(LOW, attention=LOW), steps=4)
        for attempts in (0, 2)
    )
    assert repeated.macs > zeroed.macs
    assert repeated.interface_bytes > zeroed.interface_bytes


def test_later_evaluations_cost_as_the_last_that_is_run(workload):
    arguments = (CONFIG, workload, Rollback(PAIRS, attempts=0), whole(LOW))
    run, settled = (protected_image(*arguments, steps=STEPS, settled=some) for some in (None, 4))
    assert settled.macs == run.macs
    assert settled.energy_j == pytest.approx(run.energy_j, rel=5e-3)


def test_checkpoints_come_again_in_later_evaluations(workload):
    strategy, policy = PublishedDrift(interval=4), published(LOW)
    run, settled = (
        protected_image(CONFIG, workload, strategy, policy, steps=15, **options)
        for options in ({}, {"settled": 7, "period": 4})
    )
    assert settled.macs == run.macs
    assert settled.counters["commands"] == pytest.approx(run.counters["commands"], rel=1e-2)
    assert settled.energy_j == pytest.approx(run.energy_j, rel=5e-3)


@pytest.mark.parametrize("options", [{"period": 0}, {"settled": 3, "period": 4}])
def test_a_period_that_does_not_fit_is_refused(workload, options):
    with pytest.raises(ValueError, match=r"period must be in 1\.\."):
        protected_image(CONFIG, workload, PublishedDrift(), published(LOW), steps=8, **options)


def test_what_a_converter_loses_is_paid(workload):
    ideal = nominal_image(CONFIG, workload, steps=2, energy_model=EnergyModel(regulator=IDEAL))
    real = nominal_image(CONFIG, workload, steps=2)
    assert real.parts_j["mac"] == pytest.approx(ideal.parts_j["mac"] / 0.93)
    assert real.parts_j["dram"] == ideal.parts_j["dram"]
    assert ideal.parts_j["mac"] == pytest.approx(2 * workload.macs * 0.16e-12)


class ByValues(Strategy):
    name, reads_values = "looking", True

    def layer(self, run, call, point):
        raise NotImplementedError

    def attention_product(self, run, call, point, out):
        raise NotImplementedError


def test_a_strategy_that_looks_at_values_is_refused(workload):
    with pytest.raises(ValueError, match="strategy 'looking' decides by values of sums, which a workload has not"):
        protected_image(CONFIG, workload, ByValues(), whole(LOW), steps=2)
