"""Linear layers move to the accelerator and back."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import Calibration, calibrate, offload, report, restore
from brownout.host.offloading import OffloadedLinear, int8_linear

SEED = 5


class Net(nn.Module):
    """Two layers, one of them in two places and one without bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(SEED)
        self.inner = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12, bias=False))
        self.again = self.inner[0]

    def forward(self, values):
        return self.again(self.inner(values))


def no_layers():
    return Calibration(layers={}, method="mse", percentile=100, smoothing=None, timestep_bounds=())


def run(values):
    return lambda module: module(values)


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("shape", [(12,), (7, 12), (2, 5, 12)])
def test_a_layer_computes_quantised_arithmetic(twin, generator, shape):
    net = nn.Sequential(nn.Linear(12, 9))
    weight, bias = net[0].weight.detach().double().numpy(), net[0].bias.detach().double().numpy()
    values = torch.randn(shape, generator=generator)
    calibration = calibrate(net, run(values), method="absmax")
    offload(net, twin, calibration=calibration)
    got = net(values)
    assert got.shape == (*shape[:-1], 9)

    step = np.abs(values.double().numpy()).max() / 127
    weight_step = np.abs(weight).max(1) / 127
    sums = np.round(values.double().numpy() / step) @ np.round(weight / weight_step[:, None]).T
    assert calibration.layers["0"].scales.item() == pytest.approx(step)
    np.testing.assert_allclose(got.detach().numpy(), sums * step * weight_step + bias, rtol=1e-5, atol=1e-5)


def test_error_stays_within_the_bound_of_both_roundings(twin, generator):
    net = nn.Sequential(nn.Linear(64, 32))
    values = torch.randn(50, 64, generator=generator)
    expected = net(values).detach()
    offload(net, twin, calibration=calibrate(net, run(values), method="absmax"))
    # |x w - x' w'| <= |x| |w - w'| + |w'| |x - x'|, summed over K.
    half_x, half_w = net[0].input_scale / 2, net[0].weight_scale / 2
    dequantised = net.state_dict()["0.weight"].float() * net[0].weight_scale[:, None]
    bound = values.abs().sum(1, keepdim=True) * half_w + half_x * dequantised.abs().sum(1)
    assert ((net(values) - expected).abs() <= bound + 1e-5).all()


def test_shared_layers_stay_shared_and_restore_brings_the_same_objects_back(twin, generator):
    net, values = Net(), torch.randn(4, 12, generator=generator)
    before = dict(net.named_parameters())
    keys = list(net.state_dict())
    expected = net(values)
    offload(net, twin, calibration=run(values))
    assert net.again is net.inner[0]
    assert isinstance(net.again, OffloadedLinear)
    assert not torch.equal(net(values), expected)
    restore(net)
    assert list(net.state_dict()) == keys
    assert all(parameter is before[name] for name, parameter in net.named_parameters())
    assert torch.equal(net(values), expected)


def test_state_dict_carries_the_quantised_model(twin, generator):
    net, values = Net(), torch.randn(4, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    expected, state = net(values), {key: value.clone() for key, value in net.state_dict().items()}
    assert state["inner.2.weight"].dtype == torch.int8
    other = Net()
    with torch.no_grad():
        other.inner[0].weight.mul_(3)
        other.inner[2].weight.add_(1)
    offload(other, twin, calibration=run(values * 2))
    assert not torch.equal(other(values), expected)
    other.load_state_dict(state)
    assert torch.equal(other(values), expected)


def test_filter_selects_layers_by_name(twin, generator):
    net, values = Net(), torch.randn(4, 12, generator=generator)
    offload(net, twin, calibration=run(values), filter_fn=lambda layer, name: name == "inner.2" and layer.bias is None)
    assert isinstance(net.inner[0], nn.Linear)
    assert isinstance(net.inner[2], OffloadedLinear)


def test_report_adds_up_to_the_accelerator(twin, generator):
    net, values = Net(), torch.randn(2, 3, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    twin.reset_stats()
    net(values)
    first, second = report(net)
    assert (first.name, first.k, first.n) == ("inner.0", 12, 20)
    assert (first.calls, first.rows) == (2, 12)
    assert (second.name, second.calls, second.macs) == ("inner.2", 1, 6 * 20 * 12)
    assert first.macs + second.macs == twin.stats["macs"]
    assert first.ideal_cycles + second.ideal_cycles == twin.stats["ideal_cycles"]
    assert first.cycles + second.cycles == twin.stats["cycles"]
    assert 0 < first.utilisation < 1


def test_observer_sees_every_sum(twin, generator):
    net, values = Net(), torch.randn(4, 12, generator=generator)
    seen = []
    offload(net, twin, calibration=run(values), observer=lambda name, sums: seen.append((sums.dtype, sums.shape)))
    net(values)
    # Twice through the shared layer.
    assert seen == [(torch.int32, (4, 20)), (torch.int32, (4, 12)), (torch.int32, (4, 20))]


def test_custom_op_passes_opcheck(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9))
    values = torch.randn(2, 5, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    layer = net[0]
    for bias in (layer.bias.detach(), None):
        arguments = (values, layer.multiplier, layer.output_scale, bias, None, layer.number)
        torch.library.opcheck(int8_linear, arguments)


def test_an_offloaded_model_compiles_without_a_graph_break(twin, generator):
    net, values = Net().requires_grad_(False), torch.randn(4, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(values), net(values))


def test_a_linear_layer_itself_cannot_be_replaced(twin):
    message = "a Linear layer cannot be replaced in place; offload the module that holds it"
    with pytest.raises(TypeError, match=exactly(message)):
        offload(nn.Linear(2, 2), twin, calibration=no_layers())


def test_nothing_to_offload(twin):
    with pytest.raises(ValueError, match=exactly("GELU has no layer to offload")):
        offload(nn.GELU(), twin, calibration=no_layers())


def test_nothing_that_calibration_calls(twin):
    message = "ModuleDict has no layer to offload ('inner.0': calibration did not call it)"
    net = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(2, 2))})
    with pytest.raises(ValueError, match=exactly(message)):
        offload(net, twin, calibration=lambda module: None)


