"""Weights of offloaded layers have one truth: what is written to them is used, in whatever way it was written."""

from __future__ import annotations

import copy
import gc
import io
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, parametrize, prune, vector_to_parameters

from brownout.host import Accelerator, Protection, calibrate, load_offloaded, offload, restore, save_offloaded
from brownout.hw.config import ChecksumConfig


def make(kind="linear", seed=5):
    torch.manual_seed(seed)
    layer = nn.Linear(12, 6) if kind == "linear" else nn.Conv2d(4, 6, (1, 3), groups=2)
    return nn.Sequential(layer).requires_grad_(False)


@pytest.fixture
def values(generator):
    return torch.randn(5, 12, generator=generator)


@pytest.fixture
def calibration(values):
    return calibrate(make(), lambda m: m(values), method="absmax", measure_error=False)


def product(values, layer, weight, bias):
    """What an int8 product with these float weights gives, in float64."""
    step = layer.input_scale.item()
    x = np.clip(np.round(values.double().numpy() / step), -128, 127)
    w = np.asarray(weight, dtype=np.float64)
    scale = np.abs(w).max(1, keepdims=True) / 127
    scale[scale == 0] = 1
    return x @ np.round(w / scale).T * scale.T * step + np.asarray(bias, dtype=np.float64)


DELTA = torch.linspace(-1, 1, 72).view(6, 12)


def swap(layer):
    new = nn.Parameter(layer.weight.detach().clone() + DELTA, requires_grad=False)
    torch.utils.swap_tensors(layer.weight, new)


def assign(layer):
    layer.weight = nn.Parameter(layer.weight + DELTA, requires_grad=False)


def set_data(layer):
    layer.weight.data = layer.weight.data + DELTA


def row_by_row(layer):
    for row, delta in zip(layer.weight, DELTA, strict=True):
        row.add_(delta)


def optimise(layer, **options):
    parameters = [each.requires_grad_() for each in layer.parameters()]
    layer.weight.grad = -DELTA.clone()
    torch.optim.SGD(parameters, lr=1.0, **options).step()
    layer.weight.grad = None
    layer.requires_grad_(False)


def average(layer):
    shadow = [each.clone() for each in layer.parameters()]
    shadow[0] += DELTA
    for parameter, value in zip(layer.parameters(), shadow, strict=True):
        parameter.data.copy_(value)


def vector(layer):
    flat = parameters_to_vector(layer.parameters())
    flat[:72] += DELTA.flatten()
    vector_to_parameters(flat, layer.parameters())


def scripted(layer):
    @torch.jit.script
    def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.add_(y)

    add(layer.weight, DELTA)


def in_inference_mode(layer):
    with torch.inference_mode():
        layer.weight[:3] += DELTA[:3]
        layer.weight.view(-1)[36:].add_(DELTA[3:].flatten())


def state(layer):
    layer.load_state_dict({"weight": layer.weight + DELTA, "bias": layer.bias.clone()})


def assigned_state(layer):
    layer.load_state_dict({"weight": layer.weight + DELTA, "bias": layer.bias.clone()}, assign=True)


def put(layer):
    layer._parameters["weight"] = nn.Parameter(layer.weight + DELTA)


