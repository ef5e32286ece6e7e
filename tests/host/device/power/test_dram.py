"""Constants of main memory."""

from __future__ import annotations

import math

import pytest

from brownout.host.device.power.dram import Dram, dram

NAMES = ("hbm2", "hbm3", "lpddr4x", "lpddr5")


def test_hbm2_is_what_is_published():
    hbm2 = dram("hbm2")
    # 3.92 pJ/bit, 1.21 of them for activation, and 909 pJ for a row of 1 KiB.
    assert hbm2.byte_j == pytest.approx(21.68e-12, rel=1e-12)
    assert hbm2.row_j_per_byte * 1024 == pytest.approx(909e-12, rel=1e-6)
    assert hbm2.byte_j + 1.21 * 8e-12 == pytest.approx(3.92 * 8e-12, rel=1e-12)


def test_lpddr5_is_what_its_data_sheet_makes_of_it_by_hand():
    lpddr5 = dram("lpddr5")
    # 367.5 mW of VDD2H, 27.36 of VDD1 and 55.65 of VDDQ, at 15 GB/s.
    assert lpddr5.byte_j == pytest.approx(450.51e-3 / 15e9, rel=1e-5)
    # 960.75 pJ of VDD2H and 150.12 of VDD1 for a row of 2 KiB.
    assert lpddr5.row_j_per_byte == pytest.approx(1110.87e-12 / 2048, rel=1e-5)
    # 47.34 mW of standby and 12.42 of refresh.
    assert lpddr5.background_w_per_gb_s == pytest.approx(59.7594e-3 / 15, rel=1e-5)


def test_hbm3_takes_what_an_h200_was_measured_to_take():
    hbm3 = dram("hbm3")
    # Eight bytes are opened for each that is read: 46.5, 46.9 and 45.8 pJ.
    assert hbm3.byte_j + 8 * hbm3.row_j_per_byte == pytest.approx(46.4e-12, rel=0.03)


def test_lpddr4x_takes_less_than_lpddr4_by_what_its_drivers_save():
    # Of LPDDR4: 269.5 mW of VDD2 and 165 of VDDQ at 12.8 GB/s; of VDDQ's (0.6 / 1.1)^2 * 3 / 2 are left.
    assert dram("lpddr4x").byte_j == pytest.approx((269.5e-3 + 165e-3 * 27 / 60.5 - 0.45e-3) / 12.8e9, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_memory_says_where_its_figures_are_from(name):
    memory = dram(name)
    assert memory.name == name
    assert memory.source
    assert min(memory.byte_j, memory.row_j_per_byte, memory.background_w_per_gb_s) > 0


def test_an_unknown_memory_is_refused_with_the_choices():
    message = r"^name must be 'hbm2', 'hbm3', 'lpddr4x', 'lpddr5', not 'ddr9'; or make a Dram\(\.\.\.\)$"
    with pytest.raises(ValueError, match=message):
        dram("ddr9")


@pytest.mark.parametrize("field", ["byte_j", "row_j_per_byte", "background_w_per_gb_s"])
@pytest.mark.parametrize("value", [-1e-12, math.nan, math.inf])
def test_constants_that_cannot_be_are_refused(field, value):
    values = {"byte_j": 1e-11, "row_j_per_byte": 1e-12, "background_w_per_gb_s": 1e-3, field: value}
    with pytest.raises(ValueError, match=f"^Dram.{field} must be finite and not negative, but is {value!r}$"):
        Dram(name="own", **values)
