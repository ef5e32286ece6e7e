"""Operating points by policy, and what happens at the edges of a run."""

from __future__ import annotations

import math

import pytest
import torch

from brownout.host import Accelerator, DelayModel, DomainPoint, EnergyModel, offloaded_model
from brownout.host.drift.operating_point import GUARD_BAND, NOMINAL, OperatingPoint, only_bits
from brownout.host.drift.power_policy import SelectivePolicy, TablePolicy, constant, published
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import GuardBand, PublishedDrift, Rollback, Unprotected
from brownout.hw.config import AcceleratorConfig

from .denoiser import CONFIG, RESIDUE, inputs, offloaded, products


@pytest.fixture
def accelerator():
    with Accelerator(CONFIG, backend="twin", energy_model=EnergyModel(leakage_w=0)) as each:
        yield each


def test_policy_sees_every_product_of_every_evaluation_once(accelerator):
    net, sites = offloaded(accelerator), []

    def policy(site):
        sites.append(site)
        return NOMINAL

    with protect(net, Unprotected(), policy):
        products(net, inputs(2), offloaded_model(net))
    assert [site.evaluation for site in sites] == [0] * 8 + [1] * 8
    assert {site.timestep for site in sites[8:]} == {999.0}
    assert [site.product for site in sites[:4]] == ["blocks.0.to_q", "blocks.0.qk", "blocks.0.pv", "blocks.0.ff"]
    assert {site.block for site in sites} == {"blocks.0", "blocks.1"}


def test_points_are_as_planned_and_nominal_afterwards(accelerator):
    net, seen = offloaded(accelerator), []
    low = OperatingPoint(voltage_v=0.7, check_voltage_v=0.8)
    policy = SelectivePolicy(low=low, first=1, blocks=["blocks.1"])
    with protect(net, Unprotected(), policy, seed=3) as run:
        offloaded_model(net).observer = lambda name, sums: seen.append((name, accelerator.operating_points))
        for x in inputs(2):
            net(x, 0)
        assert run.moves == 3
    assert all(point.voltage_v == 0.9 for _, points in seen[:8] for point in points)
    for name, points in seen[8:]:
        voltages = [point.voltage_v for point in points]
        assert voltages == ([0.7, 0.7, 0.8] if name.startswith("blocks.0") else [0.9] * 3)
    assert seen[8][1][0].error_rate == pytest.approx(8.5e-4)
    assert accelerator.operating_points == (DomainPoint(),) * 3


def test_energy_of_macs_is_that_of_the_voltages(accelerator):
    net = offloaded(accelerator)
    totals = []
    for low in (NOMINAL, OperatingPoint(voltage_v=0.8)):
        accelerator.reset_stats()
        with protect(net, Unprotected(), SelectivePolicy(low=low, first=1)):
            products(net, inputs(4), offloaded_model(net))
        totals.append(accelerator.stats["energy_mac_j"])
    # A converter of 0.93 at 0.9 V, 0.90 at 0.62 V.
    low_j = (0.8 / 0.9) ** 2 * 0.93 / (0.93 - 0.03 * 0.1 / 0.28)
    assert totals[1] / totals[0] == pytest.approx((1 + 3 * low_j) / 4, rel=1e-12)


def test_guard_band_ignores_the_policy_and_never_errs(accelerator):
    net = offloaded(accelerator)
    clean = [net(x, 0) for x in inputs(3)]
    with protect(net, GuardBand(), constant(OperatingPoint(voltage_v=0.6))):
        assert all(torch.equal(net(x, 0), each) for x, each in zip(inputs(3), clean, strict=True))
        assert accelerator.operating_points[0].voltage_v == GUARD_BAND.voltage_v
    assert accelerator.stats["injected"] == 0