WRITES = {
    "add_": lambda layer: layer.weight.add_(DELTA),
    "data.add_": lambda layer: layer.weight.data.add_(DELTA),
    "detach().copy_": lambda layer: layer.weight.detach().copy_(layer.weight + DELTA),
    "data = ": set_data,
    "t().add_": lambda layer: layer.weight.t().add_(DELTA.t()),
    "row by row": row_by_row,
    "out=": lambda layer: torch.add(layer.weight, DELTA, out=layer.weight.data),
    "set_": lambda layer: layer.weight.set_(layer.weight + DELTA),
    "foreach": lambda layer: torch._foreach_add_([layer.weight.data], [DELTA]),
    "SGD": optimise,
    "fused SGD": lambda layer: optimise(layer, fused=True),
    "average": average,
    "vector": vector,
    "script": scripted,
    "inference mode": in_inference_mode,
    "assigned": assign,
    "in the parameters": put,
    "swapped": swap,
    "state": state,
    "assigned state": assigned_state,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_used_by_the_next_product_and_by_restore(write, twin, values, calibration):
    net = make()
    linear = net[0]
    original = linear.weight.clone()
    wanted = original + DELTA
    offload(net, twin, calibration=calibration)
    before = net(values)
    assert torch.equal(net[0].weight, original)
    write(net[0])
    torch.testing.assert_close(net[0].weight.detach().clone(), wanted)
    got = net(values)
    assert not torch.equal(got, before)
    np.testing.assert_allclose(got, product(values, net[0], wanted, linear.bias), rtol=1e-5, atol=1e-5)
    assert torch.equal(net.state_dict()["0.weight"].abs().amax(1), torch.full((6,), 127, dtype=torch.int8))
    restore(net)
    assert net[0] is linear
    assert type(linear.weight) is nn.Parameter
    torch.testing.assert_close(linear.weight.detach(), wanted)


def test_what_was_kept_from_before_writes_to_the_same_weights(twin, values, calibration):
    net = make()
    parameter = net[0].weight
    reference, data = weakref.ref(parameter), parameter.data
    offload(net, twin, calibration=calibration)
    before = parameter.clone()
    for write in (
        lambda: parameter.data.add_(DELTA),
        lambda: reference().add_(DELTA),
        lambda: parameter[2:].copy_(parameter[2:] + 1),
    ):
        write()
        np.testing.assert_allclose(net(values), product(values, net[0], parameter, net[0].bias), rtol=1e-5, atol=1e-5)
    assert torch.equal(net[0].weight, parameter)
    assert not torch.equal(parameter, before)
    assert torch.equal(data, parameter)
    assert isinstance(parameter, nn.Parameter)
    assert type(copy.deepcopy(parameter)) is nn.Parameter
    restore(net)
    assert net[0].weight is parameter
    assert type(parameter) is nn.Parameter


def test_memory_that_could_be_written_to_unseen_is_not_given_away(twin, values, calibration):
    net = make()
    offload(net, twin, calibration=calibration)
    weight = net[0].weight
    expected = weight.clone().numpy()
    for array in (weight.numpy(), np.asarray(weight), weight.data[1:].numpy()):
        np.testing.assert_array_equal(array, expected[-len(array) :])
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            array.flags.writeable = True
    for name, get in {
        "data_ptr": lambda: weight.data_ptr(),
        "untyped_storage": lambda: weight.data.untyped_storage().fill_(1),
        "__dlpack__": lambda: torch.from_dlpack(weight),
        "share_memory_": lambda: weight.share_memory_(),
        "resize_": lambda: weight.resize_(3),
    }.items():
        message = (
            f"{name} of an offloaded layer's weights could change them unseen; "
            "take a copy with clone(), or call restore first"
        )
        with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
            get()


def test_an_offloaded_model_can_be_traced_and_exported(twin, values, calibration):
    net = make()
    offload(net, twin, calibration=calibration)
    expected = net(values)
    with torch.no_grad():
        assert torch.equal(torch.jit.trace(net, values)(values), expected)
        assert torch.equal(torch.export.export(net, (values,)).module()(values), expected)


@pytest.mark.parametrize(
    ("new", "error", "message"),
    [
        (torch.ones(6, 11), ValueError, "stay of shape (6, 12) on cpu, so they cannot be of shape (6, 11) on cpu"),
        (torch.ones(6, 12, dtype=torch.int8), TypeError, "must be floating-point, not torch.int8"),
    ],
)
def test_data_of_another_kind_is_refused(new, error, message, twin, values, calibration):
    net = make()
    offload(net, twin, calibration=calibration)
    before = net(values)
    with pytest.raises(error, match=re.escape(f"weights of an offloaded layer {message}")):
        net[0].weight.data = new
    assert torch.equal(net(values), before)


def test_who_reads_weights_gets_those_of_the_float_layer(twin, values, calibration):
    net = make()
    linear = net[0]
    offload(net, twin, calibration=calibration)
    weight = net[0].weight
    assert isinstance(weight, nn.Parameter)
    assert (weight.dtype, weight.shape, weight.device) == (torch.float32, (6, 12), torch.device("cpu"))
    assert next(net.parameters()).dtype == torch.float32
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias"]
    plain = nn.functional.linear(values, linear.weight.clone(), linear.bias)
    with torch.inference_mode():
        assert torch.equal(nn.functional.linear(values, weight, net[0].bias), plain)
    assert torch.equal(torch.addmm(net[0].bias, values, weight.t()), plain)
    assert weight.tolist() == linear.weight.tolist()
    assert repr(weight) == f"Parameter containing:\n{linear.weight.detach().clone()}"
    for copied in (copy.deepcopy(weight), torch.load(io.BytesIO(saved(weight)))):
        assert type(copied) is nn.Parameter
        assert torch.equal(copied, weight)

    class Reader(nn.Module):
        def forward(self, x):
            return net(x.to(net[0].weight.dtype))

    compiled = torch.compile(Reader(), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values.double()), net(values))
    weight.mul_(2)
    assert torch.equal(compiled(values.double()), net(values))