def test_a_missing_scale_is_named_and_the_model_unchanged(twin, generator):
    net = Net()
    calibration = calibrate(net, run(torch.randn(4, 12, generator=generator)))
    del calibration.layers["inner.2"]
    message = "calibration has no scale for layer 'inner.2'; calibrate it, or exclude it with filter_fn"
    with pytest.raises(ValueError, match=exactly(message)):
        offload(net, twin, calibration=calibration)
    assert isinstance(net.inner[0], nn.Linear)


def test_a_restored_layer_refuses_to_run(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9))
    values = torch.randn(2, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    arguments = (values, net[0].multiplier, net[0].output_scale, None, None, net[0].number)
    restore(net)
    with pytest.raises(RuntimeError, match=exactly("this layer is no longer offloaded; it was restored or deleted")):
        int8_linear(*arguments)


def test_strides_and_dtype_of_the_input_do_not_matter(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9)).requires_grad_(False)
    values = torch.randn(2, 3, 5, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    expected = net(values)
    assert torch.equal(net(values.transpose(0, 2).contiguous().transpose(0, 2)), expected)
    assert torch.equal(net(values.mT.contiguous().mT), expected)
    assert torch.equal(net(values[None]), expected[None])
    assert torch.equal(net(torch.cat([values, values], -1)[..., :12]), expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = values.to(dtype)
        assert torch.equal(net(rounded), net(rounded.float()).to(dtype))


def test_scales_keep_their_precision_when_the_model_is_converted(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9, bias=False))
    values = torch.randn(4, 12, generator=generator)
    offload(net, twin, calibration=calibrate(net, run(values), smoothing=0.5))
    expected = net(values)
    net.half()
    assert torch.equal(net(values), expected)
    assert net.state_dict()["0.input_scale"].dtype == torch.float64


def test_empty_and_integer_inputs_are_refused(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9))
    offload(net, twin, calibration=run(torch.randn(2, 12, generator=generator)))
    message = (
        "layer '0' got an empty input of shape (0, 12); "
        "an offloaded layer needs at least one row, so leave empty batches out"
    )
    with pytest.raises(ValueError, match=exactly(message)):
        net(torch.empty(0, 12))
    with pytest.raises(TypeError, match=exactly("layer '0' must get a floating-point input, not torch.int64")):
        net(torch.ones(2, 12, dtype=torch.int64))


def test_an_offloaded_model_is_not_offloaded_again(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9))
    values = torch.randn(2, 12, generator=generator)
    offload(net, twin, calibration=run(values))
    with pytest.raises(ValueError, match=exactly("Sequential is offloaded already; call restore first")):
        offload(net, twin, calibration=run(values))
    with pytest.raises(ValueError, match=exactly("GELU is not offloaded; call offload first")):
        report(nn.GELU())


def test_restoring_frees_device_memory(twin, generator):
    net = nn.Sequential(nn.Linear(12, 9))
    values = torch.randn(2, 12, generator=generator)
    before = len(twin._device._layout.resident)
    offload(net, twin, calibration=run(values))
    assert len(twin._device._layout.resident) == before + 1
    restore(net)
    assert len(twin._device._layout.resident) == before
