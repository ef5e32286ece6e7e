"""The denoisers of `benchmarks/models.py` are the published ones, and a small one runs through it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from brownout.host import write_results
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

WIDTH, DEPTH, FREQUENCIES = 1152, 28, 256
PATCHES = (4 * 2 * 2 + 1) * WIDTH
OUTPUT = (WIDTH + 1) * 2 * 2 * 8
TIMESTEP = (FREQUENCIES + 1) * WIDTH + (WIDTH + 1) * WIDTH


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def attention_and_feed_forward(attentions: int) -> int:
    return attentions * 4 * linear(WIDTH, WIDTH) + linear(WIDTH, 4 * WIDTH) + linear(4 * WIDTH, WIDTH)


def dit_parameters() -> int:
    # In diffusers each block has embeddings of timestep and class of its own; the paper's 675 M have them once.
    block = attention_and_feed_forward(1) + linear(WIDTH, 6 * WIDTH) + TIMESTEP + 1001 * WIDTH
    return DEPTH * block + PATCHES + linear(WIDTH, 2 * WIDTH) + OUTPUT


def pixart_parameters(micro_conditions: int) -> int:
    block = attention_and_feed_forward(2) + 6 * WIDTH
    caption = linear(4096, WIDTH) + linear(WIDTH, WIDTH)
    third = WIDTH // 3
    conditions = micro_conditions * (linear(FREQUENCIES, third) + linear(third, third))
    modulation = TIMESTEP + conditions + linear(WIDTH, 6 * WIDTH)
    return DEPTH * block + PATCHES + caption + modulation + 2 * WIDTH + OUTPUT


PARAMETERS = {
    "dit_xl_2_512": dit_parameters(),
    "pixart_alpha_512": pixart_parameters(0),
    "pixart_alpha_1024": pixart_parameters(2),
    # Of the checkpoint runwayml/stable-diffusion-v1-5.
    "sd_1_5": 859_520_964,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_denoisers_have_the_published_number_of_parameters(benchmark_module, name):
    denoisers = benchmark_module("denoisers.published").DENOISERS
    assert set(denoisers) == set(PARAMETERS)
    assert denoisers[name].parameters() == PARAMETERS[name]


def test_dit_needs_the_macs_of_its_paper(benchmark_module):
    dit = benchmark_module("denoisers.published").DENOISERS["dit_xl_2_512"]
    # Peebles and Xie 2023, table 4: 524.6 G for one image of 512 x 512; guidance takes two.
    assert dit.macs() / 2 == pytest.approx(524.6e9, rel=1e-3)


def test_random_weights_keep_the_size_of_what_they_multiply(benchmark_module):
    layer = torch.nn.Conv2d(16, 8, 3)
    benchmark_module("denoisers.published").fill(layer, seed=3)
    assert float(layer.weight.detach().std()) == pytest.approx(1 / math.sqrt(16 * 9), rel=0.1)
    assert not layer.bias.any()


def test_a_small_model_runs_through_the_benchmark(benchmark_module, monkeypatch, tmp_path, capsys):
    published = benchmark_module("denoisers.published")
    models = benchmark_module("models")
    dit = published.DENOISERS["dit_xl_2_512"]
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 16}
    monkeypatch.setitem(models.DENOISERS, "small", replace(dit, config=dit.config | small))
    config = AcceleratorConfig()
    checksum = ChecksumConfig(column_checks=False)
    monkeypatch.setattr(models, "SERVER", config)
    monkeypatch.setattr(models, "SERVER_FLIP", replace(config, timing_model="flip", checksum=checksum))
    monkeypatch.setattr(models, "write_results", partial(write_results, root=tmp_path))
    models.main(only=["small"], repeats=1, threads=0)

    metrics = json.loads((tmp_path / "results" / "models.json").read_text())["metrics"]
    assert metrics["small_parameters"] == published.DENOISERS["small"].parameters()
    assert metrics["small_macs"] == metrics["small_macs_protected"] == published.DENOISERS["small"].macs()
    assert metrics["twin_over_fp32_time"] == metrics["small_twin_over_fp32_time"] > 0
    assert metrics["small_cycles_protected"] > metrics["small_cycles"] > metrics["small_macs"] / 256
    assert metrics["small_sqnr_db"] >= metrics["small_sqnr_db_protected"] > 20
    assert "load" in capsys.readouterr().out
