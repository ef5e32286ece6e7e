"""Where offloaded attention is one command and where two products: operating points, backends, NaN, error keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, Protection, calibrate, offload, offloaded_model
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import PublishedDrift, Rollback
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
CHECKSUM = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=8, pairs=True)
ERRING = replace(CONFIG, timing_model="flip", checksum=CHECKSUM)
LOW = OperatingPoint(voltage_v=0.68, check_voltage_v=0.8)


class Attend(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, query, key, value, mask=None):
        return F.scaled_dot_product_attention(query, key, value, mask, **self.settings)


class Commands:
    """How many commands of either kind an accelerator gets, and with what."""

    def __init__(self, accelerator, monkeypatch):
        self.attention, self.products = [], []
        for name, calls in (("attention", self.attention), ("gemm", self.products)):
            monkeypatch.setattr(accelerator, name, self._counting(getattr(accelerator, name), calls))

    @staticmethod
    def _counting(function, calls):
        def counting(*args, **kwargs):
            calls.append(kwargs)
            return function(*args, **kwargs)

        return counting

    @property
    def counts(self):
        return len(self.attention), len(self.products)


@pytest.fixture(params=[CONFIG])
def twin(request):
    with Accelerator(request.param, backend="twin") as accelerator:
        yield accelerator


@pytest.fixture
def commands(twin, monkeypatch):
    return Commands(twin, monkeypatch)


def draw(generator, *shapes):
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def offloaded(net, twin, *runs):
    offload(net, twin, calibration=calibrate(net, lambda m: [m(*each) for each in runs], method="absmax"))
    return net


CANNOT = {
    "mask": (((1, 2, 9, 8),) * 3, (9, 9), {}),
    "head size": (((1, 2, 9, 17),) * 2 + ((1, 2, 9, 8),), None, {}),
    "columns": (((1, 2, 9, 8), (1, 2, 9, 8), (1, 2, 9, 33)), None, {}),
    "keys": (((1, 2, 9, 8), (1, 2, 513, 8), (1, 2, 513, 8)), None, {}),
    "scale": (((1, 2, 9, 8),) * 3, None, {"scale": -0.5}),
}


@pytest.mark.parametrize("case", CANNOT)
def test_what_a_command_cannot_do_is_two_products_as_ever(case, twin, commands, generator):
    shapes, mask, settings = CANNOT[case]
    operands = draw(generator, *shapes, *([] if mask is None else [mask]))
    net = Attend(**settings)
    out = offloaded(net, twin, operands)(*operands)
    assert commands.counts == (0, 2)
    plain = replace(CONFIG, attention=False)
    with Accelerator(plain, backend="twin") as accelerator:
        assert torch.equal(out, offloaded(Attend(**settings), accelerator, operands)(*operands))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_depends_on_nan_is_nan(bad, causal, twin, commands, generator):
    query, key, value = draw(generator, *[(1, 2, 9, 8)] * 3)
    net = offloaded(Attend(is_causal=causal), twin, (query, key, value))
    expected = net(query, key, value)
    wrong_query, wrong_key = query.clone(), key.clone()
    wrong_query[0, 1, 3, 2] = wrong_key[0, 0, 5, 1] = bad
    out = net(wrong_query, wrong_key, value)
    assert commands.counts == (2, 0)
    rows = torch.zeros(1, 2, 9, dtype=torch.bool)
    rows[0, 1, 3] = True
    rows[0, 0, 5 if causal else 0 :] = True
    assert torch.equal(out.isnan(), rows[..., None].expand_as(out))
    assert torch.equal(out[~rows], expected[~rows])


@pytest.mark.parametrize("twin", [ERRING], indirect=True)
def test_errors_are_those_of_the_same_products(twin, commands, generator):
    """What the checks find in scores is what they find in two products with the same keys."""
    operands = draw(generator, *[(1, 2, 9, 8)] * 3)
    found = []
    for on_chip in (True, False):
        net = offloaded(Attend(), twin, operands)
        model = offloaded_model(net)
        if not on_chip:
            model.observer = lambda name, sums: None
        twin.protection = Protection(log_records=0)
        twin.set_error_rate(0.02, seed=5)
        net(*operands)
        found.append([command["error_key"] for command in commands.products])
    assert commands.counts == (1, 2)
    assert found[1] == [commands.attention[0]["error_key"], commands.attention[0]["value_error_key"]]


@pytest.mark.rtl
@pytest.mark.xdist_group("attention")
def test_products_at_different_points_are_two_commands(generator, monkeypatch):
    operands = draw(generator, *[(1, 2, 9, 8)] * 3)
    with Accelerator(ERRING, backend="twin") as twin:
        net = offloaded(Attend(), twin, operands)
        commands = Commands(twin, monkeypatch)

        def policy(site):
            return LOW if site.product.endswith("qk") else OperatingPoint(voltage_v=0.75, check_voltage_v=0.8)

        with protect(net, Rollback(CHECKSUM, attempts=0), policy, seed=1):
            net(*operands)
        assert commands.counts == (0, 2)


def test_column_checks_and_an_attention_unit_exclude_each_other():
    with pytest.raises(ValueError, match="checksum without column_checks"):
        PublishedDrift(tile=16).hardware(ERRING)
