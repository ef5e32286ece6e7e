"""Layers that are more than their weights stay in float or are refused; what nobody can offload is named."""

from __future__ import annotations

import re
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import OffloadError, OffloadWarning, calibrate, offload, report


class Standardised(nn.Conv2d):
    """Weight standardisation, as in several public diffusion U-Nets."""

    def forward(self, image):
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
        return self._conv_forward(image, (self.weight - mean) * (variance + 1e-5).rsqrt(), self.bias)


class Own(nn.Conv2d):
    """Changes what `forward` calls."""

    def _conv_forward(self, image, weight, bias):
        return super()._conv_forward(image, weight * 3, bias)


class Equalised(nn.Linear):
    """Equalised learning rate."""

    def forward(self, values):
        return F.linear(values, self.weight * 0.05, self.bias)


class Plain(nn.Linear):
    """Only a name of its own."""


def linear():
    return nn.Linear(12, 12)


def replaced():
    layer = linear()
    layer.forward = lambda values, float_=layer.forward: float_(values) * 3
    return layer


def spectral():
    return nn.utils.parametrizations.spectral_norm(linear())


CASES = {
    "own forward": (lambda: Equalised(12, 12), "Equalised has a forward of its own"),
    "replaced": (replaced, "its forward was replaced (by accelerate, peft, or a fault injector, for example)"),
}


def net_of(layer):
    torch.manual_seed(1)
    return nn.Sequential(layer, nn.GELU(), nn.Linear(12, 12)).requires_grad_(False).eval()


def quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OffloadWarning)
        return function(*args, **kwargs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stored", [False, True])
def test_a_layer_that_is_more_than_its_weights_stays_in_float_and_is_listed(case, stored, twin, generator):
    make, reason = CASES[case]
    torch.manual_seed(1)
    layer = make()
    net, values = net_of(layer), torch.randn(6, 12, generator=generator)
    expected, first = net(values), layer(values)
    calibration = calibrate(net, lambda m: m(values)) if stored else lambda m: m(values)
    model = quietly(offload, net, twin, calibration=calibration)
    assert net[0] is layer
    assert torch.equal(net[0](values), first)
    assert (net(values) - expected).norm() < 0.03 * expected.norm()
    (left,) = model.left_in_float
    assert (left.name, left.kind, left.macs, left.share) == ("0", type(layer).__name__, 6 * 12 * 12, 0.5)
    assert left.reason == reason
    assert [each.name for each in report(net)] == ["2"]
    assert report(net).left_in_float == model.left_in_float
    assert f"'0' ({left.kind}, 50 % of MACs): {reason}" in str(report(net))


@pytest.mark.parametrize("case", CASES)
def test_such_layers_are_refused_by_name_with_the_filter_that_excludes_them(case, twin, generator):
    make, reason = CASES[case]
    layer = make()
    net, values = net_of(layer), torch.randn(6, 12, generator=generator)
    message = (
        f"1 layers cannot be offloaded ('0': {reason}); exclude them with "
        "filter_fn=lambda layer, name: name != '0', or let them stay in float with unsupported=\"float\""
    )
    with pytest.raises(OffloadError, match=f"^{re.escape(message)}$") as caught:
        offload(net, twin, calibration=lambda m: m(values), unsupported="refuse")
    assert caught.value.layer == "0"
    assert net[0] is layer
    assert type(net[2]) is nn.Linear
    offload(net, twin, calibration=lambda m: m(values), unsupported="refuse", filter_fn=lambda layer, name: name != "0")
    assert [each.name for each in report(net)] == ["2"]


def test_an_output_that_its_weights_do_not_give_is_found_by_comparison(twin, generator, monkeypatch):
    """A patch of the class itself cannot be seen without a call."""
    float_ = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: float_(self, x) * (1 + 1e-3 * (self.out_features == 12)))
    net = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 9)).requires_grad_(False)
    values = torch.randn(6, 12, generator=generator)
    with pytest.warns(OffloadWarning, match=r"its output is not what its weights give: it differs from it by up to "):
        offload(net, twin, calibration=lambda m: m(values))
    assert [each.name for each in report(net)] == ["1"]
    with pytest.raises(OffloadError, match=r"'0': its output is not what its weights give"):
        offload(nn.Sequential(nn.Linear(12, 12)), twin, calibration=lambda m: m(values), unsupported="refuse")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_difference(dtype, twin, generator, monkeypatch):
    """The same sum in pieces, as other kernels add it up."""

    def pieces(self, x):
        half = self.in_features // 2
        first = F.linear(x[:, :half].double(), self.weight[:, :half].double())
        second = F.linear(x[:, half:].double(), self.weight[:, half:].double(), self.bias.double())
        return (first + second).to(x.dtype)

    monkeypatch.setattr(nn.Linear, "forward", pieces)
    net = nn.Sequential(nn.Linear(256, 32)).requires_grad_(False).to(dtype)
    values = torch.randn(40, 256, generator=generator).to(dtype)
    assert not offload(net, twin, calibration=lambda m: m(values)).left_in_float


