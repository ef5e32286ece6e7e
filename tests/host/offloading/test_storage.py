"""Offloaded models in a folder; whole models of diffusers are in test_models."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from brownout.host import load_offloaded, offload, save_offloaded


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 4)

    def forward(self, values):
        return self.last(self.norm(self.first(values)))


class Other(Net):
    pass


@pytest.fixture
def folder(twin, generator, tmp_path):
    torch.manual_seed(1)
    net = Net().requires_grad_(False)
    values = torch.randn(5, 4, generator=generator)
    offload(net, twin, calibration=lambda m: m(values), filter_fn=lambda layer, name: name == "first")
    save_offloaded(net, tmp_path / "saved")
    return tmp_path / "saved", values, net(values)


def test_only_what_was_offloaded_is_offloaded_again(folder, twin):
    path, values, expected = folder
    net = Net().requires_grad_(False)
    load_offloaded(net, twin, path)
    assert isinstance(net.last, nn.Linear)
    assert torch.equal(net(values), expected)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Other(), "{0} holds a Net, not a Other"),
        (
            Net(width=6),
            "{0} does not fit this Net: 'first.bias' has shape (8,) there and (6,) here; "
            "make the model with the configuration that it was saved with",
        ),
    ],
)
def test_another_architecture_is_refused_and_stays_as_it_is(net, message, folder, twin):
    path, values, _ = folder
    before = net(values)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path))}$"):
        load_offloaded(net, twin, path)
    assert torch.equal(net(values), before)


def test_a_layer_that_is_not_there_or_is_something_else_is_named(folder, twin):
    path, _, _ = folder
    net = Net()
    net.first = nn.Identity()
    with pytest.raises(ValueError, match=r" has 'first' as 'linear', but here it is Identity$"):
        load_offloaded(net, twin, path)
    del net.first
    with pytest.raises(ValueError, match=r" has a layer 'first', which this Net lacks; make the model with"):
        load_offloaded(net, twin, path)


def test_files_of_another_kind_are_refused(folder, twin):
    path, _, _ = folder
    (path / "calibration.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"holds 'offloaded model', not 'calibration'$"):
        load_offloaded(Net(), twin, path)


def test_a_float_model_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match=r"^Net is not offloaded; call offload first$"):
        save_offloaded(Net(), tmp_path)
