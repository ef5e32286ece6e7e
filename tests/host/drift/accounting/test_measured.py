"""Images on our accelerators: sums of their steps, each at its operating point."""

from __future__ import annotations

from dataclasses import replace

import pytest

from brownout.host import DelayModel, EnergyModel
from brownout.host.device.power.energy import check_column_share
from brownout.host.device.product.operands import GemmShape
from brownout.host.drift.accounting.measured import CHECKPOINTING, CLASSIC_32, RESIDUE_32, ImageCounter
from brownout.host.workload.counting import CountedWorkload
from brownout.host.workload.trace import ModelProduct, Workload
from brownout.hw.config import AcceleratorConfig, MemoryConfig

CONFIG = AcceleratorConfig(
    rows=32, cols=32, bus_bytes=64, slab_bytes=128, drain_lanes=8, memory=MemoryConfig(bytes_per_cycle=128)
)
NAME = "transformer_blocks.0.ff"
SHAPE = GemmShape(1, 512, 512, 1024)
WORKLOAD = Workload((ModelProduct(NAME, "linear", "transformer_blocks.0", SHAPE),), {NAME: (1, 1024, 512)})
RATIO = (0.7 / 0.9) ** 2


@pytest.fixture(scope="module")
def counter():
    return ImageCounter(CONFIG, WORKLOAD, steps=10, nominal_steps=2)


def test_an_unprotected_image_is_so_many_evaluations(counter):
    stats = CountedWorkload(CONFIG, WORKLOAD).evaluate()
    assert counter.plain.energy_j == pytest.approx(10 * stats["energy_j"])
    assert counter.plain.time_s == pytest.approx(10 * stats["time_s"])
    assert counter.plain.macs == 10 * SHAPE.macs


def test_undervolting_scales_macs_and_checks_and_nothing_else(counter):
    plain, image = counter.plain.parts_j, counter.image(0.7).parts_j
    assert image["mac"] == pytest.approx(plain["mac"] * (0.2 + 0.8 * RATIO))
    share = check_column_share(RESIDUE_32)
    assert share == pytest.approx((13 + 13) / 8 / 32)
    assert image["check"] == pytest.approx(plain["mac"] * 0.8 * share * RATIO)
    # Commands that move the operating point, and two cycles of each block that has errors.
    assert image["dram"] == pytest.approx(plain["dram"], rel=1e-3)
    assert image["leakage"] == pytest.approx(plain["leakage"], rel=3e-3)


def test_checks_may_have_a_voltage_of_their_own(counter):
    low, high = (counter.image(0.7, check_voltage_v=voltage) for voltage in (None, 0.8))
    assert high.parts_j["check"] == pytest.approx(low.parts_j["check"] * (0.8 / 0.7) ** 2)
    assert high.parts_j["mac"] == pytest.approx(low.parts_j["mac"])


def test_overclocking_shortens_what_the_array_bounds(counter):
    fast = counter.image(0.9, 3e9)
    assert counter.plain.time_s / fast.time_s == pytest.approx(1 / (0.2 + 0.8 / 1.5), rel=0.01)


def test_published_terms_leave_out_the_rest():
    # Both new: how many commands move an accelerator to a point depends on where it was.
    image = ImageCounter(CONFIG, WORKLOAD, steps=10, nominal_steps=2).image(0.7)
    cheap = ImageCounter(CONFIG, WORKLOAD, steps=10, nominal_steps=2, energy_model=EnergyModel.published()).image(0.7)
    assert image.published_energy_j == pytest.approx(cheap.energy_j)
    assert image.published_energy_j == pytest.approx(sum(image.parts_j[name] for name in ("mac", "check", "dram")))


def test_a_checkpoint_reads_and_writes_the_outputs():
    voltage = DelayModel().voltage_at_rate(3e-3)
    classic = ImageCounter(CONFIG, WORKLOAD, steps=10, nominal_steps=2, checksum=CLASSIC_32)
    without, often = (classic.image(voltage, protection=CHECKPOINTING, checkpoint_interval=n) for n in (None, 5))
    copied = (often.dram_bytes - without.dram_bytes) / 2
    assert copied == pytest.approx(2 * SHAPE.m * SHAPE.n * 4, rel=1e-3)
    # Digits: 2 rows for every 32.
    checked = without.time_s - 0.2 * classic.plain.time_s
    assert checked / (0.8 * classic.plain.time_s) == pytest.approx(1 + 2 / 32, rel=5e-3)


def test_narrow_outputs_take_a_quarter_of_the_bytes():
    wide, narrow = (ImageCounter(CONFIG, WORKLOAD, steps=1, nominal_steps=0, requantise=n) for n in (False, True))
    saved = wide.plain.dram_bytes - narrow.plain.dram_bytes
    assert saved == pytest.approx(SHAPE.m * SHAPE.n * 3, rel=0.06)  # less the tables of channels


def test_checksum_units_of_the_configuration_are_replaced():
    erring = replace(CONFIG, timing_model="flip", checksum=CLASSIC_32)
    counter = ImageCounter(erring, WORKLOAD, steps=10, nominal_steps=2)
    assert counter.plain.parts_j["check"] == 0
    assert counter.image(0.7).parts_j["check"] == pytest.approx(
        counter.plain.parts_j["mac"] * 0.8 * check_column_share(RESIDUE_32) * RATIO
    )