def test_subclasses_without_code_of_their_own_are_offloaded(twin, generator):
    net, values = net_of(Plain(12, 12)), torch.randn(6, 12, generator=generator)
    assert not offload(net, twin, calibration=lambda m: m(values), unsupported="refuse").left_in_float


def test_a_model_all_of_whose_layers_stay_in_float_is_as_it_was(twin, generator):
    net = nn.Sequential(Standardised(2, 2, 3), Own(2, 2, 3, padding_mode="reflect")).requires_grad_(False)
    image = torch.randn(1, 2, 8, 8, generator=generator)
    expected = net(image)
    with pytest.warns(OffloadWarning, match=r"^100 % of the model's MACs stay in float: "):
        model = offload(net, twin, calibration=lambda m: m(image))
    assert torch.equal(net(image), expected)
    assert {each.name: each.reason for each in model.left_in_float} == {
        "0": "Standardised has a forward of its own",
        "1": "Own has a _conv_forward of its own",
    }


class Branches(nn.Module):
    """Calls one of its layers in some evaluations only."""

    def __init__(self):
        super().__init__()
        self.always, self.seldom = nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, values, seldom=False):
        return self.seldom(self.always(values)) if seldom else self.always(values)


@pytest.mark.parametrize("stored", [False, True])
def test_a_layer_that_calibration_did_not_call_stays_in_float(stored, twin, generator):
    torch.manual_seed(2)
    net, values = Branches().requires_grad_(False), torch.randn(6, 12, generator=generator)
    expected, layer = net(values, seldom=True), net.seldom
    calibration = calibrate(net, lambda m: m(values)) if stored else lambda m: m(values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = offload(net, twin, calibration=calibration)
    assert net.seldom is layer
    assert (net(values, seldom=True) - expected).norm() < 0.03 * expected.norm()
    (left,) = model.left_in_float
    assert (left.name, left.macs, left.reason) == ("seldom", 0, "calibration did not call it")
    with pytest.raises(OffloadError, match=r"^1 layers cannot be offloaded \('seldom': calibration did not call it\)"):
        offload(Branches(), twin, calibration=lambda m: m(values), unsupported="refuse")


class Foreign(torch.Tensor):
    """Looks like the weight of a library that quantises."""


def test_weights_of_other_libraries_are_named(twin):
    net = nn.Sequential(nn.Linear(4, 4))
    net[0].weight = nn.Parameter(net[0].weight.detach().as_subclass(Foreign))
    with pytest.raises(OffloadError, match=r"^the weight of layer '0' is a Foreign, whose values only its own library"):
        offload(net, twin, calibration=lambda m: None)
    net[0].weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(OffloadError, match=r"^the weight of layer '0' is torch.int8, not floating-point; offload the"):
        calibrate(net, lambda m: None)


def test_models_without_values_are_named(twin):
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(OffloadError, match=r"^'0.weight' is on the meta device and has no values; load the model's"):
        offload(net, twin, calibration=lambda m: None)


@pytest.mark.parametrize("wrap", [lambda hook: hook, lambda hook: types.SimpleNamespace(hooks=(hook,))])
def test_sequential_cpu_offload_is_named(wrap, twin):
    """As accelerate marks it; weights are on the meta device between calls."""
    net = nn.Sequential(nn.Linear(4, 4)).to("meta")
    net[0]._hf_hook = wrap(types.SimpleNamespace(offload=True))
    with pytest.raises(OffloadError, match=r"^'0' has its weights elsewhere between calls \(accelerate's sequential"):
        offload(net, twin, calibration=lambda m: None)


def test_an_unknown_choice_is_refused(twin):
    with pytest.raises(ValueError, match=r"^unsupported must be one of 'float', 'refuse', not 'skip'$"):
        offload(nn.Sequential(nn.Linear(4, 4)), twin, calibration=lambda m: None, unsupported="skip")
