"""Weights that hooks or parametrisations compute are computed, and quantised, at each call."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from brownout.host import load_offloaded, offload, report, restore, save_offloaded


def equalised(layer):
    """A pre-hook of nobody's library."""
    layer.weight_orig = nn.Parameter(layer._parameters.pop("weight").detach())
    layer.weight = layer.weight_orig * 0.5
    layer.register_forward_pre_hook(lambda module, _: setattr(module, "weight", module.weight_orig * 0.5))


def scaled_weight_norm(layer):
    weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(3)


KINDS = {
    "old spectral_norm": (spectral_norm, lambda layer: layer.weight_orig),
    "old weight_norm": (scaled_weight_norm, lambda layer: layer.weight_g),
    "spectral_norm": (parametrizations.spectral_norm, lambda layer: layer.parametrizations.weight.original),
    "weight_norm": (parametrizations.weight_norm, lambda layer: layer.parametrizations.weight.original0),
    "orthogonal": (parametrizations.orthogonal, lambda layer: layer.parametrizations.weight.original),
    "prune": (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), lambda layer: layer.weight_orig),
    "pruned bias": (lambda layer: prune.random_unstructured(layer, "bias", 0.5), lambda layer: layer.bias_orig),
    "equalised": (equalised, lambda layer: layer.weight_orig),
}


def make(kind, layer=lambda: nn.Linear(12, 12)):
    torch.manual_seed(16)
    net = nn.Sequential(layer(), nn.Identity()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        KINDS[kind][0](net[0])
    return net


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conv", [False, True])
@torch.no_grad()
def test_the_weight_of_each_call_is_used(kind, conv, twin, generator):
    net = make(kind, (lambda: nn.Conv2d(3, 12, 3)) if conv else (lambda: nn.Linear(12, 12)))
    values = torch.randn(*((6, 3, 5, 5) if conv else (6, 12)), generator=generator)
    expected, layer, keys = net(values), net[0], list(net.state_dict())
    model = offload(net, twin, calibration=lambda m: m(values), unsupported="refuse")
    assert not model.left_in_float
    assert [each.name for each in report(net)] == ["0"]
    assert net[0] is not layer
    assert relative(net(values), expected) < 0.03
    assert set(keys) <= set(net.state_dict())

    source = KINDS[kind][1](net[0])
    assert source is KINDS[kind][1](layer)
    source.data.add_(torch.linspace(-0.3, 0.3, source.numel()).view_as(source).roll(1, 0))
    got = net(values)
    assert torch.equal(got, net(values))
    restore(net)
    assert net[0] is layer
    changed = net(values)
    assert relative(changed, expected) > 0.01
    assert relative(got, changed) < 0.03
    assert list(net.state_dict()) == keys


@pytest.mark.parametrize("kind", ["old weight_norm", "weight_norm", "prune", "spectral_norm"])
@torch.no_grad()
def test_state_dicts_conversions_and_folders(kind, twin, generator, tmp_path):
    net, values = make(kind), torch.randn(6, 12, generator=generator)
    net(values)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    offload(net, twin, calibration=lambda m: m(values))
    got = net(values)
    source = KINDS[kind][1](net[0])
    source.data.add_(torch.linspace(-0.3, 0.3, source.numel()).view_as(source).roll(1, 0))
    assert not torch.equal(net(values), got)
    net.load_state_dict(state)
    assert torch.equal(net(values), got)
    save_offloaded(net, tmp_path)
    other = make(kind)
    other(values)
    KINDS[kind][1](other[0]).data *= 2
    load_offloaded(other, twin, tmp_path)
    assert torch.equal(other(values), got)
    net.double().float()
    assert relative(net(values), got) < 1e-3


@torch.no_grad()
def test_a_weight_that_changes_with_each_reading_is_compared_as_it_was_used(twin, generator):
    """A spectral norm that is being trained does another step of its power iteration each time."""
    net, values = make("spectral_norm").train(), torch.randn(6, 12, generator=generator)
    assert relative(net[0].weight, net[0].weight) > 0
    offload(net, twin, calibration=lambda m: m(values), unsupported="refuse")
    assert relative(net(values), net.eval()(values)) < 0.03


@torch.no_grad()
def test_a_parametrised_weight_can_be_cached(twin, generator):
    net, values = make("weight_norm"), torch.randn(6, 12, generator=generator)
    net(values)
    offload(net, twin, calibration=lambda m: m(values))
    expected = net(values)
    assert parametrize.is_parametrized(net[0], "weight")
    with parametrize.cached():
        assert torch.equal(net(values), expected)
