"""A layer type that a package of a user registers is calibrated, offloaded, traced and restored like Linear."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Calibration, calibrate, load_offloaded, offload, report, restore, save_offloaded
from brownout.host.errors import FileRefusedError
from brownout.host.offloading import LayerType, OffloadedLinear, register_layer_type
from brownout.host.offloading.layer_types import LinearType, find_layer_type, layer_type_of, registry
from brownout.host.workload.product_site import kind_of_product
from brownout.host.workload.trace import trace_workload

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
PACKAGE = "scaled_layers_of_a_user"
FACTOR = 0.3


@pytest.fixture
def own_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_TYPES", dict(registry._TYPES))


@pytest.fixture
def package(own_registry, tmp_path, monkeypatch):
    """The code of the page, as a package of its own."""
    section = PAGE.read_text().partition("\n## A new layer type\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "code" / PACKAGE).mkdir(parents=True)
    (tmp_path / "code" / PACKAGE / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield importlib.import_module(PACKAGE)
    del sys.modules[PACKAGE]


@pytest.fixture
def net(package):
    torch.manual_seed(3)
    model = nn.Sequential(package.ScaledLinear(12, 20, FACTOR), nn.GELU(), nn.Linear(20, 9))
    return model.requires_grad_(False).eval()


def exactly(message):
    return f"^{re.escape(message)}$"


def test_its_layers_compute_quantised_arithmetic(package, twin, generator):
    net = nn.Sequential(package.ScaledLinear(12, 9, FACTOR)).requires_grad_(False)
    weight = net[0].weight.double().numpy()
    values = torch.randn(7, 12, generator=generator)
    offload(net, twin, calibration=calibrate(net, lambda m: m(values), method="absmax"))
    step, weight_step = np.abs(values.double().numpy()).max() / 127, np.abs(weight).max(1) / 127
    sums = np.round(values.double().numpy() / step) @ np.round(weight / weight_step[:, None]).T
    np.testing.assert_allclose(net(values).numpy(), sums * step * weight_step * FACTOR, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.5}], ids=str)
def test_they_are_near_float_and_restore_brings_them_back(options, package, net, twin, generator):
    values, layers = torch.randn(2, 5, 12, generator=generator), list(net)
    expected = net(values)
    calibration = calibrate(net, lambda m: m(values), **options)
    assert calibration.layers["0"].kind == "scaled_linear"
    assert calibration.layers["0"].sqnr_db > 30
    assert not calibration.left
    offload(net, twin, calibration=calibration, unsupported="refuse")
    assert type(net[0]) is package.OffloadedScaledLinear
    assert type(net[2]) is OffloadedLinear
    assert not torch.equal(net(values), expected)
    assert (net(values) - expected).norm() < 0.03 * expected.norm()
    net[0].weight.mul_(2)
    doubled = net[0](values)
    restore(net)
    assert list(net) == layers
    assert (doubled - net[0](values)).norm() < 0.03 * doubled.norm()


def test_reports_and_traces_have_their_products(net, twin, generator):
    values = torch.randn(2, 5, 12, generator=generator)
    traced = trace_workload(net, lambda m: m(values))
    offload(net, twin, calibration=lambda m: m(values))
    net(values)
    reported = report(net)
    assert [(each.name, each.kind) for each in reported] == [("0", "scaled_linear"), ("2", "linear")]
    for product, layer in zip(traced.products, reported, strict=True):
        assert (product.name, product.kind) == (layer.name, layer.kind)
        assert (product.shape.m, product.shape.n, product.shape.k) == (layer.rows, layer.n, layer.k)
        assert product.shape.macs == layer.macs
        assert layer.cycles >= layer.ideal_cycles > 0
    assert traced.weights == {"0": (1, 12, 20), "2": (1, 20, 9)}
    assert not any(product.is_of_pixels or product.is_of_attention for product in traced.products)


def test_what_is_known_of_products_by_name_holds_for_their_names(package, generator):
    net = nn.ModuleDict({"transformer_blocks": nn.Sequential(package.ScaledLinear(12, 9, FACTOR))})
    values = torch.randn(3, 12, generator=generator)
    (product,) = trace_workload(net, lambda m: m["transformer_blocks"](values)).products
    assert product.in_transformer
    assert kind_of_product(product.name, product.kind) == "other"
    assert kind_of_product("transformer_blocks.0.ff.net.2", product.kind) == "mlp_out"


def test_files_hold_their_kind_and_are_refused_where_nobody_registers_it(net, twin, generator, tmp_path, monkeypatch):
    values = torch.randn(4, 12, generator=generator)
    offload(net, twin, calibration=lambda m: m(values))
    expected = net(values)
    save_offloaded(net, tmp_path / "saved")
    restore(net)
    net[0].weight.zero_()
    load_offloaded(net, twin, tmp_path / "saved")
    assert torch.equal(net(values), expected)
    monkeypatch.setattr(registry, "_TYPES", {nn.Linear: registry._TYPES[nn.Linear]})
    message = r"layer '0' is of kind 'scaled_linear', which is none of 'linear', 'attention'; import the module that "
    with pytest.raises(FileRefusedError, match=message):
        Calibration.load(tmp_path / "saved" / "calibration.safetensors")


def test_a_subclass_with_a_method_of_its_own_stays_in_float_unless_it_has_a_type(package, net, generator):
    class Doubled(package.ScaledLinear):
        def forward(self, input):
            return super().forward(input) * 2

    net[0].__class__ = Doubled
    values = torch.randn(4, 12, generator=generator)
    (left,) = calibrate(net, lambda m: m(values)).left
    assert (left.name, left.reason) == ("0", "Doubled has a forward of its own")

    @register_layer_type(Doubled)
    class DoubledType(package.ScaledLinearType):
        kind = "doubled"

        def compute(self, layer, values, weight, bias):
            return super().compute(layer, values, weight, bias) * 2

    calibration = calibrate(net, lambda m: m(values))
    assert calibration.layers["0"].kind == "doubled"
    assert not calibration.left
    assert type(layer_type_of(package.ScaledLinear(2, 2, 1))) is package.ScaledLinearType


def test_a_class_or_kind_that_is_taken_is_refused(own_registry):
    with pytest.raises(ValueError, match=exactly("LinearType takes over layers of class Linear already")):
        register_layer_type(nn.Linear)(LinearType)
    with pytest.raises(ValueError, match=exactly("kind 'linear' of LinearType is taken; choose another")):
        register_layer_type(nn.Bilinear)(LinearType)

    class Reserved(LinearType):
        kind = "attention"

    with pytest.raises(ValueError, match=exactly("kind 'attention' of Reserved is taken; choose another")):
        register_layer_type(nn.Bilinear)(Reserved)


def test_what_nobody_registered_has_no_type():
    assert find_layer_type(nn.GELU()) is None
    with pytest.raises(TypeError, match=exactly("GELU is no layer that can be offloaded")):
        layer_type_of(nn.GELU())
    with pytest.raises(TypeError, match="abstract"):
        LayerType(nn.GELU)
