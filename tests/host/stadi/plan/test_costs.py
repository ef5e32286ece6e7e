"""Products, time and energy of patches, against the whole model and against counts by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from brownout.host.device.power.check_prices import IDLE_SHARE
from brownout.host.errors import PlanError
from brownout.host.models.spec import DIGITS, build_denoiser
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.costs import CostModel
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.stadi.plan.patches import PatchedWorkload
from brownout.host.workload.counting import CountedWorkload
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from ... import tiny_denoisers

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24))
DEVICE = DeviceSpec(name="a", config=CONFIG)


@pytest.fixture(scope="module")
def digits():
    arguments = {
        "hidden_states": torch.zeros(2, 1, 8, 8, device="meta"),
        "timestep": torch.zeros(2, dtype=torch.long, device="meta"),
        "class_labels": torch.zeros(2, dtype=torch.long, device="meta"),
    }
    return trace_workload(build_denoiser(DIGITS).to("meta"), lambda model: model(**arguments))


@pytest.fixture(scope="module")
def pixart():
    arguments = {
        "hidden_states": torch.zeros(2, 4, 8, 8),
        "timestep": torch.tensor([40, 40]),
        "encoder_hidden_states": torch.zeros(2, 7, 12),
        "encoder_attention_mask": torch.ones(2, 7),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return trace_workload(tiny_denoisers.pixart().eval(), lambda model: model(**arguments))


def macs(products):
    return sum(product.shape.macs for product in products)


@pytest.mark.parametrize("name", ["digits", "pixart"])
def test_all_rows_are_the_whole_model(name, request):
    workload = request.getfixturevalue(name)
    patched = PatchedWorkload(workload, 4, 4, 2)
    assert [product for stage in patched.stages(4) for product in stage] == list(workload.products)


def test_stages_end_where_keys_and_values_are_exchanged(digits):
    patched = PatchedWorkload(digits, 4, 4, 2)
    stages = patched.stages(1)
    assert len(stages) == DIGITS.num_layers + 1 == len(patched.exchange_bytes_per_row) + 1
    assert all(stage[0].name.endswith("attn1.qk") for stage in stages[1:])
    assert all(stage[-1].name.endswith("attn1.to_v") for stage in stages[:-1])


def test_patches_meet_all_keys_with_their_own_queries(digits):
    stage = PatchedWorkload(digits, 4, 4, 2).stages(3)[1]
    qk, pv, out = (product.shape for product in stage[:3])
    assert (qk.batch, qk.m, qk.n, qk.k) == (4, 12, 16, 32)
    assert (pv.batch, pv.m, pv.n, pv.k) == (4, 12, 32, 16)
    assert out.m == 2 * 12


def test_prompts_and_timesteps_are_computed_by_every_device(pixart):
    patched = PatchedWorkload(pixart, 4, 4, 2)
    products = {product.name: product.shape for stage in patched.stages(1) for product in stage}
    assert products["transformer_blocks.0.attn2.to_k"].m == 2 * 7
    assert products["transformer_blocks.0.attn2.qk"].m == 4
    assert products["transformer_blocks.0.attn2.qk"].n == 7
    assert products["adaln_single.linear"].m == 2


def test_exchange_is_keys_and_values_of_both_halves(digits):
    width = DIGITS.num_heads * DIGITS.head_dim
    assert set(PatchedWorkload(digits, 4, 4, 2).exchange_bytes_per_row) == {2 * 2 * 4 * width}
    assert set(PatchedWorkload(digits, 4, 4, 2, 4).exchange_bytes_per_row) == {4 * 2 * 2 * 4 * width}
    # Four tokens of 2 x 2 pixels, float32.
    assert PatchedWorkload(digits, 4, 4, 2).latent_bytes_per_row == 4 * 4 * 4


def test_coded_exchange_has_fewer_bytes_and_the_same_products(digits):
    whole = PatchedWorkload(digits, 4, 4, 2)
    coded = replace(whole, coding=ExchangeCoding(4, 32))
    elements = 2 * 2 * 4 * DIGITS.num_heads * DIGITS.head_dim
    assert elements % 32 == 0
    assert {each.coded_row_bytes for each in coded.exchanges} == {elements // 2 + elements // 32}
    assert coded.exchange_bytes_per_row == whole.exchange_bytes_per_row
    assert coded.stages(3) == whole.stages(3)
    costs = CostModel(whole)
    assert costs.on(coded).of(DEVICE).seconds(2) == costs.of(DEVICE).seconds(2)
    with pytest.raises(ValueError, match=r"^the model has another workload; make a CostModel of its own for it$"):
        costs.on(PatchedWorkload(replace(digits, products=digits.products[:-1]), 4, 4, 2))


def test_halves_of_guidance_are_half_of_the_products(digits):
    patched = PatchedWorkload(digits, 4, 4, 2)
    half = macs(product for stage in patched.stages(4, 1) for product in stage)
    assert 2 * half == digits.macs


def test_time_and_energy_are_those_of_the_whole_model(digits):
    patched = PatchedWorkload(digits, 4, 4, 2)
    costs = CostModel(patched).of(DEVICE)
    stats = CountedWorkload(CONFIG, digits, requantise=True).evaluate()
    assert costs.seconds(4) == pytest.approx(stats["time_s"], rel=1e-12)
    # Rows of memory are opened as after a reset: 1 % of the energy depends on what was open before.
    assert costs.energy_j(4) == pytest.approx(stats["energy_j"] - stats["energy_leakage_j"], rel=0.01)


def test_voltage_changes_the_energy_of_the_array_and_no_time(digits):
    model = CostModel(PatchedWorkload(digits, 4, 4, 2))
    nominal, low = model.of(DEVICE), model.of(replace(DEVICE, voltage_v=0.85))
    assert low.seconds(2) == nominal.seconds(2)
    half = macs(product for stage in model.model.stages(2) for product in stage)
    # Elements that wait or are padded take their share too.
    idle = CONFIG.rows * CONFIG.cols * nominal.seconds(2) * 2e9 - half
    # A converter of 0.93 at the nominal voltage, which is 0.03 less at 0.62 V.
    taken = (0.85 / 0.9) ** 2 / (0.93 - 0.03 * 0.05 / 0.28)
    difference = (half + IDLE_SHARE * idle) * 0.16e-12 * (1 / 0.93 - taken)
    assert nominal.energy_j(2) - low.energy_j(2) == pytest.approx(difference, rel=1e-6)
    assert low.leakage_w < nominal.leakage_w


def test_half_the_clock_takes_less_than_twice_as_long(digits):
    model = CostModel(PatchedWorkload(digits, 4, 4, 2))
    nominal, slow = model.of(DEVICE), model.of(replace(DEVICE, frequency_hz=1e9))
    # The memory keeps its nanoseconds.
    assert 1 < slow.seconds(2) / nominal.seconds(2) < 2


def test_protected_points_cost_checks(digits):
    config = replace(CONFIG, timing_model="flip", checksum=ChecksumConfig(scheme="residue", segment_cols=8))
    model = CostModel(PatchedWorkload(digits, 4, 4, 2))
    low = model.of(DeviceSpec(name="b", config=config, voltage_v=0.7))
    plain = model.of(replace(DEVICE, voltage_v=0.85))
    assert low.seconds(4) >= plain.seconds(4)
    assert low.energy_j(4) != plain.energy_j(4)


def test_the_line_fits_a_linear_table(digits):
    costs = CostModel(PatchedWorkload(digits, 4, 4, 2)).of(DEVICE)
    line = costs.linear()
    worst = max(
        abs(line.fixed_s + line.per_row_s * rows - costs.table[rows]) / costs.table[rows] for rows in (1, 2, 3, 4)
    )
    assert line.worst == pytest.approx(worst)
    assert line.worst < 0.2


def test_impossible_models_are_refused(digits, pixart):
    with pytest.raises(
        ValueError, match=r"^the workload has no self-attention over 8 tokens \(4 rows of 2\) of 4 images;"
    ):
        PatchedWorkload(digits, 4, 2, 4)
    with pytest.raises(ValueError, match=r"^pos_embed\.proj is a convolution with 32 output pixels, not the patch emb"):
        PatchedWorkload(digits, 4, 4, 1)
    with pytest.raises(ValueError, match=re.escape("rows must be in 1..4, not 5")):
        PatchedWorkload(digits, 4, 4, 2).stages(5)
    small = replace(DEVICE, config=replace(CONFIG, memory=MemoryConfig(size_bytes=1 << 16)))
    with pytest.raises(PlanError, match=r"^device a has 65536 bytes of memory, but weights \(\d+\) and the keys"):
        CostModel(PatchedWorkload(digits, 4, 4, 2)).of(small)
