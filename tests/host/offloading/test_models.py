"""Diffusers' denoisers are offloaded whole, unchanged."""

from __future__ import annotations

import diffusers
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, calibrate, load_offloaded, offload, report, restore, save_offloaded
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .. import tiny_denoisers

SEED = 11


def dit():
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, num_layers=1, sample_size=8, patch_size=2
    )
    return model, {"hidden_states": torch.randn(2, 1, 8, 8), "class_labels": torch.tensor([1, 2])}


def pixart():
    model = tiny_denoisers.pixart()
    arguments = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 7, 12),
        "encoder_attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7]),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }
    return model, arguments


def unet_sd15():
    model = tiny_denoisers.unet_sd15()
    return model, {"sample": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 12)}


def unet_sdxl():
    model = tiny_denoisers.unet_sdxl()
    added = {"text_embeds": torch.randn(2, 8), "time_ids": torch.rand(2, 6)}
    arguments = {
        "sample": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 7, 12),
        "added_cond_kwargs": added,
    }
    return model, arguments


def sd3():
    model = tiny_denoisers.sd3(dual_attention_layers=(0,), qk_norm="rms_norm")
    arguments = {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "encoder_hidden_states": torch.randn(2, 7, 12),
        "pooled_projections": torch.randn(2, 10),
    }
    return model, arguments


MODELS = {each.__name__: each for each in (dit, pixart, unet_sd15, unet_sdxl, sd3)}

ATTENTION_CALLS = {"dit": 1, "pixart": 2, "unet_sd15": 8, "unet_sdxl": 8, "sd3": 3}
"""Calls of attention in each: self and cross attention of every block; a dual attention in one of SD3's."""


def make(name):
    torch.manual_seed(SEED)
    model, arguments = MODELS[name]()
    return model.eval().requires_grad_(False), arguments | {"timestep": torch.tensor([40, 40])}


@pytest.fixture
def twin():
    with Accelerator(AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24)), backend="twin") as accelerator:
        yield accelerator


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_runs_in_int8_is_saved_and_comes_back(name, twin, tmp_path):
    model, arguments = make(name)
    keys = list(model.state_dict())
    expected = model(**arguments).sample
    offload(model, twin, calibration=calibrate(model, lambda m: m(**arguments)))
    assert not any(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in model.modules())
    twin.reset_stats()
    got = model(**arguments).sample
    error = (got - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.06

    layers = report(model)
    assert len([layer for layer in layers if layer.kind == "attention"]) == 2 * ATTENTION_CALLS[name]
    assert all(layer.calls > 0 for layer in layers)
    assert all(layer.sqnr_db > 25 for layer in layers)
    for count in ("macs", "cycles", "ideal_cycles"):
        assert sum(getattr(layer, count) for layer in layers) == twin.stats[count]

    save_offloaded(model, tmp_path)
    restore(model)
    assert list(model.state_dict()) == keys
    assert torch.equal(model(**arguments).sample, expected)

    torch.manual_seed(SEED + 1)
    other = MODELS[name]()[0].eval().requires_grad_(False)
    load_offloaded(other, twin, tmp_path)
    assert torch.equal(other(**arguments).sample, got)


@pytest.mark.parametrize("name", ["pixart"])
def test_a_whole_model_compiles_without_a_graph_break(name, twin):
    model, arguments = make(name)
    offload(model, twin, calibration=calibrate(model, lambda m: m(**arguments), timestep_groups=1, measure_error=False))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(**arguments).sample, model(**arguments).sample)
