"""Convolutions move to the accelerator and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from brownout.host import OffloadWarning, calibrate, offload, report, restore
from brownout.host.offloading import OffloadedConv2d, int8_conv2d

CASES = {
    "plain": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": (1, 0)},
    "dilated": {"kernel_size": (3, 2), "dilation": (2, 3), "padding": 2},
    "same": {"kernel_size": (2, 4), "padding": "same", "bias": False},
    "grouped": {"kernel_size": 3, "groups": 3, "padding": 1},
    "depthwise": {"kernel_size": 2, "groups": 6},
    "pointwise": {"kernel_size": 1},
    "pointwise_strided": {"kernel_size": 1, "stride": 2},
}


def run(values):
    return lambda module: module(values)


def make(case, outputs=12):
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(6, outputs, **CASES[case])).requires_grad_(False)


def convolve(image, conv, weight):
    """float64 convolution by its definition."""
    left, right, above, below = conv._reversed_padding_repeated_twice
    image = np.pad(image, ((0, 0), (0, 0), (above, below), (left, right)))
    (sy, sx), (dy, dx), (ky, kx) = conv.stride, conv.dilation, conv.kernel_size
    rows = (image.shape[2] - dy * (ky - 1) - 1) // sy + 1
    columns = (image.shape[3] - dx * (kx - 1) - 1) // sx + 1
    share, outputs = weight.shape[1], weight.shape[0] // conv.groups
    result = np.zeros((len(image), weight.shape[0], rows, columns))
    for n in range(weight.shape[0]):
        first = n // outputs * share
        for y in range(rows):
            for x in range(columns):
                for i in range(ky):
                    for j in range(kx):
                        pixel = image[:, first : first + share, y * sy + i * dy, x * sx + j * dx]
                        result[:, n, y, x] += pixel @ weight[n, :, i, j]
    return result


# PyTorch itself would rather not pad unevenly.
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", CASES)
def test_a_convolution_computes_quantised_arithmetic(case, twin, generator):
    net = make(case)
    conv = net[0]
    weight = conv.weight.double().numpy()
    values = torch.randn(2, 6, 7, 8, generator=generator)
    offload(net, twin, calibration=calibrate(net, run(values), method="absmax"))
    got = net(values)

    step = values.abs().max().double().item() / 127
    weight_step = np.abs(weight).max((1, 2, 3)) / 127
    integers = np.round(weight / weight_step[:, None, None, None])
    expected = convolve(np.round(values.double().numpy() / step), conv, integers)
    expected *= step * weight_step[:, None, None]
    if conv.bias is not None:
        expected += conv.bias.double().numpy()[:, None, None]
    assert got.is_contiguous()
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    (product,) = report(net)
    assert product.k == conv.kernel_size[0] * conv.kernel_size[1] * 6 // conv.groups
    assert product.macs == got[:, :1].numel() * product.k * 12

    restore(net)
    assert net[0] is conv


@pytest.mark.parametrize("case", ["plain", "grouped"])
def test_memory_format_dtype_and_missing_batch_are_those_of_the_input(case, twin, generator):
    net = make(case)
    values = torch.randn(2, 6, 7, 8, generator=generator)
    offload(net, twin, calibration=run(values))
    expected = net(values)
    last = net(values.contiguous(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last) == (case == "plain")
    assert torch.equal(net(values.transpose(2, 3).contiguous().transpose(2, 3)), expected)
    assert torch.equal(net(values[0]), expected[0])
    half = net(values.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().max() < 0.02 * expected.abs().max()


def test_state_dict_carries_the_quantised_convolution(twin, generator):
    values = torch.randn(1, 6, 7, 8, generator=generator)
    net, other = make("grouped"), make("grouped")
    other[0].weight.mul_(2)
    offload(net, twin, calibration=run(values))
    offload(other, twin, calibration=run(values * 3))
    assert not torch.equal(net(values), other(values))
    state = net.state_dict()
    assert state["0.weight"].shape == (12, 2, 3, 3)
    assert state["0.weight"].dtype == torch.int8
    other.load_state_dict(state)
    assert torch.equal(net(values), other(values))


@pytest.mark.parametrize("case", ["dilated", "same", "grouped"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_custom_op_passes_opcheck(case, memory_format, twin, generator):
    net = make(case)
    values = torch.randn(2, 6, 7, 8, generator=generator).contiguous(memory_format=memory_format)
    offload(net, twin, calibration=run(values))
    layer = net[0]
    settings = (layer.kernel, layer.stride, layer.padding, layer.dilation, layer.number)
    torch.library.opcheck(int8_conv2d, (values, layer.multiplier, layer.output_scale, layer.bias, None, *settings))


def test_other_padding_stays_in_float(twin, generator):
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")).requires_grad_(False)
    image = torch.randn(1, 2, 5, 5, generator=generator)
    expected = net(image)
    with pytest.warns(OffloadWarning, match=r"'0' \(Conv2d, 100 % of MACs\): padding_mode='circular' is not supported"):
        offload(net, twin, calibration=run(image))
    assert torch.equal(net(image), expected)


def test_empty_and_integer_inputs_are_refused(twin, generator):
    net = make("plain")
    offload(net, twin, calibration=run(torch.randn(2, 6, 7, 8, generator=generator)))
    assert isinstance(net[0], OffloadedConv2d)
    with pytest.raises(ValueError, match=r"^layer '0' got an empty input of shape \(0, 6, 7, 8\); "):
        net(torch.empty(0, 6, 7, 8))
    with pytest.raises(TypeError, match=r"^layer '0' must get a floating-point input, not torch\.int32$"):
        net(torch.zeros(1, 6, 7, 8, dtype=torch.int32))


@pytest.mark.parametrize(
    ("options", "reach"),
    [
        ({"kernel_size": 3, "padding": 1}, (1, 1)),
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (1, 0)),
        ({"kernel_size": 3, "padding": (2, 0), "dilation": (2, 1)}, (2, 2)),
        ({"kernel_size": 5, "padding": 2, "groups": 3}, (2, 2)),
        ({"kernel_size": 2, "padding": "same"}, (0, 1)),
        ({"kernel_size": 1, "stride": 2}, (0, 0)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_rows_with_what_they_read_of_others_give_the_bits_of_the_whole(options, reach, twin, generator):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(6, 12, **options)).requires_grad_(False)
    values = torch.randn(2, 6, 12, 5, generator=generator)
    offload(net, twin, calibration=run(values))
    conv = net[0]
    assert isinstance(conv, OffloadedConv2d)
    assert conv.row_window.keeps_rows
    assert conv.row_window.reach == reach
    whole = net(values)
    step = float(conv.input_scale[0])
    pixels = torch.round(values / step).clamp(-128, 127).to(torch.int8).permute(0, 2, 3, 1)
    padded = nn.functional.pad(pixels, (0, 0, 0, 0, *reach))
    outputs = []
    for start, stop in ((0, 2), (2, 6), (6, 12)):

        def halo(image, got, bad, start=start, stop=stop):
            assert bad is None
            assert got == step
            assert torch.equal(image, pixels[:, start:stop])
            return padded[:, start : start + reach[0]], padded[:, stop + reach[0] : stop + sum(reach)], None

        conv.halo = halo
        outputs.append(net(values[:, :, start:stop]))
    assert torch.equal(torch.cat(outputs, 2), whole)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 1, "padding": 1}]
)
def test_convolutions_that_change_the_number_of_rows_otherwise_are_told(options, twin):
    net = nn.Sequential(nn.Conv2d(2, 4, **options)).requires_grad_(False)
    offload(net, twin, calibration=run(torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))))
    assert not net[0].row_window.keeps_rows