def test_without_a_history_a_product_is_clean(accelerator):
    net = offloaded(accelerator)
    clean = [net(x, 0) for x in inputs(2)]
    low = SelectivePolicy(
        low=OperatingPoint(error_rate=0.3, check_rate=0.3), safe=OperatingPoint(error_rate=0.0), kinds=["qkv", "other"]
    )
    with protect(net, Rollback(RESIDUE), low, safe=OperatingPoint(error_rate=0.0)) as run:
        assert torch.equal(net(inputs(2)[0], 0), clean[0])
        assert run.clean == 4
        assert not torch.equal(net(inputs(2)[1], 0), clean[1])
        # A batch of another size has nothing to go back to.
        net(inputs(2)[1][:1], 0)
        assert run.clean == 8
        assert offloaded_model(net).history.ages == {1: 4}
    assert accelerator.stats["suppressed_unwritten"] == 0


def test_runs_begin_anew(accelerator):
    net = offloaded(accelerator)
    low = constant(OperatingPoint(error_rate=0.1, check_rate=0.1))
    with protect(net, Rollback(RESIDUE), low, safe=OperatingPoint(error_rate=0.0), seed=8) as run:
        first = [net(x, 0) for x in inputs(3)]
        offloaded_model(net).begin_run()
        assert run.evaluation == -1
        assert all(torch.equal(net(x, 0), each) for x, each in zip(inputs(3), first, strict=True))


def test_safety_is_that_of_the_delay_model():
    delay_model = DelayModel(variation=0.03)
    flip = AcceleratorConfig(timing_model="flip")
    carry = AcceleratorConfig(timing_model="carry", rows=32, cols=32)
    with (
        Accelerator(flip, backend="twin", delay_model=delay_model) as flips,
        Accelerator(carry, backend="twin", delay_model=delay_model) as carries,
    ):
        assert GUARD_BAND.is_safe(flips)
        assert not OperatingPoint(voltage_v=0.84).is_safe(flips)
        assert not OperatingPoint(frequency_hz=2.25e9).is_safe(flips)
        assert OperatingPoint(error_rate=0.0).is_safe(flips)
        assert NOMINAL.is_safe(carries)
        # Slow elements use up the guard band.
        assert not GUARD_BAND.is_safe(carries)


def test_what_cannot_work_is_refused(accelerator):
    net = offloaded(accelerator)
    with pytest.raises(ValueError, match="safe must be an operating point without timing errors"):
        with protect(net, Unprotected(), constant(NOMINAL), safe=OperatingPoint(voltage_v=0.7)):
            pass
    with pytest.raises(ValueError, match=r"strategy 'drift' needs checksum=.*make it with strategy.hardware"):
        with protect(net, PublishedDrift(), constant(NOMINAL)):
            pass
    with pytest.raises(ValueError, match="error_rate stands alone"):
        OperatingPoint(voltage_v=0.8, error_rate=0.1)
    with pytest.raises(ValueError, match="check_rate and bit_weights need error_rate"):
        OperatingPoint(check_rate=0.1)
    with pytest.raises(ValueError, match=r"bits must be some of 0..30, not \[31\]"):
        only_bits([31])


def test_published_policy_touches_block_linears_only():
    low = OperatingPoint(voltage_v=0.68)
    policy = published(low)
    from brownout.host.workload.product_site import ProductSite

    def at(evaluation, kind):
        return policy(ProductSite(evaluation, math.nan, "x", "transformer_blocks.0", kind))

    assert at(2, "qkv") == at(7, "mlp_out") == low
    assert at(0, "qkv") == at(1, "qkv") == at(2, "modulation") == at(2, "attention.qk") == at(2, "other") == NOMINAL


def test_table_gives_the_default_where_it_has_nothing():
    from brownout.host.workload.product_site import ProductSite

    low = OperatingPoint(voltage_v=0.7)
    table = TablePolicy({(3, "b.0"): low}, kinds=["qkv"])
    assert table(ProductSite(3, 0.0, "b.0.to_q", "b.0", "qkv")) == low
    assert table(ProductSite(4, 0.0, "b.0.to_q", "b.0", "qkv")) == NOMINAL
    assert table(ProductSite(3, 0.0, "b.0.ff", "b.0", "mlp_in")) == NOMINAL
