"""Scales: how they are chosen, what they depend on, and how they are kept."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from brownout.host import Calibration, calibrate, offload
from brownout.host.offloading import LayerCalibration


class Denoiser(nn.Module):
    """Its input grows with the timestep."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(8, 8)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, sample, timestep):
        values = self.linear(sample * (1 + timestep.reshape(-1)[0]))
        heads = values.view(1, 2, 4, 8)
        return self.conv(F.scaled_dot_product_attention(heads, heads, heads))


@pytest.fixture
def denoiser():
    return Denoiser().requires_grad_(False)


def step(model, sample, timestep):
    return model(sample, torch.tensor([timestep]))


def same(first, second):
    assert list(first.layers) == list(second.layers)
    for name, layer in first.layers.items():
        other = second.layers[name]
        assert (layer.kind, layer.sqnr_db) == (other.kind, other.sqnr_db)
        assert torch.equal(layer.scales, other.scales)
        assert layer.scales.dtype == other.scales.dtype == torch.float64
        assert (layer.smoothing is None) == (other.smoothing is None)
        assert layer.smoothing is None or torch.equal(layer.smoothing, other.smoothing)
    settings = ("method", "percentile", "smoothing", "timestep_bounds")
    assert [getattr(first, name) for name in settings] == [getattr(second, name) for name in settings]


def test_each_group_of_timesteps_has_the_scales_of_what_it_saw(denoiser, generator):
    sample = torch.randn(8, 8, generator=generator)

    def run(model):
        for timestep in (999.0, 500.0, 499.0, 0.0):
            step(model, sample, timestep)

    found = calibrate(denoiser, run, method="absmax", timestep_groups=2)
    assert found.timestep_bounds == (500.0,)
    largest = sample.abs().max().item() / 127
    expected = [500 * largest, 1000 * largest]
    assert found.layers["linear"].scales.tolist() == pytest.approx(expected)
    assert found.layers[""].scales.shape == (2, 3)


@pytest.mark.parametrize("compiled", [False, True])
def test_scales_follow_the_timestep_of_each_call(denoiser, twin, generator, compiled):
    sample = torch.randn(8, 8, generator=generator)
    timesteps = (900.0, 100.0, 500.0)

    def run(model):
        for timestep in timesteps:
            step(model, sample, timestep)

    alone = {}
    for timestep in timesteps:
        one = calibrate(denoiser, lambda m, t=timestep: step(m, sample, t), method="absmax")
        model = Denoiser().requires_grad_(False)
        offload(model, twin, calibration=one)
        alone[timestep] = step(model, sample, timestep)
    found = calibrate(denoiser, run, method="absmax", timestep_groups=3)
    offload(denoiser, twin, calibration=found)
    model = torch.compile(denoiser, backend="aot_eager", fullgraph=True) if compiled else denoiser
    for timestep in (*timesteps, *reversed(timesteps)):
        assert torch.equal(step(model, sample, timestep), alone[timestep])
    assert torch.equal(denoiser(sample, timestep=torch.tensor(100.0)), alone[100.0])


