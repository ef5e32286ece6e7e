"""Hooks, tensors and attributes of a float layer stay with the offloaded one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from brownout.host import calibrate, offload, restore
from brownout.host.offloading import OffloadedLinear


def net_of(*layers):
    return nn.Sequential(*layers).requires_grad_(False).eval()


def make():
    torch.manual_seed(9)
    return net_of(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 4))


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def test_hooks_change_what_a_layer_gets_and_gives_as_in_float(twin, generator):
    net, values = make(), torch.randn(6, 8, generator=generator)
    net[0].register_forward_pre_hook(lambda _, args: (args[0] * 3,))
    net[0].register_forward_hook(lambda _, args, out: out * args[0].sign())
    net[2].register_forward_hook(lambda _, args, out: out + 5)
    expected = net(values)
    found = calibrate(net, lambda m: m(values), method="absmax")
    assert found.layers["0"].scales.item() == pytest.approx(3 * values.abs().max().item() / 127)
    # Of the layer itself, which a hook after it does not worsen.
    assert all(layer.sqnr_db > 30 for layer in found.layers.values())
    model = offload(net, twin, calibration=found)
    assert not model.left_in_float
    assert relative(net(values), expected) < 0.01
    restore(net)
    assert torch.equal(net(values), expected)


def test_order_and_arguments_of_hooks_are_those_of_float(twin, generator):
    net, values = make(), torch.randn(6, 8, generator=generator)
    seen = []

    def note(name):
        def hook(module, args, *rest):
            shapes = [(tuple(x.shape) if isinstance(x, torch.Tensor) else x) for x in (*args, *rest)]
            seen.append((name, module.in_features, shapes))

        return hook

    first = net[0]
    first.register_forward_pre_hook(note("pre"))
    first.register_forward_pre_hook(note("pre with kwargs"), with_kwargs=True, prepend=True)
    first.register_forward_hook(note("hook with kwargs"), with_kwargs=True)
    first.register_forward_hook(note("always"), always_call=True, prepend=True)
    first.register_full_backward_hook(note("backward"))
    handles = [register_module_forward_pre_hook(lambda m, a: note("global pre")(m, a) if m is net[0] else None)]
    handles.append(register_module_forward_hook(lambda m, a, r: note("global")(m, a, r) if m is net[0] else None))
    try:
        net(values)
        expected = list(seen)
        offload(net, twin, calibration=calibrate(net, lambda m: m(values)))
        seen.clear()
        net(values)
        assert seen == expected
        assert len(seen) == 6
    finally:
        for handle in handles:
            handle.remove()


def test_a_hook_that_is_always_called_sees_an_error_too(twin, generator):
    net, values, seen = make(), torch.randn(6, 8, generator=generator), []
    net[0].register_forward_hook(lambda *_: seen.append(1), always_call=True)
    offload(net, twin, calibration=lambda m: m(values))
    seen.clear()
    with pytest.raises(TypeError, match="floating-point"):
        net(values.int())
    assert seen == [1]


def test_handles_hold_on_both_sides(twin, generator):
    net, values = make(), torch.randn(6, 8, generator=generator)
    plain, layer = net(values), net[0]
    before = layer.register_forward_hook(lambda _, args, out: out * 2)
    offload(net, twin, calibration=lambda m: m(values))
    assert relative(net(values), plain) > 0.3
    before.remove()
    assert relative(net(values), plain) < 0.02
    during = net[0].register_forward_hook(lambda _, args, out: out * 2)
    doubled = net(values)
    restore(net)
    assert net[0] is layer
    assert relative(net(values), doubled) < 0.02
    during.remove()
    assert torch.equal(net(values), plain)


class Tagged(nn.Linear):
    """Without code of its own in a call, but with more than weights."""

    def __init__(self):
        super().__init__(8, 8)
        self.tag, self.kept = "mine", nn.Linear(2, 2)
        self.register_buffer("mask", torch.ones(8))


def test_tensors_attributes_and_mode_are_still_there(twin, generator):
    net, values = net_of(Tagged(), nn.Conv2d(1, 1, 1)), torch.randn(6, 8, generator=generator)
    net.forward = lambda x: net[1](net[0](x)[None, None])
    layer, keys = net[0], list(net.state_dict())
    assert {"0.mask", "0.kept.weight"} <= set(keys)
    offload(net, twin, calibration=lambda m: m(values))
    ours = net[0]
    assert type(ours) is OffloadedLinear
    assert (ours.tag, ours.mask is layer.mask, ours.kept is layer.kept) == ("mine", True, True)
    assert (ours.in_features, net[1].in_channels, net[1].kernel_size) == (8, 1, (1, 1))
    assert set(keys) <= set(net.state_dict())
    assert not ours.training
    net.train()
    restore(net)
    assert layer.training
    assert list(net.state_dict()) == keys


def test_input_may_be_given_by_name(twin, generator):
    net, values = make(), torch.randn(6, 8, generator=generator)
    net.forward = lambda x: net[2](input=net[0](input=x))
    expected = net(values)
    offload(net, twin, calibration=lambda m: m(values))
    assert relative(net(values), expected) < 0.02
