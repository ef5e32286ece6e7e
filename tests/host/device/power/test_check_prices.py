"""Checks are charged by their netlists."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from brownout.host import Accelerator, EnergyModel
from brownout.host.device.power.check_prices import (
    IDLE_SHARE,
    RAZOR_SHARE,
    check_column_price,
    check_share,
    column_sums_price,
    syndrome_bits,
)
from brownout.host.device.power.energy import leakage_w
from brownout.hw.config import AcceleratorConfig, ChecksumConfig


def residue(width, **options):
    return ChecksumConfig(scheme="residue", segment_cols=width, **{"column_checks": False, **options})


def test_residues_cost_what_their_transistors_say():
    # docs/protection.md: per cent of the array's energy.
    assert [round(100 * check_share(residue(width)), 1) for width in (32, 16, 8)] == [5.7, 11.2, 21.7]
    assert column_sums_price(residue(16)) == 0
    assert column_sums_price(residue(16, column_checks=True)) == pytest.approx(0.127, abs=0.001)


def test_widths_without_a_netlist_have_the_price_of_the_next_one():
    assert check_column_price(residue(64)) == check_column_price(residue(32))
    assert check_share(residue(64)) == pytest.approx(check_share(residue(32)) / 2)


def test_schemes_without_a_netlist_go_by_the_widths_of_their_weights():
    known = residue(16)
    added = SimpleNamespace(
        scheme="added", locators=1, checks=2, segment_cols=16, column_checks=True, modulus=lambda check: 8191
    )
    assert check_column_price(added) == pytest.approx(check_column_price(known), rel=0.05)
    assert column_sums_price(added) == 0


def test_an_idle_element_takes_what_follows_the_clock():
    assert 0.03 < IDLE_SHARE < 0.2


def test_syndromes_are_kept_for_each_segment():
    checksum = residue(16)
    assert syndrome_bits(checksum) == checksum.check_bits(0) + checksum.check_bits(1)


def test_elements_that_notice_late_sums_cost_what_their_transistors_say():
    element = 10_187.8  # transistors, by the netlist
    latches, padding, flag = 32 * 12, 32 * 2 * 2, 24
    # NANDs of four transistors: a bit's XOR takes four, its bypass three; two values of 32 bits are compared by a tree.
    logic = 32 * (4 + 3) * 4
    assert latches + padding + flag + logic < RAZOR_SHARE * element < 1.15 * (latches + padding + flag + logic)


def test_razor_is_in_the_energy_of_checks_clock_and_leakage():
    a, w = (torch.ones(40, 40, dtype=torch.int8) for _ in range(2))
    stats = {}
    for razor in (False, True):
        config = AcceleratorConfig(timing_model="flip", razor=razor)
        with Accelerator(config, backend="twin") as accelerator:
            accelerator.set_operating_point(voltage_v=0.7)
            accelerator.reset_stats()
            accelerator.gemm(a, w)
            stats[razor] = dict(accelerator.stats)
    plain, late = stats[False], stats[True]
    assert plain["energy_check_j"] == 0
    assert late["energy_mac_j"] == plain["energy_mac_j"]
    assert late["energy_check_j"] == pytest.approx(RAZOR_SHARE * plain["energy_mac_j"])
    assert late["energy_idle_j"] == pytest.approx((1 + RAZOR_SHARE) * plain["energy_idle_j"])
    assert plain["energy_leakage_j"] < late["energy_leakage_j"] < (1 + RAZOR_SHARE) * plain["energy_leakage_j"]
    for name in ("energy_sram_j", "energy_dram_j", "cycles"):
        assert late[name] == plain[name]


def test_the_price_of_razor_can_be_another():
    config = AcceleratorConfig(timing_model="flip", razor=True)
    free, dear = (leakage_w(config, EnergyModel(razor_share=share), 0.7) for share in (0.0, 0.5))
    elements = config.rows * config.cols * EnergyModel().leakage_w * EnergyModel().leaking(0.7)
    assert dear - free == pytest.approx(0.5 * elements)