def test_a_call_without_timestep_is_refused_if_it_decides(twin, generator):
    net = nn.Sequential(nn.Linear(4, 4))
    net.forward = lambda values, time=None: net[0](values)
    values = torch.randn(3, 4, generator=generator)

    def run(module):
        for timestep in (0, 600):
            module(values, timestep)

    offload(net, twin, calibration=calibrate(net, run, timestep_groups=2))
    message = (
        "Sequential was called without a timestep, by which input scales are chosen; "
        "pass it as timestep=..., or calibrate with timestep_groups=1"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        net(values)


def test_a_group_that_saw_nothing_is_named(denoiser, generator):
    sample = torch.randn(8, 8, generator=generator)
    message = (
        "layer 'linear' was not called in timestep group 1 of 4 during calibration; "
        "run all timesteps in the calibration, choose fewer timestep_groups, or exclude it with filter_fn"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calibrate(denoiser, lambda m: step(m, sample, 1.0), timestep_groups=4)


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped"])
def test_smoothing_divides_channels_as_published_and_pays_for_outliers(kind, twin, generator):
    torch.manual_seed(2)
    layer = {
        "linear": nn.Linear(6, 8),
        "conv": nn.Conv2d(6, 8, 3),
        "grouped": nn.Conv2d(6, 8, 3, groups=2),
    }[kind]
    net = nn.Sequential(layer).requires_grad_(False)
    values = (
        torch.randn(40, 6, generator=generator) if kind == "linear" else torch.randn(4, 6, 5, 5, generator=generator)
    )
    values.select(-1 if kind == "linear" else 1, 2).mul_(100)
    plain = calibrate(net, lambda m: m(values), method="absmax")
    smooth = calibrate(net, lambda m: m(values), method="absmax", smoothing=0.75)

    inputs = values.double().numpy() if kind == "linear" else np.moveaxis(values.double().numpy(), 1, -1)
    weight = np.abs(layer.weight.double().numpy()).reshape(8, -1, layer.weight[0, 0].numel())
    per_input = weight.max((0, 2))
    if kind == "grouped":
        per_input = np.concatenate([weight[:4].max((0, 2)), weight[4:].max((0, 2))])
    factors = np.abs(inputs).reshape(-1, 6).max(0) ** 0.75 / per_input**0.25
    np.testing.assert_allclose(smooth.layers["0"].smoothing.numpy(), factors, rtol=1e-5)
    expected = np.abs(inputs / factors).max() / 127
    assert smooth.layers["0"].scales.item() == pytest.approx(expected)
    assert smooth.layers["0"].sqnr_db > plain.layers["0"].sqnr_db + 3

    exact = net(values)
    errors = []
    for found in (plain, smooth):
        offload_net = nn.Sequential(layer)
        offload(offload_net, twin, calibration=found)
        noise = (offload_net(values) - exact).double().square().sum()
        bias = layer.bias if kind == "linear" else layer.bias[:, None, None]
        signal = (exact - bias).double().square().sum()
        errors.append(10 * torch.log10(signal / noise).item())
    # What calibration says about the error is what the accelerator does.
    assert errors == pytest.approx([plain.layers["0"].sqnr_db, smooth.layers["0"].sqnr_db], abs=0.01)


def test_attention_error_is_that_of_the_accelerator(denoiser, twin, generator):
    sample = torch.randn(8, 8, generator=generator)
    found = calibrate(denoiser, lambda m: step(m, sample, 0.0), filter_fn=lambda layer, name: layer is denoiser)
    assert list(found.layers) == [""]
    seen = []
    denoiser.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    step(denoiser, sample, 0.0)
    offload(denoiser, twin, calibration=found, filter_fn=lambda layer, name: layer is denoiser)
    step(denoiser, sample, 0.0)
    exact, got = seen
    assert found.layers[""].sqnr_db == pytest.approx(
        10 * torch.log10(exact.square().sum() / (got - exact).square().sum()).item(), abs=0.01
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "best"}, "method must be one of 'absmax', 'percentile', 'mse', not 'best'"),
        ({"percentile": 0}, "percentile must be in 0..100 (0 excluded), not 0"),
        ({"smoothing": 1.5}, "smoothing must be in 0..1, or None, not 1.5"),
        ({"timestep_groups": 0}, "timestep_groups must be a positive integer, not 0"),
    ],
)
def test_options_out_of_range(denoiser, settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calibrate(denoiser, lambda m: None, **settings)


@pytest.fixture
def saved(denoiser, generator, tmp_path):
    sample = torch.randn(8, 8, generator=generator)

    def run(model):
        for timestep in (0.0, 600.0):
            step(model, sample, timestep)

    found = calibrate(denoiser, run, method="percentile", percentile=99.5, smoothing=0.5, timestep_groups=2)
    path = tmp_path / "calibration.safetensors"
    found.save(path)
    return found, path


def test_a_calibration_is_loaded_as_it_was_saved(saved):
    found, path = saved
    same(Calibration.load(path), found)


def test_damaged_and_foreign_files_are_refused(saved, tmp_path):
    _, path = saved
    content = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"^there is no file .*nothing$"):
        Calibration.load(tmp_path / "nothing")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r" is damaged, or no safetensors file: "):
        Calibration.load(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=r" is damaged: its content does not have the checksum"):
        Calibration.load(path)
    path.write_bytes(content.replace(b"percentile", b"Percentile"))
    with pytest.raises(ValueError, match=r" is damaged: its content does not have the checksum"):
        Calibration.load(path)
    path.write_bytes(content.replace(b'\\"version\\": 2', b'\\"version\\": 7'))
    with pytest.raises(ValueError, match=r" has version 7 of its format; this program reads version 2$"):
        Calibration.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r" is a safetensors file, but Brownout did not write it$"):
        Calibration.load(path)


def test_a_calibration_of_another_model_is_refused(denoiser, saved, twin):
    found, _ = saved
    strange = LayerCalibration("attention", torch.ones(2, 3, dtype=torch.float64))
    found.layers["elsewhere"] = strange
    with pytest.raises(ValueError, match=r"^calibration has scales for attention in 'elsewhere', but Denoiser has no"):
        offload(denoiser, twin, calibration=found)
    del found.layers["elsewhere"]
    found.layers["conv"] = found.layers["linear"]
    with pytest.raises(ValueError, match=r"^calibration knows 'conv' as 'linear', but it is 'conv2d'; calibrate this"):
        offload(denoiser, twin, calibration=found)
    assert type(denoiser.linear) is nn.Linear
