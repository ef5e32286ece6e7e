"""NaN and infinity are never made finite: what depends on them is NaN, or an error with a name."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, calibrate, offload
from brownout.host.errors import NonFiniteError
from brownout.host.offloading import kernels, reference
from brownout.host.offloading.nonfinite import Met

BAD = (torch.nan, torch.inf, -torch.inf)


def depends(function, shape, place):
    """Outputs that depend on an input, by a function in float64 with positive weights."""
    values = torch.zeros(shape, dtype=torch.float64)
    values[place] = 1
    return function(values) != 0


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_a_linear_layer(bad, dtype, twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(12, 9)).requires_grad_(False)
    values = torch.randn(2, 5, 12, generator=generator).to(dtype)
    offload(net, twin, calibration=calibrate(net, lambda m: m(values.float())))
    expected = net(values)
    for turned in (False, True):
        wrong = values.clone()
        wrong[1, 3, 7] = bad
        got = net(wrong.mT.contiguous().mT if turned else wrong)
        assert got[1, 3].isnan().all()
        got[1, 3] = expected[1, 3]
        assert torch.equal(got, expected)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "dilation": (2, 3), "padding": 2, "stride": (1, 2)},
        {"kernel_size": 3, "groups": 3, "padding": 1},
        {"kernel_size": 1, "stride": 2},
    ],
)
def test_windows_of_a_convolution(bad, memory_format, options, twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(6, 12, **options)).requires_grad_(False)
    values = torch.randn(2, 6, 7, 8, generator=generator)
    offload(net, twin, calibration=calibrate(net, lambda m: m(values)))
    values = values.contiguous(memory_format=memory_format)
    expected = net(values)
    plain = nn.Conv2d(6, 12, bias=False, dtype=torch.float64, **options).requires_grad_(False)
    plain.weight.fill_(1)
    for place in ((1, 4, 0, 3), (0, 1, 4, 6), (1, 0, 6, 7)):
        wrong = values.clone(memory_format=torch.preserve_format)
        wrong[place] = bad
        got = net(wrong)
        assert torch.equal(got.isnan(), depends(plain, values.shape, place))
        assert torch.equal(torch.where(got.isnan(), expected, got), expected)


def test_rows_of_an_image_on_other_devices(twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)).requires_grad_(False)
    values = torch.randn(1, 2, 8, 5, generator=generator)
    offload(net, twin, calibration=calibrate(net, lambda m: m(values)))
    expected = net(values)
    pixels = torch.round(values / float(net[0].input_scale)).clamp(-128, 127).to(torch.int8).permute(0, 2, 3, 1)
    padded = F.pad(pixels, (0, 0, 0, 0, 1, 1))
    values[0, 1, 3, 2] = torch.nan
    told = {}
    for start, stop in ((0, 4), (4, 8)):

        def halo(image, step, bad, start=start, stop=stop):
            told[start] = bad
            beyond = torch.tensor([start == 4, False]) if start == 4 else None
            return padded[:, start : start + 1], padded[:, stop + 1 : stop + 2], beyond

        net[0].halo = halo
        got = net(values[:, :, start:stop])
        wanted = torch.zeros_like(got, dtype=torch.bool)
        if start == 0:
            wanted[:, :, 2:, 1:4] = True
        else:
            # Of another device it is known which rows, not which pixels.
            wanted[:, :, 0] = True
        assert torch.equal(got.isnan(), wanted)
        assert torch.equal(torch.where(wanted, torch.zeros(()), got), expected[:, :, start:stop].masked_fill(wanted, 0))
    assert told[0].tolist() == [False, False, False, True]
    assert told[4] is None


def test_keys_on_other_devices(twin, operands):
    net = attention(twin, operands)
    (call,) = net.offloaded_attention.calls
    for there in (False, True):
        call.gather = lambda key, value, steps, here, there=there: (key, value, there)
        assert net(*operands).isnan().all() == there
        wrong = [each.clone() for each in operands]
        wrong[1][0, 0, 0, 0] = torch.nan
        assert net(*wrong).isnan().all()


class Attention(nn.Module):
    def forward(self, query, key, value, mask=None, causal=False):
        return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)


@pytest.fixture
def operands(generator):
    return [torch.randn(2, 3, length, 8, generator=generator) for length in (5, 7, 7)]


def attention(accelerator, operands, **options):
    net = Attention()
    offload(net, accelerator, calibration=calibrate(net, lambda m: m(*operands)), **options)
    return net


@pytest.mark.parametrize("bad", BAD)
def test_queries_keys_and_values_of_attention(bad, twin, operands):
    net = attention(twin, operands)
    boolean = torch.ones(5, 7, dtype=torch.bool)
    boolean[1, 4] = boolean[2] = False
    additive = torch.where(boolean, 0.5, -torch.inf)
    for options in ({}, {"mask": boolean}, {"mask": additive}, {"mask": additive.expand(2, 3, 5, 7)}, {"causal": True}):
        expected = net(*operands, **options)
        assert expected.isfinite().all()
        allowed = torch.ones(5, 7, dtype=torch.bool).tril() if "causal" in options else torch.ones_like(boolean)
        allowed = boolean if "mask" in options else allowed
        for which, rows in ((0, torch.arange(5) == 2), (1, allowed[:, 4]), (2, allowed[:, 4])):
            wrong = [each.clone() for each in operands]
            wrong[which][1, 2, 2 if which == 0 else 4, 3] = bad
            got = net(*wrong, **options)
            wanted = torch.zeros(2, 3, 5, dtype=torch.bool)
            wanted[1, 2] = rows
            assert torch.equal(got.isnan(), wanted[..., None].expand_as(got))
            assert torch.equal(torch.where(got.isnan(), expected, got), expected)


def test_masks_of_attention(twin, operands):
    net = attention(twin, operands)
    mask = torch.zeros(5, 7)
    mask[2] = mask[1, 3] = -torch.inf
    expected = net(*operands, mask)
    assert not expected[:, :, 2].any()
    for bad in (torch.nan, -torch.nan, torch.inf):
        for place in ((1, 6), (2, 0)):
            wrong = mask.clone()
            wrong[place] = bad
            for each in (wrong, wrong.expand(2, 3, 5, 7), wrong.T.contiguous().T):
                got = net(*operands, each)
                assert got[:, :, place[0]].isnan().all()
                got[:, :, place[0]] = expected[:, :, place[0]]
                assert torch.equal(got, expected)
    with pytest.raises(ValueError, match=r"^attention '' got scale=nan; it must be finite$"):
        next(iter(net.offloaded_attention.calls))(*operands, scale=torch.nan)


@pytest.mark.parametrize("backend", ["rtl", "mixed"])
@pytest.mark.rtl
def test_other_backends_do_the_same(backend, config, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(2), nn.Linear(9, 4)).requires_grad_(False)
    values = torch.randn(2, 2, 3, 3, generator=generator)
    with Accelerator(config, backend=backend) as accelerator:
        offload(net, accelerator, calibration=calibrate(net, lambda m: m(values)))
        expected = net(values)
        values[1, 0, 0, 0] = torch.nan
        got = net(values)
    assert torch.equal(got[0], expected[0])
    assert got[1].isnan().all()


def message(layer, what, evaluation):
    return (
        f"^layer '{layer}' got {re.escape(what)} in evaluation {evaluation} of part 0 of the run; "
        "find where they come from, or let outputs become NaN with "
    )


@pytest.mark.filterwarnings("ignore::brownout.host.errors.OffloadWarning")
def test_an_error_names_layer_and_evaluation(twin, operands, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 1, 1), nn.Linear(4, 4)).requires_grad_(False)
    values = torch.randn(3, 1, 4, generator=generator)
    model = offload(net, twin, calibration=calibrate(net, lambda m: m(values)), nonfinite="raise")
    net(values)
    net[1].bias.fill_(torch.inf)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=message("2", "12 NaN or infinite values among 12 inputs", 1)):
            net(values)
    model.begin_run()
    values[1, 0, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=message("0", "1 NaN or infinite values among 12 inputs", 0)):
        net(values)

    net = attention(twin, operands, nonfinite="raise")
    net(*operands)
    with pytest.raises(NonFiniteError, match=message(".qk", "NaN or plus infinity in a mask", 1)):
        net(*operands, torch.full((5, 7), torch.nan))
    operands[2][0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=message(".pv", "1 NaN or infinite values among 336 inputs", 2)):
        net(*operands)


def test_an_unknown_answer_is_refused(twin):
    with pytest.raises(ValueError, match=r"^nonfinite must be one of 'nan', 'raise', not 'zero'$"):
        offload(nn.Sequential(nn.Linear(2, 2)), twin, calibration=lambda m: m(torch.ones(1, 2)), nonfinite="zero")


@pytest.mark.parametrize("bad", BAD)
def test_calibration_names_the_layer_and_the_run(bad, operands, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).requires_grad_(False)
    values = torch.randn(3, 4, generator=generator)
    remedy = "; calibrate with data and weights that are finite, or exclude it with filter_fn"
    wrong = values.clone()
    wrong[1, 1] = bad
    expected = (
        "layer '0' got values in call 1 of the run for scales: "
        f"1 of 12 values are NaN or infinite, so they have no scale{remedy}"
    )
    with pytest.raises(NonFiniteError, match=f"^{re.escape(expected)}$"):
        calibrate(net, lambda m: (m(values), m(wrong)))
    with pytest.raises(NonFiniteError, match=r"^layer '0' got NaN or infinite values in the run for smoothing; "):
        calibrate(net, lambda m: m(wrong), smoothing=0.5)
    net[0].bias[1] = bad
    with pytest.raises(NonFiniteError, match=r"^layer '2' got values in call 0 of the run for scales: "):
        calibrate(net, lambda m: m(values))
    net[0].bias[1] = 0
    net[2].weight[1, 1] = bad
    with pytest.raises(NonFiniteError, match=f"^layer '2' has NaN or infinite weights{re.escape(remedy)}$"):
        calibrate(net, lambda m: m(values))
    operands[1][0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteError, match=r"^layer '' got values as key in call 0 of the run for scales: "):
        calibrate(Attention(), lambda m: m(*operands))


@pytest.mark.parametrize("shape", [(1, 1, 3, 5), (2, 3, 70, 33), (1, 2, 3, 1200), (1, 1, 1, 20000)])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("each", [False, True])
def test_kernels_meet_what_plain_pytorch_meets(shape, turned, each, generator):
    values = torch.randn(shape, generator=generator)
    values = values.mT.contiguous().mT if turned else values
    multiplier = torch.full((shape[-1] if each else 1,), 32.0)
    out = torch.empty(shape, dtype=torch.int8)
    count = int(((values * 32 > 127.5) | (values * 32 < -128.5)).sum())
    assert kernels.quantise(values, multiplier, out) == reference.met(values, multiplier) == Met(count, False)
    edges = torch.tensor([127.5, 127.51, -128.5, -128.51]) / 32
    values = torch.zeros(shape)
    values.view(-1)[-4:] = edges
    values = values.mT.contiguous().mT if turned else values
    assert kernels.quantise(values, multiplier, out) == reference.met(values, multiplier) == Met(2, False)
    for bad in BAD:
        values[-1, -1, -1, -1] = bad
        assert kernels.quantise(values, multiplier, out) == reference.met(values, multiplier) == Met(2, True)
