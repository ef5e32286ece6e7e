"""Counting from shapes alone gives the counters of a model that really runs."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch

from brownout.host import Accelerator, EnergyModel, Protection, Requantisation, calibrate, offload, report
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.device.product.protection import UNCHECKED
from brownout.host.workload.counting import SUPPRESSING, CountedWorkload
from brownout.host.workload.product_site import block_of
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .. import tiny_denoisers

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24))
CHECKSUM = ChecksumConfig(column_checks=True, group_rows=32, segment_cols=8)
ERRING = replace(CONFIG, timing_model="flip", checksum=CHECKSUM)

TRUTH = {"injected", "missed", "wrong"}


def pixart():
    arguments = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 7, 12),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return tiny_denoisers.pixart(), arguments


def unet_sd15():
    # 26 x 26 pixels: more query rows than one block of attention has.
    return tiny_denoisers.unet_sd15(), {
        "sample": torch.randn(2, 4, 26, 26),
        "encoder_hidden_states": torch.randn(2, 7, 12),
    }


MODELS = {each.__name__: each for each in (pixart, unet_sd15)}


@pytest.fixture(params=MODELS)
def model_and_run(request):
    torch.manual_seed(3)
    model, arguments = MODELS[request.param]()
    arguments |= {"timestep": torch.tensor([40, 40])}
    return model.eval().requires_grad_(False), lambda each: each(**arguments).sample


def comparable(stats, leave_out=frozenset()):
    return {name: value for name, value in stats.items() if name not in leave_out}


@torch.no_grad()
def test_a_workload_is_what_the_offloaded_model_does(model_and_run):
    model, run = model_and_run
    workload = trace_workload(model, run)
    twin_model = copy.deepcopy(model)
    with Accelerator(CONFIG, backend="twin") as twin:
        offload(twin_model, twin, calibration=calibrate(model, run, method="absmax", measure_error=False))
        run(twin_model)
        counted = CountedWorkload(CONFIG, workload)
        assert counted.evaluate() == dict(twin.stats)
        found = [(layer.name, layer.kind, layer.macs) for layer in report(twin_model) if layer.calls]
    expected: dict[str, list] = {}
    for product in workload.products:
        expected.setdefault(product.name, [product.name, product.kind, 0])[2] += product.shape.macs
    assert sorted(found) == sorted(tuple(each) for each in expected.values())
    assert workload.macs == sum(macs for _, _, macs in found)


@torch.no_grad()
def test_checked_products_without_errors_cost_the_same(model_and_run):
    model, run = model_and_run
    workload = trace_workload(model, run)
    twin_model = copy.deepcopy(model)
    with Accelerator(ERRING, backend="twin", protection=SUPPRESSING) as twin:
        offload(twin_model, twin, calibration=calibrate(model, run, method="absmax", measure_error=False))
        run(twin_model)
        counted = CountedWorkload(ERRING, workload).evaluate(SUPPRESSING)
        leave_out = TRUTH | {"checks"}
        assert comparable(counted, leave_out) == comparable(twin.stats, leave_out)


def test_a_filter_leaves_out_what_offload_would(model_and_run):
    model, run = model_and_run
    workload = trace_workload(model, run, lambda layer, name: isinstance(layer, torch.nn.Linear))
    assert {product.kind for product in workload.products} == {"linear"}
    assert all(isinstance(model.get_submodule(name), torch.nn.Linear) for name in workload.weights)
    assert any(product.in_transformer for product in workload.products)
    assert not all(product.in_transformer for product in workload.products)


@pytest.mark.parametrize("checksum", [CHECKSUM, ChecksumConfig(column_checks=False, segment_cols=16)])
def test_expected_findings_take_the_time_of_real_ones(checksum, generator):
    config = replace(ERRING, checksum=checksum, voltage_domains=2)
    a, w = (torch.randint(-128, 128, s, dtype=torch.int8, generator=generator) for s in ((1000, 40), (40, 300)))
    protection = Protection(on_uncorrectable="keep", log_records=1 << 12)
    stats = []
    for backend in ("twin", ShapeBackend(config)):
        with Accelerator(config, backend, protection=protection) as accelerator:
            accelerator.set_operating_point(voltage_v=0.68, seed=5)
            accelerator.gemm(a, w)
            stats.append(accelerator.stats)
    real, expected = stats
    assert expected["cycles"] == pytest.approx(real["cycles"], rel=1e-3)
    assert expected["dram_bytes"] == pytest.approx(real["dram_bytes"], rel=2e-3)
    # Rows of memory depend on when records are written between outputs.
    assert expected["dram_row_activations"] == pytest.approx(real["dram_row_activations"], rel=0.1)
    # And more than without any.
    with Accelerator(config, ShapeBackend(config), protection=protection) as clean:
        clean.gemm(a, w)
        assert clean.stats["dram_bytes"] < expected["dram_bytes"] * 0.995


def test_operands_need_only_a_shape():
    a, w = torch.empty(70, 33, dtype=torch.int8, device="meta"), torch.empty(33, 20, dtype=torch.int8, device="meta")
    counted = []
    for device, backend in (("meta", ShapeBackend(ERRING)), ("cpu", "twin")):
        with Accelerator(ERRING, backend) as accelerator:
            operands = [torch.zeros(x.shape, dtype=torch.int8, device=device) for x in (a, w)]
            accelerator.gemm(operands[0], accelerator.upload(operands[1]))
            counted.append(comparable(accelerator.stats, TRUTH))
    assert counted[0] == counted[1]


def test_narrow_outputs_and_checkpoints_are_those_of_the_twin(model_and_run):
    model, run = model_and_run
    workload = trace_workload(model, run, lambda layer, name: isinstance(layer, torch.nn.Linear))
    counted = CountedWorkload(ERRING, workload, EnergyModel.published(), requantise=True)
    narrow, checkpoint = counted.evaluate(UNCHECKED), counted.checkpoint()
    with Accelerator(ERRING, backend="twin", energy_model=EnergyModel.published()) as twin:
        weights = {name: twin.upload(torch.zeros(size, dtype=torch.int8)) for name, size in workload.weights.items()}
        for product in workload.products:
            shape = product.shape
            requant = Requantisation.from_scale(torch.ones(shape.n))
            a = torch.zeros(shape.batch, shape.m, shape.k, dtype=torch.int8)
            twin.gemm(a, weights[product.name], requant=requant)
        assert comparable(narrow, TRUTH) == comparable(twin.stats, TRUTH)
        twin.reset_stats()
        for product in workload.products:
            if product.in_transformer:
                size = (product.shape.batch, product.shape.m, product.shape.n)
                twin.copy(*(torch.zeros(size, dtype=torch.int8) for _ in range(2)))
        assert comparable(checkpoint, TRUTH) == comparable(twin.stats, TRUTH)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("transformer_blocks.3.ff.net.2", "transformer_blocks.3"),
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn1.qk", "down_blocks.0"),
        ("mid_block.resnets.1.conv1", "mid_block"),
        ("conv_in", "conv_in"),
    ],
)
def test_blocks_are_the_parts_of_a_model_that_run_one_after_the_other(name, block):
    assert block_of(name) == block


def test_late_carries_depend_on_values():
    message = "ShapeBackend needs timing_model='flip' or 'none'; late carries depend on the values"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ShapeBackend(replace(ERRING, timing_model="carry"))
