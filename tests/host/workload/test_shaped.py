"""A workload runs attention as one command where the offloaded model does."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, calibrate, offload
from brownout.host.drift.accounting.executed import nominal_image, protected_image
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.power_policy import constant
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import Rollback
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

CONFIG = AcceleratorConfig(
    rows=8,
    cols=8,
    block_rows=16,
    block_col_tiles=4,
    slab_bytes=16,
    attention=True,
    memory=MemoryConfig(size_bytes=1 << 23),
)
CHECKSUM = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=8)
LOW = OperatingPoint(voltage_v=0.7, check_voltage_v=0.8)


MASKS = {"queries": (13, 13), "keys": (2, 1, 1, 13)}


class Block(nn.Module):
    """First heads of so many features, then of 16; the last product of the model is one of attention."""

    def __init__(self, features, *, causal=False, masked=""):
        super().__init__()
        self.causal, self.masked = causal, masked
        self.before = nn.Linear(8, 2 * features)
        self.between = nn.Linear(2 * features, 32)

    def forward(self, x):
        heads = self.before(x).unflatten(-1, (2, -1)).transpose(1, 2)
        mask = torch.zeros(*MASKS[self.masked]) if self.masked else None
        mixed = F.scaled_dot_product_attention(heads, heads, heads, mask, 0.0, self.causal)
        heads = self.between(mixed.transpose(1, 2).flatten(2)).unflatten(-1, (2, -1)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, mask, is_causal=self.causal)


BLOCKS = {
    "fits": {"features": 8},
    "causal": {"features": 6, "causal": True},
    "masked": {"features": 8, "masked": "queries"},
    "keys masked": {"features": 8, "masked": "keys"},
    # Its keys are few enough to be the features of a head, and the next layer's columns to be those of values.
    "head too wide": {"features": 20},
}


@pytest.fixture(params=BLOCKS)
def model(request):
    torch.manual_seed(2)
    return Block(**BLOCKS[request.param]).eval().requires_grad_(False)


X = torch.randn(2, 13, 8, generator=torch.Generator().manual_seed(1))


def test_clean_costs_are_those_of_the_model(model):
    workload = trace_workload(model, lambda each: each(X))
    with Accelerator(CONFIG, backend="twin") as twin:
        offload(model, twin, calibration=calibrate(model, lambda each: each(X), measure_error=False))
        model(X)
        counted = nominal_image(CONFIG, workload, steps=1).counters
        assert dict(counted) == dict(twin.stats)


def test_costs_with_errors_are_about_those_of_the_model(model):
    workload = trace_workload(model, lambda each: each(X))
    strategy = Rollback(CHECKSUM, attempts=0)
    config = strategy.hardware(replace(CONFIG, timing_model="flip"))
    priced = protected_image(CONFIG, workload, strategy, constant(LOW), steps=8)
    found = []
    with Accelerator(config, backend="twin") as twin:
        net = copy.deepcopy(model)
        offload(net, twin, calibration=calibrate(model, lambda each: each(X), measure_error=False))
        for seed in range(3):
            with protect(net, strategy, constant(LOW), seed=seed):
                twin.reset_stats()
                for _ in range(8):
                    net(X)
            found.append(dict(twin.stats))
    for name in ("macs", "interface_bytes", "checks"):
        assert {each[name] for each in found} == {priced.counters[name]}, name
    # Without moves between operating points, of which a model that was run before has more.
    executed = sum(each["cycles"] - each["transition_cycles"] for each in found) / len(found)
    assert priced.counters["cycles"] - priced.counters["transition_cycles"] == pytest.approx(executed, rel=0.01)
