"""DeepCache computes the shallow layers that it says, from features that are a full evaluation's."""

from __future__ import annotations

import pytest
import torch

from brownout.host import calibrate, offload, report, restore
from brownout.host.caching import DeepCache

from . import tiny

ALWAYS = ("conv_in", "conv_out", "time_embedding.")

SHALLOW = {
    1: ("up_blocks.1.resnets.2", "up_blocks.1.attentions.2"),
    2: (
        *("up_blocks.1.resnets.1", "up_blocks.1.attentions.1", "up_blocks.1.resnets.2", "up_blocks.1.attentions.2"),
        *("down_blocks.0.resnets.0", "down_blocks.0.attentions.0"),
    ),
    3: ("up_blocks.1.", "down_blocks.0.resnets", "down_blocks.0.attentions"),
    4: ("up_blocks.1.", "up_blocks.0.resnets.2", "up_blocks.0.upsamplers", "down_blocks.0."),
}
"""Beginnings of names of what is evaluated each time in a U-Net with two layers per block, by depth."""


@pytest.mark.parametrize("depth", SHALLOW)
def test_only_shallow_products_run(twin, depth):
    model = tiny.unet()
    products = offload(model, twin, calibration=calibrate(model, lambda m: tiny.run(m, (900, 500)))).products
    tiny.run(model, (900,))
    macs = {product.name: product.macs for product in products}
    with DeepCache(interval=4, depth=depth).attach(model) as cache:
        tiny.run(model)
    assert (cache.full, cache.predicted) == (3, 7)
    for layer in report(model):
        always = layer.name.startswith((*ALWAYS, *SHALLOW[depth]))
        assert layer.macs - macs[layer.name] == (10 if always else 3) * macs[layer.name], layer.name
    restore(model)


@pytest.mark.parametrize("depth", SHALLOW)
def test_the_same_input_again_gives_the_same_output(depth):
    """Old features are then the present ones, so a wrong connection would show."""
    model = tiny.unet()
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    named = {"timestep": torch.tensor([500, 500]), **tiny.arguments(model)}
    with torch.no_grad():
        expected = model(sample, **named).sample
        with DeepCache(interval=3, depth=depth).attach(model) as cache:
            outputs = [model(sample, **named).sample for _ in range(3)]
    assert cache.predicted == 2
    assert all(torch.equal(output, expected) for output in outputs)


def test_features_are_those_of_the_last_full_evaluation():
    """The output with other shallow inputs, against a model whose deep part was made constant by hand."""
    model = tiny.unet()
    features = []
    handle = model.up_blocks[1].attentions[1].register_forward_hook(lambda *a: features.append(a[2][0]))
    expected_first = tiny.run(model, (900,))[0]
    handle.remove()
    with DeepCache(interval=2).attach(model):
        outputs = tiny.run(model, (900, 300))
    assert torch.equal(outputs[0], expected_first)
    model.up_blocks[1].attentions[1].register_forward_hook(lambda *_: (features[0],))
    assert torch.equal(outputs[1], tiny.run(model, (900, 300))[1])
    assert not torch.equal(outputs[1], tiny.run(tiny.unet(), (900, 300))[1])


def test_one_tensor_is_kept():
    model = tiny.unet()
    with DeepCache(interval=3).attach(model) as cache:
        tiny.run(model)
    # What enters the last layer of the way up: 4 channels of 8 x 8, of two images in float32.
    assert cache.held_bytes == 2 * 4 * 8 * 8 * 4


def test_a_depth_without_anything_to_skip_is_refused():
    model = tiny.unet()
    with pytest.raises(
        ValueError, match=r"^depth must be below 6, the number of this model's skip connections, not 6$"
    ):
        DeepCache(interval=2, depth=6).attach(model)
    with pytest.raises(ValueError, match=r"^depth must be an integer >= 1, not 0$"):
        DeepCache(interval=2, depth=0)
