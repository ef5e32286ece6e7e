"""Saving over arithmetic intensity follows the roofline and its energy counterpart."""

from __future__ import annotations

import pytest

from brownout.host import DelayModel, EnergyModel
from brownout.host.device.power.check_prices import check_share
from brownout.host.device.product.operands import GemmShape
from brownout.host.drift.accounting.intensity import RESIDUE_32, saving_over_intensity, square_array

RATE = 1e-2
FEW, MANY = GemmShape(1, 4, 256, 256), GemmShape(1, 512, 256, 512)


@pytest.fixture(scope="module")
def points():
    configs = [square_array(32, bandwidth) for bandwidth in (4, 64)]
    return list(saving_over_intensity((FEW, MANY), configs, RATE))


def test_every_accelerator_gets_every_product(points):
    assert [(point.bytes_per_cycle, point.shape) for point in points] == [
        (4, FEW),
        (4, MANY),
        (64, FEW),
        (64, MANY),
    ]
    assert [point.balance for point in points] == [256, 256, 16, 16]


def test_published_saving_is_a_function_of_intensity_alone(points):
    delay_model, model = DelayModel(), EnergyModel.published()
    most = 1 - (delay_model.voltage_at_rate(RATE) / 0.9) ** 2 * (1 + check_share(RESIDUE_32))
    for point in points:
        compute = point.intensity * model.mac_j
        assert point.published_saving == pytest.approx(most * compute / (compute + model.dram_byte_j), rel=1e-3)
        assert point.saving > 0
        # Rows of memory opened, which come with every address, move a product of little work either way.
        assert point.shape is FEW or point.saving < point.published_saving


def test_memory_bound_products_gain_no_speed(points):
    slow, fast = (next(p for p in points if p.shape is MANY and p.bytes_per_cycle == b) for b in (4, 64))
    assert slow.intensity < slow.balance
    assert fast.intensity > fast.balance
    assert 1 <= slow.speedup < 1.1
    assert fast.speedup == pytest.approx(DelayModel().frequency_at_rate(RATE) / 2e9, rel=0.03)


def test_traffic_does_not_depend_on_the_array():
    few = [next(saving_over_intensity([MANY], [square_array(side, 64)], RATE)).intensity for side in (8, 64)]
    assert few[0] == pytest.approx(few[1], rel=1e-3)
