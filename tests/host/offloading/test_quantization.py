"""Quantisation errors stay within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host.offloading.quantization import ActivationObserver, quantize_weight
from brownout.host.offloading.reference import quantise


def test_weight_error_is_at_most_half_a_step_in_every_channel(generator):
    weight = torch.randn(20, 30, generator=generator) * torch.logspace(-4, 4, 20)[:, None]
    quantized, scale = quantize_weight(weight)
    assert quantized.dtype == torch.int8
    assert quantized.abs().amax(1).tolist() == [127] * 20
    error = (quantized.double() * scale.double()[:, None] - weight.double()).abs()
    assert (error <= scale.double()[:, None] * 0.5001).all()


def test_a_channel_of_zeros_stays_zero():
    quantized, scale = quantize_weight(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert quantized[0].tolist() == [0, 0]
    assert scale[0] == 1


def test_activations_round_half_to_even_and_saturate():
    values = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 1e9, -128.4, -1e9])
    assert quantise(values, torch.ones(1)).tolist() == [0, 2, 2, 0, -2, 127, 127, 127, -128, -128]


def test_absmax_represents_everything_seen():
    observer = ActivationObserver()
    for value in (1.0, -5.0, 2.0):
        observer.update(torch.tensor([0.0, value]))
    assert observer.scale("absmax") == 5 / 127


def test_mse_clipping_is_the_best_of_all_candidates(generator):
    # A long tail, for which clipping pays; the values come in growing pieces, so that the histogram is refolded.
    values = torch.randn(20000, generator=generator) ** 5
    values = values[values.abs().argsort()]
    observer = ActivationObserver()
    for piece in values.split(1000):
        observer.update(piece)

    def error(scale):
        return (quantise(values, torch.tensor([1 / scale])).double() * scale - values.double()).square().mean().item()

    largest = observer.absmax
    chosen = observer.scale("mse")
    assert chosen < largest / 127
    assert error(chosen) <= min(error(largest * step / 64 / 127) for step in range(1, 65)) * 1.01


def test_every_value_has_the_same_weight_whenever_it_comes(generator):
    values = torch.randn(5000, generator=generator)
    forward, backward = ActivationObserver(), ActivationObserver()
    for piece in values.split(500):
        forward.update(piece)
    for piece in reversed(values.split(500)):
        backward.update(piece)
    assert forward.scale("mse") == pytest.approx(backward.scale("mse"), rel=0.05)


def test_a_layer_that_saw_only_zeros_has_scale_one():
    observer = ActivationObserver()
    observer.update(torch.zeros(3))
    assert observer.scale("mse") == observer.scale("absmax") == 1.0


@pytest.mark.parametrize("percentile", [50, 99, 99.9, 100])
def test_a_percentile_clips_that_share_of_the_magnitudes(generator, percentile):
    values = torch.randn(20000, generator=generator)
    observer = ActivationObserver()
    for piece in values.split(1000):
        observer.update(piece)
    limit = observer.scale("percentile", percentile) * 127
    # A bin of the histogram, whose range is at most twice the largest magnitude, is as exact as it gets.
    assert limit == pytest.approx(
        np.percentile(values.abs().numpy(), percentile, method="inverted_cdf"), abs=2 * observer.absmax / 8192 + 1e-6
    )
