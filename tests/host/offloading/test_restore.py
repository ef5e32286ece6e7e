"""`restore` takes back what its own `offload` did, and nothing else."""

from __future__ import annotations

import copy
import io
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, offload, report, restore
from brownout.host.offloading import OffloadedLinear


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, values):
        heads = self.linear(values)[None]
        return F.scaled_dot_product_attention(heads, heads, heads)[0]


@pytest.fixture
def nested(twin, config, generator):
    """The first of two blocks on one accelerator, the rest on another; expected outputs."""
    torch.manual_seed(8)
    net = nn.Sequential(Block(), Block(), nn.Linear(8, 4)).requires_grad_(False)
    values = torch.randn(6, 8, generator=generator)
    expected = net(values)
    with Accelerator(config, backend="twin") as other:
        offload(net[0], twin, calibration=lambda m: m(values))
        offload(net, other, calibration=lambda m: m(values))
        yield net, values, expected, twin, other


def kinds(net):
    return [type(layer) is OffloadedLinear for layer in (net[0].linear, net[1].linear, net[2])]


def owners(net):
    return ["offloaded_attention" in block._modules for block in net[:2]]


def test_parts_on_two_accelerators_count_apart(nested):
    net, values, expected, first, second = nested
    assert [each.name for each in report(net)] == ["1.qk", "1.pv", "1.linear", "2"]
    for accelerator in (first, second):
        accelerator.reset_stats()
    assert (net(values) - expected).norm() < 0.05 * expected.norm()
    one = 6 * 8 * 8 + 6 * 6 * (8 + 8)
    assert (first.stats["macs"], second.stats["macs"]) == (one, one + 6 * 8 * 4)


@pytest.mark.parametrize("order", ["outer first", "inner first"])
def test_each_restores_its_own(order, nested):
    net, values, expected, first, second = nested
    if order == "outer first":
        restore(net)
        assert (kinds(net), owners(net)) == ([True, False, False], [True, False])
        first.reset_stats()
        net(values)
        assert first.stats["macs"] == 6 * 8 * 8 + 6 * 6 * (8 + 8)
        restore(net[0])
    else:
        restore(net[0])
        assert (kinds(net), owners(net)) == ([False, True, True], [False, True])
        second.reset_stats()
        net(values)
        assert second.stats["macs"] == 6 * 8 * 8 + 6 * 6 * (8 + 8) + 6 * 8 * 4
        restore(net)
    assert (kinds(net), owners(net)) == ([False] * 3, [False] * 2)
    assert torch.equal(net(values), expected)
    # Nothing is left to restore, which does no harm.
    restore(net)


def test_what_another_call_offloaded_is_not_restored_silently(nested):
    net, *_ = nested
    message = (
        "Block was not offloaded itself, but as a part of another module (its 'linear' runs on "
        "Accelerator(4x4, backend='twin')); restore that"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        restore(net[1])
    restore(net)
    with pytest.raises(ValueError, match=r"^Sequential was not offloaded, but its parts '0' were; restore those$"):
        restore(net)
    assert kinds(net) == [True, False, False]


def test_a_layer_in_two_parts_is_restored_in_each(twin, config, generator):
    net, values = nn.Sequential(Block(), Block()).requires_grad_(False), torch.randn(6, 8, generator=generator)
    shared = net[1].linear = net[0].linear
    with Accelerator(config, backend="twin") as other:
        offload(net[0], twin, calibration=lambda m: m(values))
        offload(net, other, calibration=lambda m: m(values))
        assert net[0].linear is not net[1].linear
        restore(net[0])
        assert net[0].linear is shared
        assert type(net[1].linear) is OffloadedLinear
        restore(net)
    assert net[1].linear is shared


def test_a_forward_that_was_put_over_the_offloaded_one_stays(twin, generator):
    net, values = Block().requires_grad_(False), torch.randn(6, 8, generator=generator)
    expected = net(values)
    offload(net, twin, calibration=lambda m: m(values))
    net.forward = lambda x, inner=net.forward: inner(x) + 1
    restore(net)
    assert torch.equal(net(values), expected + 1)


def test_copies_say_what_to_use_instead(nested):
    net, values, _, first, _ = nested
    before = net(values)
    advice = (
        "cannot be copied or pickled, because its weights are on an accelerator; keep the model with "
        "save_offloaded(model, folder) and load it with load_offloaded(float_model, accelerator, folder), or call "
        "restore(model) first and copy the float model"
    )
    for attempt in (copy.deepcopy, pickle.dumps, lambda m: torch.save(m, io.BytesIO())):
        for each in (net, net[2], net[0].offloaded_attention):
            with pytest.raises(TypeError, match=f"^Offloaded[A-Za-z]+ {re.escape(advice)}$"):
                attempt(each)
        with pytest.raises(TypeError, match=r"^an Accelerator cannot be copied or pickled, .* open another one with"):
            attempt(first)
    assert torch.equal(net(values), before)
    restore(net)
    restore(net[0])
    assert torch.equal(copy.deepcopy(net)(values), net(values))