def saved(tensor):
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_float_and_int8_state_dicts_are_loaded(kind, twin, generator):
    shape = (5, 12) if kind == "linear" else (2, 4, 3, 6)
    values = torch.randn(shape, generator=generator)
    nets = [make(kind), make(kind, seed=6)]
    floats = nets[1].state_dict()
    floats = {name: each.clone() for name, each in floats.items()}
    calibration = calibrate(nets[0], lambda m: m(values), smoothing=0.5, measure_error=False)
    for net in nets:
        offload(net, twin, calibration=calibration)
    expected, int8 = nets[1](values), nets[1].state_dict()
    for strict in (True, False):
        for loaded in (floats, int8):
            net = make(kind)
            offload(net, twin, calibration=calibration)
            assert not torch.equal(net(values), expected)
            assert str(net.load_state_dict(loaded, strict=strict)) == "<All keys matched successfully>"
            assert torch.equal(net(values), expected)
            assert torch.equal(net.state_dict()["0.weight"], int8["0.weight"])
            error = (net[0].weight - floats["0.weight"]).abs().flatten(1).amax(1)
            assert (error <= int8["0.weight_scale"] * 2).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.weight_scale"), "input_scale, weight cannot be loaded without weight_scale"),
        (lambda s: s.pop("0.weight"), "input_scale, weight_scale cannot be loaded without weight"),
        (
            lambda s: s.update({"0.weight": s["0.weight"].int()}),
            "weight has dtype torch.int32; it must be floating-point",
        ),
        (lambda s: s.update({"0.weight": s["0.weight"][:, 1:]}), "weight has shape (6, 11), not (6, 12)"),
        (lambda s: s["0.weight_scale"][2:].fill_(torch.nan), "weight_scale must be positive and finite"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_with_the_layers_name(change, message, twin, values, calibration):
    net = make()
    offload(net, twin, calibration=calibration)
    before = net(values)
    state = {name: each.clone() for name, each in net.state_dict().items()}
    change(state)
    with pytest.raises(RuntimeError, match=re.escape(f"layer '0': {message}")):
        net.load_state_dict(state, strict=False)
    assert torch.equal(net(values), before)


def test_channels_that_are_not_written_to_keep_the_integers_that_were_loaded(twin, values, calibration, tmp_path):
    net, other = make().half(), make(seed=6).half()
    offload(net, twin, calibration=calibration)
    save_offloaded(net, tmp_path)
    load_offloaded(other, twin, tmp_path)
    before = other.state_dict()
    before = {name: each.clone() for name, each in before.items()}
    other[0].weight[2].add_(1)
    after = other.state_dict()
    same = (after["0.weight"] == before["0.weight"]).all(1) & (after["0.weight_scale"] == before["0.weight_scale"])
    assert same.tolist() == [True, True, False, True, True, True]
    torch.testing.assert_close(other[0].weight[3:], make()[0].weight[3:].half(), rtol=0, atol=0.01)
    restore(other)
    assert torch.equal(other[0].weight, make(seed=6)[0].weight.half())


def test_weights_that_were_loaded_take_no_memory_until_they_are_read(twin, values, calibration):
    net, other = make(), make(seed=6)
    for each in (net, other):
        offload(each, twin, calibration=calibration)
    weight, writes = other[0].weight, other[0].weight.data
    other.load_state_dict(net.state_dict())
    other.half().state_dict()
    assert other[0]._source.is_made_later
    assert other[0].weight is weight
    expected = net.half()(values)
    assert torch.equal(other(values), expected)
    torch.testing.assert_close(weight.float(), net[0].weight.float(), rtol=0, atol=0.01)
    # A view of what was there before is none any more.
    writes.add_(1)
    assert torch.equal(other(values), expected)
    weight.add_(1)
    assert not torch.equal(other(values), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_with_the_layers_name(bad, twin, values, calibration):
    message = "layer '0' has NaN or infinite weights in output channel 4; load good ones, or exclude it with filter_fn"
    net = make()
    net[0].weight[4, 1] = bad
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        offload(net, twin, calibration=calibration)
    assert type(net[0]) is nn.Linear
    assert type(net[0].weight) is nn.Parameter
    net = make()
    offload(net, twin, calibration=calibration)
    expected, good = net(values), net[0].weight.clone()
    net[0].weight.data[4, 1] = bad
    for _ in range(2):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            net(values)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        net.state_dict()
    net[0].weight.copy_(good)
    assert torch.equal(net(values), expected)


def test_a_model_with_a_bad_weight_stays_as_it_was(twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).requires_grad_(False)
    values = torch.randn(3, 4, generator=generator)
    calibration = calibrate(net, lambda m: m(values))
    net[1].weight[1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"^layer '1' has NaN") as info:
        offload(net, twin, calibration=calibration)
    assert info.value is not None
    assert [type(each.weight) for each in net] == [nn.Parameter] * 2
    assert not twin._device._layout.resident


def test_sums_of_other_weights_are_no_history(config, values, calibration):
    net = make()
    protected = replace(config, timing_model="flip", checksum=ChecksumConfig(group_rows=8))
    with Accelerator(protected, backend="twin", protection=Protection(on_uncorrectable="suppress")) as accelerator:
        model = offload(net, accelerator, calibration=calibration)
        for _ in range(2):
            net(values)
        assert sum(model.history.ages.values()) == 1
        net[0].weight.mul_(2)
        net(values)
        assert sum(model.history.ages.values()) == 1
        net(values)
        assert sum(model.history.ages.values()) == 2


def test_conversions_are_those_of_the_float_layer_and_leave_the_integers(twin, values, calibration):
    net = make()
    linear, wanted = net[0], net[0].weight.clone()
    offload(net, twin, calibration=calibration)
    weight, expected = net[0].weight, net(values)
    net.double().half()
    assert net[0].weight is weight
    assert weight.dtype == net[0].bias.dtype == torch.float16
    assert torch.equal(weight, wanted.half())
    assert (net(values) - expected).abs().max() < 1e-3
    weight.add_(1)
    assert not torch.allclose(net(values), expected, atol=0.1)
    restore(net)
    assert linear.weight.dtype == linear.bias.dtype == torch.float16


def test_shared_weights_stay_shared(twin, generator):
    torch.manual_seed(1)
    net = nn.ModuleDict({"first": nn.Linear(4, 4), "second": nn.Linear(4, 4), "rest": nn.Embedding(4, 4)})
    net.requires_grad_(False)
    net["second"].weight = net["rest"].weight = net["first"].weight
    values = torch.randn(3, 4, generator=generator)
    offload(net, twin, calibration=lambda m: (m["first"](values), m["second"](values)))
    before = net["second"](values)
    assert net["first"].weight is net["second"].weight
    net["rest"].weight[1].mul_(3)
    after = net["second"](values)
    torch.testing.assert_close(net["first"](values) - net["first"].bias, after - net["second"].bias)
    assert (after != before).any(0).tolist() == [False, True, False, False]
    assert torch.equal(net["rest"](torch.tensor([1]))[0], net["first"].weight[1])
    restore(net)
    assert type(net["first"].weight) is nn.Parameter
    assert net["first"].weight is net["second"].weight is net["rest"].weight


def test_a_mask_or_parametrisation_that_comes_later_is_used(twin, values, calibration):
    net = make()
    wanted = net[0].weight.clone()
    offload(net, twin, calibration=calibration)
    mask = (torch.arange(72).view(6, 12) % 5 > 0).float()
    prune.custom_from_mask(net[0], "weight", mask)
    expected = product(values, net[0], wanted * mask, net[0].bias)
    np.testing.assert_allclose(net(values), expected, rtol=1e-5, atol=1e-5)
    prune.remove(net[0], "weight")
    np.testing.assert_allclose(net(values), expected, rtol=1e-5, atol=1e-5)

    class Double(nn.Module):
        def forward(self, weight):
            return 2 * weight

    parametrize.register_parametrization(net[0], "weight", Double())
    expected = product(values, net[0], 2 * wanted * mask, net[0].bias)
    np.testing.assert_allclose(net(values), expected, rtol=1e-5, atol=1e-5)


def test_a_new_bias_is_used_and_comes_back(twin, values, calibration):
    net = make()
    linear, before = net[0], make()
    offload(net, twin, calibration=calibration)
    expected = net(values) + 1
    net[0].bias.data.add_(1)
    torch.testing.assert_close(net(values), expected)
    net[0].bias = nn.Parameter(torch.zeros(6), requires_grad=False)
    torch.testing.assert_close(net(values), expected - 1 - before[0].bias)
    restore(net)
    assert not linear.bias.any()


def test_a_dropped_model_leaves_its_parameters_as_they_were(twin, calibration):
    net = make()
    parameter = net[0].weight
    offload(net, twin, calibration=calibration)
    assert type(parameter) is not nn.Parameter
    del net
    gc.collect()
    assert type(parameter) is nn.Parameter
    parameter.add_(1)


def double(scale):
    scale.mul_(2)


def double_slice(scale):
    scale[:].copy_(scale.clone() * 2)


@pytest.mark.parametrize("write", [double, double_slice])
@pytest.mark.parametrize("name", ["weight_scale", "input_scale"])
def test_a_scale_that_is_written_to_is_used_as_if_it_had_been_loaded(name, write, twin, values, calibration):
    model, other = make(), make()
    with Accelerator(twin.config, "twin") as second:
        offload(model, twin, calibration=calibration)
        offload(other, second, calibration=calibration)
        model(values)
        write(getattr(model[0], name))
        state = other.state_dict()
        state[f"0.{name}"] = state[f"0.{name}"] * 2
        other.load_state_dict(state)
        assert torch.equal(model(values), other(values))
        # Float weights are what integers and their scale stand for; nothing else tells of another one.
        wanted = other[0].weight if name == "weight_scale" else make()[0].weight
        assert torch.equal(model[0].weight, wanted)
        restore(model)
        restore(other)
    wanted = other[0].weight if name == "weight_scale" else make()[0].weight
    assert torch.equal(model[0].weight, wanted)


def test_another_scale_in_its_place_is_used(twin, values, calibration):
    model = make()
    offload(model, twin, calibration=calibration)
    bias = model[0].bias.detach()
    before = model(values) - bias
    model[0].weight_scale = model[0].weight_scale * 2
    assert torch.allclose(model(values) - bias, 2 * before, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: setattr(layer, "weight_scale", torch.ones(())), r"weight_scale has shape \(\), not \(6,?"),
        (lambda layer: layer.input_scale.zero_(), "input_scale must be positive and finite"),
        (lambda layer: layer.weight_scale.fill_(torch.nan), "weight_scale must be positive and finite"),
    ],
)
def test_a_scale_that_cannot_be_is_refused_with_the_layers_name(change, message, twin, values, calibration):
    model = make()
    offload(model, twin, calibration=calibration)
    model(values)
    change(model[0])
    with pytest.raises(ValueError, match=rf"^layer '0': {message}.*; write to its weight, or load a state_dict$"):
        model(values)
