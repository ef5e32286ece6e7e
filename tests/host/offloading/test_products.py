"""Errors, history and cycles of an offloaded model's products, on the twin and on RTL."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, Protection, calibrate, offload, offloaded_model, report, restore

from ..small import CONFIG


class Tiny(nn.Module):
    """A product of every kind; its input decides its size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(2, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8)

    def forward(self, image):
        tokens = self.linear(self.conv(image).flatten(2).mT).unflatten(-1, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.fixture
def image(generator):
    return torch.randn(2, 2, 3, 3, generator=generator)


def make(accelerator, image):
    net = Tiny().requires_grad_(False)
    offload(net, accelerator, calibration=calibrate(net, lambda m: m(image), measure_error=False))
    return net


@pytest.fixture
def erring():
    """An accelerator without correction, in which one sum in 20 errs."""
    with Accelerator(
        CONFIG, backend="twin", protection=Protection(correct=False, on_uncorrectable="keep")
    ) as accelerator:
        accelerator.set_error_rate(0.05, seed=3)
        yield accelerator


def test_errors_differ_between_evaluations_and_come_again_in_the_next_run(erring, image):
    net = make(erring, image)
    first = [net(image) for _ in range(3)]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[1], first[2])
    offloaded_model(net).begin_run()
    assert all(torch.equal(net(image), each) for each in first)
    # A model that is offloaded anew errs alike, whatever else has been offloaded before.
    restore(net)
    assert all(
        torch.equal(each, net_output)
        for net in [make(erring, image)]
        for each, net_output in zip(first, [net(image) for _ in range(3)], strict=True)
    )


def test_error_keys_are_of_one_product_and_one_evaluation(erring, image, monkeypatch):
    net = make(erring, image)
    keys = []
    gemm = erring.gemm

    def spy(*args, **kwargs):
        keys.append(kwargs["error_key"])
        return gemm(*args, **kwargs)

    monkeypatch.setattr(erring, "gemm", spy)
    for _ in range(2):
        net(image)
    # In the order of the model: attention is its own, then conv, linear.
    assert keys == [(2 << 20), (3 << 20), 0, (1 << 20), (2 << 20) + 1, (3 << 20) + 1, 1, (1 << 20) + 1]
    model = offloaded_model(net)
    model.part = 1
    net(image)
    assert keys[-1] == (1 << 20) + (1 << 16)
    assert len(set(keys)) == len(keys)


def test_suppressed_elements_keep_the_value_of_the_evaluation_before(image):
    with Accelerator(
        CONFIG, backend="twin", protection=Protection(correct=False, on_uncorrectable="suppress")
    ) as accelerator:
        net = make(accelerator, image)
        seen = {}
        model = offloaded_model(net)
        model.observer = lambda name, sums: seen.setdefault(name, []).append(sums.clone())
        net(image)
        accelerator.set_error_rate(0.2, seed=1)
        net(-image)
        clean = {}
        accelerator.set_error_rate(0.0)
        model.observer = lambda name, sums: clean.setdefault(name, sums.clone())
        model.begin_run()
        net(-image)
        before, after = seen["conv"]
        kept = after == before
        assert kept.any()
        assert ((after == clean["conv"]) | kept).all()
        assert len(model.history) == 2
        # Another shape, another slot; attention products have none.
        net(image[:1])
        assert len(model.history) == 2
        assert accelerator.stats["suppressed_unwritten"] == 0


def test_history_is_apart_for_parts_of_a_batch_and_gone_in_the_next_run(image):
    with Accelerator(CONFIG, backend="twin", protection=Protection(on_uncorrectable="suppress")) as accelerator:
        net = make(accelerator, image)
        model = offloaded_model(net)
        for part in (0, 1, 0):
            model.part = part
            net(image)
        assert len(model.history) == 4
        model.begin_run()
        assert len(model.history) == 0


def test_cycles_are_counted_when_somebody_asks(erring, image, monkeypatch):
    net = make(erring, image)
    runs = []
    model = erring._device._cycle_model
    count = model.run
    monkeypatch.setattr(model, "run", lambda *arguments: runs.append(1) or count(*arguments))
    erring.reset_stats()
    runs.clear()
    net(image)
    assert not runs
    layers = report(net)
    assert len(runs) == 4
    assert sum(layer.cycles for layer in layers) == erring.stats["cycles"]
    net(image)
    erring.close()
    assert [layer.calls for layer in report(net)] == [2] * 4
    assert all(layer.cycles > before.cycles for layer, before in zip(report(net), layers, strict=True))


@pytest.mark.rtl
@pytest.mark.parametrize("on_uncorrectable", ["keep", "suppress"])
def test_rtl_gives_the_same_bits_errors_and_cycles(on_uncorrectable, image):
    results, counts, cycles = [], [], []
    protection = Protection(on_uncorrectable=on_uncorrectable)
    for backend in ("twin", "rtl"):
        with Accelerator(CONFIG, backend=backend, protection=protection) as accelerator:
            net = make(accelerator, image)
            net(image)
            accelerator.set_error_rate(0.02, seed=5)
            results.append([net(image * factor) for factor in (1, -1)])
            counts.append(accelerator.stats["injected"])
            cycles.append([(layer.name, layer.cycles, layer.macs) for layer in report(net)])
            assert accelerator.stats["corrected"] > 0
            assert sum(layer.cycles for layer in report(net)) <= accelerator.stats["cycles"]
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    assert counts[0] == counts[1] > 0
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize("backend", ["twin", "rtl"])
def test_inference_mode_may_come_and_go(image, backend):
    with Accelerator(CONFIG, backend=backend, protection=Protection(on_uncorrectable="suppress")) as accelerator:
        with torch.inference_mode():
            net = make(accelerator, image)
            first = net(image)
        accelerator.set_error_rate(0.05, seed=1)
        with torch.no_grad():
            net(image)
        accelerator.set_error_rate(0, seed=1)
        with torch.inference_mode():
            assert torch.equal(net(image), first)
