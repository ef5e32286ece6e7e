"""The published cost model gives the published figures; golden values are those of the paper and of sums by hand."""

from __future__ import annotations

from statistics import mean

import pytest

from brownout.host.device.power.energy import EnergyModel
from brownout.host.drift.accounting.published import (
    CHECK_ENERGY,
    DIT_DRAM_BYTES,
    DIT_MACS,
    PUBLISHED,
    published_saving,
    published_voltage_v,
)

WITHOUT_CHECKS = {"dit": 0.328, "pixart": 0.378, "sd15": 0.340}
WITH_CHECKS = {"dit": 0.299, "pixart": 0.346, "sd15": 0.311}
IMPLIED_VOLTAGE = {"dit": 0.65, "pixart": 0.67, "sd15": 0.69}

# Mean saving with memory kept at 1 and nominal steps checked too, by share of check energy and voltage.
CEILINGS = {
    0.06: {0.676: 0.341, 0.65: 0.379, 0.62: 0.422, 0.60: 0.449},
    0.12: {0.676: 0.309, 0.65: 0.350, 0.62: 0.395, 0.60: 0.424},
    0.25: {0.676: 0.241, 0.65: 0.286, 0.62: 0.336, 0.60: 0.369},
}


@pytest.mark.parametrize(("check", "expected"), [(0.0, WITHOUT_CHECKS), (CHECK_ENERGY, WITH_CHECKS)])
def test_savings_at_the_published_point(check, expected):
    voltage = published_voltage_v()
    assert round(voltage, 3) == 0.676
    found = {name: published_saving(model, voltage, check_energy=check) for name, model in PUBLISHED.items()}
    assert {name: round(value, 3) for name, value in found.items()} == expected
    assert round(mean(found.values()), 3) == {0.0: 0.349, CHECK_ENERGY: 0.319}[check]


def test_the_mean_is_within_a_point_of_the_published_one():
    published = mean(model.saving for model in PUBLISHED.values())
    assert round(published, 3) == 0.353
    found = mean(published_saving(model, published_voltage_v()) for model in PUBLISHED.values())
    assert abs(found - published) < 0.01


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_breakdown_implies_the_published_saving_and_a_voltage(name):
    model = PUBLISHED[name]
    assert 1 - (model.compute_after + model.memory_after) / (model.compute + 1) == pytest.approx(model.saving, abs=5e-4)
    assert round(model.implied_voltage_v, 2) == IMPLIED_VOLTAGE[name]
    # At that voltage the arithmetic gives the breakdown back.
    assert published_saving(model, model.implied_voltage_v) == pytest.approx(model.saving, abs=5e-4)


@pytest.mark.parametrize("check", CEILINGS)
def test_ceilings_with_memory_kept_at_one(check):
    for voltage, expected in CEILINGS[check].items():
        options = {"check_energy": check, "memory_factor": 1.0, "checked_at_nominal": True}
        assert round(mean(published_saving(model, voltage, **options) for model in PUBLISHED.values()), 3) == expected


def test_a_step_by_step_sum_agrees():
    for model in PUBLISHED.values():
        compute = (
            sum(1.0 if step in model.nominal_steps else (0.7 / 0.9) ** 2 * 1.1 for step in range(model.steps))
            / model.steps
        )
        expected = 1 - (model.compute * compute + 1.3) / (model.compute + 1)
        assert published_saving(model, 0.7, check_energy=0.1, memory_factor=1.3) == pytest.approx(expected, abs=1e-12)


def test_the_ratio_of_memory_to_compute_follows_from_the_published_constants():
    model = EnergyModel.published()
    ratio = DIT_MACS * model.mac_j / (DIT_DRAM_BYTES * model.dram_byte_j)
    assert ratio == pytest.approx(PUBLISHED["dit"].compute, abs=0.005)


def test_memory_hides_behind_the_array_at_the_published_intensity():
    # 128 x 128 processing elements at 4 GHz, with 1.2 times the traffic, ask for a quarter of 256 GB/s.
    seconds = DIT_MACS / (128 * 128 * 4e9)
    assert 1.2 * DIT_DRAM_BYTES / seconds < 256e9 / 3
