"""A model that offloading breaks is put back, and nothing of the trial remains."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, AcceleratorClosedError, OffloadError, calibrate, offload, report, restore
from brownout.host.errors import NonFiniteError
from brownout.host.offloading import OffloadedLinear
from brownout.hw.config import AcceleratorConfig

from ..small import CONFIG


class Strict(nn.Module):
    """Its code wants a float layer; `fails` is the kind of evaluation in which it does not get along with another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.block = nn.ModuleDict({"first": nn.Linear(8, 8), "last": nn.Linear(8, 8)})

    def forward(self, values):
        if type(self.block["last"]) is not nn.Linear:
            raise RuntimeError("I want a Linear")
        return self.block["last"](self.block["first"](values))


def everything(accelerator):
    return dict(accelerator.stats), dict(accelerator.check_counts), accelerator.state().values


def test_a_model_that_cannot_be_evaluated_is_put_back_and_the_layers_are_named(twin, generator):
    net, values = Strict().requires_grad_(False), torch.randn(4, 8, generator=generator)
    layers = list(net.block.values())
    message = (
        "Strict cannot be evaluated with its layers offloaded, and is as before: in '' (Strict, which holds "
        "'block.first', 'block.last'), RuntimeError: I want a Linear; if that is code which needs float layers, "
        "exclude them with filter_fn=lambda layer, name: name not in {'block.first', 'block.last'}"
    )
    with pytest.raises(OffloadError, match=f"^{re.escape(message)}$"):
        offload(net, twin, calibration=lambda m: m(values))
    assert [*net.block.values()] == layers
    assert not net._forward_pre_hooks
    assert not len(twin._device._layout.resident)


@pytest.mark.parametrize("backend", ["twin", pytest.param("rtl", marks=pytest.mark.rtl)])
def test_with_a_stored_calibration_the_first_call_finds_out_and_counts_nothing(backend, generator):
    net, values = Strict().requires_grad_(False), torch.randn(4, 8, generator=generator)
    expected, layers = net(values), list(net.block.values())
    with Accelerator(CONFIG, backend=backend) as accelerator:
        offload(net, accelerator, calibration=calibrate(net, lambda m: m(values)))
        before = everything(accelerator)
        with pytest.raises(OffloadError, match=r"^Strict cannot be evaluated with its layers offloaded, and is as be"):
            net(values)
        assert everything(accelerator) == before
        assert [*net.block.values()] == layers
        assert torch.equal(net(values), expected)


class Two(nn.Module):
    """A layer, attention and dropout; counts its evaluations by random numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.linear = nn.Linear(8, 8)

    def forward(self, values):
        heads = self.linear(values).view(1, 2, -1, 4)
        return F.scaled_dot_product_attention(heads, heads, heads) + torch.rand(1)


@pytest.mark.parametrize("stored", [False, True])
def test_nothing_of_a_trial_remains(stored, generator):
    """Errors are drawn by key, and keys count evaluations: the first call is as if there had been no trial."""
    values = torch.randn(4, 8, generator=generator)
    config = AcceleratorConfig(rows=4, cols=4, timing_model="flip")
    seen = []
    with Accelerator(config, backend="twin") as accelerator:
        accelerator.set_error_rate(1e-3, seed=5)
        net = Two().requires_grad_(False)
        net.linear.register_forward_hook(lambda *_: hooked.append(1))
        hooked = []
        calibration = calibrate(net, lambda m: m(values)) if stored else lambda m: m(values)
        before = everything(accelerator)
        hooked.clear()
        model = offload(net, accelerator, calibration=calibration, observer=lambda name, _: seen.append(name))
        assert len(hooked) == (0 if stored else 2)
        after = everything(accelerator)
        assert after[:2] == before[:2]
        state = torch.random.get_rng_state()
        torch.rand(1)
        net_state = torch.random.get_rng_state()
        torch.random.set_rng_state(state)
        hooked.clear()
        net(values)
        assert torch.equal(torch.random.get_rng_state(), net_state)
        assert len(hooked) == 1
        assert seen == ["linear", ".qk", ".pv"]
        assert [each.calls for each in report(net)] == [1, 1, 1]
        assert [each.evaluations for each in model.products] == [{0: 1}] * 3
        assert accelerator.stats["macs"] == sum(each.macs for each in report(net))


def test_a_call_that_fails_in_float_too_is_the_callers_fault(twin, generator):
    net, values = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False), torch.randn(4, 8, generator=generator)
    offload(net, twin, calibration=calibrate(net, lambda m: m(values)))
    with pytest.raises(TypeError, match="positional argument"):
        net(values, values)
    assert [each.calls for each in report(net)] == [0]
    net(values)
    assert [each.calls for each in report(net)] == [1]


def test_bad_weights_and_closed_accelerators_are_no_fault_of_offloading(config, generator):
    net, values = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False), torch.randn(4, 8, generator=generator)
    with Accelerator(config, backend="twin") as accelerator:
        offload(net, accelerator, calibration=calibrate(net, lambda m: m(values)))
        net[0].weight[0, 0] = torch.nan
        with pytest.raises(NonFiniteError, match=r"layer '0'"):
            net(values)
        net[0].weight[0, 0] = 1
        net(values)
        restore(net)
        offload(net, accelerator, calibration=calibrate(net, lambda m: m(values)))
    with pytest.raises(AcceleratorClosedError):
        net(values)
    assert type(net[0]) is OffloadedLinear


def test_hooks_without_which_the_model_cannot_be_evaluated_are_called(twin, generator):
    net, values = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False), torch.randn(4, 8, generator=generator)
    net[0].register_forward_pre_hook(lambda _, args: (args[0].view(-1, 8),))
    flat = values.view(2, 16)
    expected = net(flat)
    offload(net, twin, calibration=lambda m: m(flat))
    assert (net(flat) - expected).norm() < 0.02 * expected.norm()


class Parts(nn.Module):
    """Has no forward, as some autoencoders."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), Strict()

    def decode(self, values):
        return self.decoder(values)


def test_a_model_whose_parts_are_called_is_tried_as_it_was_calibrated(twin, generator):
    net, values = Parts().requires_grad_(False), torch.randn(4, 8, generator=generator)
    with pytest.raises(OffloadError, match=r"^Parts cannot be evaluated with its layers offloaded, and"):
        offload(net, twin, calibration=lambda m: m.decode(values))
    assert type(net.decoder.block["first"]) is nn.Linear


def test_threads_wait_for_the_trial(twin, generator):
    net, values = nn.Sequential(nn.Linear(8, 8)).requires_grad_(False), torch.randn(4, 8, generator=generator)
    model = offload(net, twin, calibration=calibrate(net, lambda m: m(values)))
    with ThreadPoolExecutor(4) as pool:
        first, *others = [each.result(60) for each in [pool.submit(net, values) for _ in range(8)]]
    assert all(torch.equal(first, other) for other in others)
    # All of them were counted, and by the accelerator too.
    assert [each.calls for each in report(net)] == [8]
    assert twin.stats["macs"] == 8 * 4 * 8 * 8
    assert not model.awaits_trial
