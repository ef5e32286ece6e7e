"""The C++ kernels give the bits of plain PyTorch, whatever an element is part of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host.offloading import kernels, reference

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 33, 40), (2, 1, 70, 17)]


def layouts(values):
    """The same values with the last, the last but one and the first dimension dense."""
    yield values
    yield values.mT.contiguous().mT
    yield values.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)


def sums_of(shape, generator, limit=2**31 - 1):
    return torch.randint(-limit, limit, shape, dtype=torch.int32, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantise(shape, per_channel, generator):
    values = torch.randn(shape, generator=generator) * 10
    multiplier = torch.rand(shape[3] if per_channel else 1, generator=generator) * 40
    expected = np.clip(np.rint(values.numpy() * multiplier.numpy()), -128, 127)
    for each in layouts(values):
        # With a border that must stay as it is.
        framed = torch.full((shape[0], shape[1] + 2, shape[2] + 2, shape[3]), 99, dtype=torch.int8)
        out = framed[:, 1:-1, 1:-1]
        kernels.quantise(each, multiplier, out)
        assert np.array_equal(out.numpy(), expected)
        assert torch.equal(out, reference.quantise(values, multiplier))
        assert (framed == 99).sum() == framed.numel() - (out != 99).sum()


def test_quantise_rounds_half_to_even_and_saturates():
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 1e9, -128.4, -1e9, torch.inf, -torch.inf])
    out = torch.empty(1, 1, 1, 12, dtype=torch.int8)
    kernels.quantise(values[None, None, None], torch.ones(1), out)
    assert out.flatten().tolist() == [0, 2, 2, 0, -2, 127, 127, 127, -128, -128, 127, -128]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8])
def test_dequantise(shape, with_bias, dtype, generator):
    sums = sums_of(shape[1:], generator).to(dtype)
    limits = torch.iinfo(dtype)
    at_ends = 0 if dtype == torch.int32 else int(np.isin(sums.numpy(), (limits.min, limits.max)).sum())
    scale = torch.rand(shape[3], generator=generator)
    bias = torch.randn(shape[3], generator=generator) if with_bias else None
    expected = sums.numpy().astype(np.float32) * scale.numpy() + (bias.numpy() if with_bias else 0)
    flat, count = kernels.dequantise(sums.flatten(0, 1), scale, bias)
    assert np.array_equal(flat.numpy(), expected.reshape(-1, shape[3]))
    assert count == reference.at_ends(sums) == at_ends
    assert np.array_equal(reference.dequantise(sums, scale, bias).numpy(), expected)
    image = torch.empty(sums.mT.shape)
    assert kernels.dequantise_image(sums, scale, bias, image) == at_ends
    assert np.array_equal(image.numpy(), expected.swapaxes(1, 2))


def test_the_exponential_is_that_of_float64():
    x = torch.linspace(-79, 0, 100_001)
    exact = np.exp(x.double().numpy())
    assert (np.abs(reference.exponential(x).double().numpy() - exact) / exact).max() < 2**-23
    assert reference.exponential(torch.zeros(1)).item() == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_exponentials_and_weighted_means(shape, generator):
    sums = sums_of(shape, generator, 20_000)
    full = torch.randn(shape, generator=generator)
    holes = torch.zeros(shape).masked_fill(torch.rand(shape, generator=generator) < 0.8, -torch.inf)
    holes[:, :, 0] = -torch.inf
    for mask in (None, full, full[:1, :1, :1], holes, full.mT.contiguous().mT):
        steps = torch.empty(shape, dtype=torch.int8)
        totals = kernels.exponentials(sums, 3e-4, mask, steps)
        expected = reference.exponentials(sums, 3e-4, mask)
        assert torch.equal(steps, expected[0])
        assert torch.equal(totals, expected[1])
        scores = sums.double().numpy() * 3e-4 + (0 if mask is None else mask.double().numpy())
        with np.errstate(invalid="ignore"):
            exact = np.nan_to_num(np.exp(scores - scores.max(-1, keepdims=True)) * 127)
        assert np.abs(steps.numpy() - exact).max() < 0.51
        means = torch.empty(shape)
        kernels.weighted_means(sums, totals, 0.3, means)
        assert torch.equal(means, reference.weighted_means(sums, totals, 0.3))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [((3, 3), (1, 1), (1, 1)), ((3, 2), (2, 1), (2, 3)), ((1, 1), (2, 2), (1, 1))]
)
def test_patches(kernel, stride, dilation, generator):
    image = torch.randint(-128, 128, (2, 9, 11, 6), dtype=torch.int8, generator=generator)
    for part in (image, image[..., 2:5]):
        expected = reference.patches(part, kernel, stride, dilation)
        out = torch.empty_like(expected)
        kernels.patches(part, kernel, stride, dilation, out)
        assert torch.equal(out, expected)
        _, rows, columns = expected.shape[:3]
        for y, x, ky, kx in ((0, 0, 0, 0), (rows - 1, columns - 1, kernel[0] - 1, kernel[1] - 1)):
            pixel = part[:, y * stride[0] + ky * dilation[0], x * stride[1] + kx * dilation[1]]
            assert torch.equal(out[:, y, x, ky, kx], pixel)


def test_an_element_does_not_depend_on_its_neighbours(generator):
    sums, scale = sums_of((40, 100), generator), torch.rand(100, generator=generator)
    bias = torch.randn(100, generator=generator)
    whole, _ = kernels.dequantise(sums, scale, bias)
    for start in (0, 3, 50):
        piece = slice(start, start + 37)
        part = sums[5:9, piece].contiguous()
        alone, _ = kernels.dequantise(part, scale[piece].contiguous(), bias[piece].contiguous())
        assert torch.equal(alone, whole[5:9, piece])
