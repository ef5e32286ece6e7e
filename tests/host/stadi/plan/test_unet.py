"""Products and exchanges of a divided U-Net, against the whole model and against counts by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from brownout.host.offloading.layer_types import Conv2dType, register_layer_type, registry
from brownout.host.stadi.plan.coding import ExchangeCoding
from brownout.host.stadi.plan.costs import CostModel
from brownout.host.stadi.plan.device import DeviceSpec, FleetSpec
from brownout.host.stadi.plan.divided import StageExchange
from brownout.host.stadi.plan.link import Link, Links
from brownout.host.stadi.plan.planner import METHODS, Planner
from brownout.host.stadi.plan.unet import ConvLayout, PatchedUnet
from brownout.host.stadi.simulate.simulation import Simulation
from brownout.host.workload.counting import CountedWorkload
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from ... import tiny_denoisers
from ..fakes import LinearCosts, fleet

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24))
CONTEXT = 7


def traced(model, images=2, size=8, **options):
    arguments = {
        "sample": torch.zeros(images, 4, size, size),
        "timestep": torch.full((images,), 40),
        "encoder_hidden_states": torch.zeros(images, CONTEXT, 12),
    }
    if model.config.addition_embed_type:
        arguments["added_cond_kwargs"] = {"text_embeds": torch.zeros(images, 8), "time_ids": torch.zeros(images, 6)}
    return PatchedUnet.trace(model.eval(), lambda each: each(**arguments), images=images, **options)


@pytest.fixture(scope="module")
def unet():
    return traced(tiny_denoisers.unet_sd15())


@pytest.mark.parametrize("make", [tiny_denoisers.unet_sd15, tiny_denoisers.unet_sdxl])
def test_all_rows_are_the_whole_model(make):
    divided = traced(make())
    # Two levels of 8 x 8 and 4 x 4 pixels.
    assert divided.rows == 4
    assert [product for stage in divided.stages(4) for product in stage] == list(divided.workload.products)


def test_time_of_all_rows_is_that_of_the_whole_model(unet):
    costs = CostModel(unet).of(DeviceSpec(name="a", config=CONFIG))
    stats = CountedWorkload(CONFIG, unet.workload, requantise=True).evaluate()
    assert costs.seconds(4) == pytest.approx(stats["time_s"], rel=1e-12)
    assert costs.seconds(1) < costs.seconds(4)


def test_a_patch_has_its_own_pixels_of_every_level(unet):
    shapes = {product.name: product.shape for stage in unet.stages(3) for product in stage}
    # Three of four rows: 6 of 8 rows of latents, 3 of 4 of the deeper level; two images.
    assert shapes["conv_in"].m == 2 * 6 * 8
    assert shapes["down_blocks.0.downsamplers.0.conv"].m == 2 * 3 * 4
    assert shapes["up_blocks.0.upsamplers.0.conv"].m == 2 * 6 * 8
    assert shapes["conv_in"].k == 4 * 9
    block = "down_blocks.0.attentions.0.transformer_blocks.0"
    assert shapes[f"{block}.attn1.to_q"].m == 2 * 6 * 8
    assert (shapes[f"{block}.attn1.qk"].m, shapes[f"{block}.attn1.qk"].n) == (6 * 8, 8 * 8)
    assert (shapes[f"{block}.attn2.qk"].m, shapes[f"{block}.attn2.qk"].n) == (6 * 8, CONTEXT)
    # Every device computes these.
    assert shapes[f"{block}.attn2.to_k"].m == 2 * CONTEXT
    assert shapes["time_embedding.linear_1"].m == shapes["down_blocks.0.resnets.0.time_emb_proj"].m == 2


def test_keys_of_a_prompt_with_as_many_tokens_as_pixels_are_not_divided(monkeypatch):
    monkeypatch.setitem(globals(), "CONTEXT", 16)
    divided = traced(tiny_denoisers.unet_sd15())
    shapes = {product.name: product.shape for stage in divided.stages(1) for product in stage}
    assert shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k"].m == 2 * 16
    assert shapes["mid_block.attentions.0.transformer_blocks.0.attn1.to_k"].m == 2 * 4


def test_halves_of_guidance_are_half_of_the_products(unet):
    half = sum(product.shape.macs for stage in unet.stages(4, 1) for product in stage)
    assert 2 * half == unet.workload.macs


def test_stages_begin_where_something_is_exchanged(unet):
    model = tiny_denoisers.unet_sd15()
    norms = sum(isinstance(module, nn.GroupNorm) for module in model.modules())
    wide = sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in model.modules())
    attentions = sum(name.endswith("attn1") for name, _ in model.named_modules())
    kinds = [(bool(each.fixed_bytes), bool(each.after_bytes), bool(each.row_bytes)) for each in unet.exchanges]
    assert (kinds.count((True, False, False)), kinds.count((False, True, False))) == (norms, wide)
    assert kinds.count((False, False, True)) == attentions
    assert len(unet.exchanges) == norms + wide + attentions
    stages = unet.stages(1)
    assert len(stages) == len(unet.exchanges) + 1
    # The borders of the first convolution come before everything but the embedding of the timestep.
    assert [product.name for product in stages[0]] == ["time_embedding.linear_1", "time_embedding.linear_2"]
    assert [product.name for product in stages[1]] == ["conv_in"]
    # A norm, then its convolution: sums are exchanged, then borders.
    assert stages[2] == ()
    assert stages[3][0].name == "down_blocks.0.resnets.0.conv1"


def test_exchanges_have_the_bytes_of_borders_moments_and_keys(unet):
    assert unet.exchanges[0] == StageExchange(before_bytes=2 * 4 * 8, after_bytes=2 * 4 * 8)
    # 2 groups of 4 channels on 2 x 8 pixels of a row; two images.
    assert unet.exchanges[1] == StageExchange(fixed_bytes=2 * 2 * 2 * 4, synchronous_row_bytes=2 * 4 * 16 * 4)
    assert unet.exchanges[1].bytes(3, 1, whole=True, synchronous=True) == 3 * unet.exchanges[1].synchronous_row_bytes
    # A stride of two needs the row of pixels before its own only.
    one_sided = [each for each in unet.exchanges if bool(each.before_bytes) != bool(each.after_bytes)]
    assert one_sided == [StageExchange(after_bytes=2 * 4 * 8)]
    # Keys and values, 4 channels of 2 x 8 pixels and 8 of 4; two images.
    assert [size for size in unet.exchange_bytes_per_row if size] == [
        2 * 2 * 4 * 16,
        2 * 2 * 8 * 4,
        *[2 * 2 * 4 * 16] * 2,
    ]
    coding = ExchangeCoding(4, 8)
    coded = replace(unet, coding=coding).exchanges
    assert {each.coded_row_bytes for each in coded if each.row_bytes} == {coding.bytes(256), coding.bytes(128)}
    assert unet.latent_bytes_per_row == 4 * 2 * 8 * 4


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (1, 1, 0), (3, 1, "same")])
def test_borders_are_what_a_convolution_needs(kernel, stride, padding):
    conv = nn.Conv2d(2, 3, kernel, stride, padding)
    deep = nn.Sequential(conv, nn.Conv2d(3, 3, 1))
    values = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    layout = PatchedUnet.trace(deep, lambda model: model(values)).layout.convolutions["0"]
    # Output rows 2 and 3.
    first, last = 2 * stride - layout.before, 4 * stride + layout.after
    sides = nn.functional.pad(values[:, :, first:last], (kernel // 2, kernel // 2))
    patch = nn.functional.conv2d(sides, conv.weight, conv.bias, stride)
    torch.testing.assert_close(patch, conv(values)[:, :, 2:4])


def test_layers_on_pixels_of_another_type_are_divided_as_convolutions_are(monkeypatch):
    monkeypatch.setattr(registry, "_TYPES", dict(registry._TYPES))

    class Halved(nn.Conv2d):
        def forward(self, input):
            return super().forward(input) / 2

    @register_layer_type(Halved)
    class HalvedType(Conv2dType):
        kind = "halved"

    images = torch.zeros(2, 2, 12, 6)
    divided = PatchedUnet.trace(nn.Sequential(Halved(2, 3, 3, 1, 1)), lambda model: model(images), images=2)
    assert divided.layout.convolutions["0"] == ConvLayout(2, 6, 12, 12, 1, 1)
    ((exchange,), (_, (product,))) = divided.exchanges, divided.stages(5, 1)
    assert (exchange.before_bytes, exchange.after_bytes) == (2 * 2 * 6, 2 * 2 * 6)
    assert (product.kind, product.shape.m) == ("halved", 5 * 6)


def test_neighbours_get_borders_and_all_get_moments_and_keys():
    costs = LinearCosts({"a": 1, "b": 1, "c": 1}, rows=6, exchanges=3)
    costs.model.exchanges = (
        StageExchange(fixed_bytes=7),
        StageExchange(before_bytes=3, after_bytes=5),
        StageExchange(row_bytes=11),
    )
    devices = fleet("abc", Links(Link(bytes_per_s=10, latency_s=1)))
    planner = Planner(devices, costs, steps=1, warmup=1)
    explained = planner.plan("uniform")
    timeline = Simulation(devices, costs).run(explained.plan)
    assert timeline.link_bytes == 6 * 7 + 2 * 3 + 2 * 5 + 6 * 22
    # Four stages of 0.5 s. Sums are there at 2.2; borders at 2.7 + 1.3 (a) and 2.7 + 1.5 (b and c); keys of b and c,
    # computed at 4.7, at 7.9; the sync point takes another second.
    assert timeline.latency_s == pytest.approx(7.9 + 0.5 + 1)
    assert explained.prediction.latency_s == pytest.approx(timeline.latency_s)
    # Later steps: each device sends for one evaluation what the next one uses.
    later = Planner(devices, costs, steps=3, warmup=0).plan("uniform").plan
    assert Simulation(devices, costs).run(later).link_bytes == 2 * (6 * 7 + 2 * 3 + 2 * 5 + 6 * 22)


@pytest.mark.parametrize("method", METHODS)
def test_all_methods_plan_it(unet, method):
    slow = replace(CONFIG, cols=CONFIG.cols // 2)
    devices = FleetSpec(tuple(DeviceSpec(name=name, config=each) for name, each in (("a", CONFIG), ("b", slow))))
    costs = CostModel(unet)
    explained = Planner(devices, costs, steps=20).plan(method)
    timeline = Simulation(devices, costs).run(explained.plan)
    assert explained.prediction.latency_s == pytest.approx(timeline.latency_s, rel=0.03)


def test_impossible_models_are_refused():
    with pytest.raises(ValueError, match=re.escape("rows must be in 1..4, not 5")):
        traced(tiny_denoisers.unet_sd15()).stages(5)
    values = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"^0 makes 6 rows of pixels of 8 with kernel 3, stride 1 and padding 0; only"):
        PatchedUnet.trace(nn.Sequential(nn.Conv2d(2, 2, 3)), lambda model: model(values))
    three = nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1), nn.Upsample(size=(12, 12)), nn.Conv2d(2, 2, 3, 1, 1))
    with pytest.raises(
        ValueError, match=r"^2 has 12 rows of pixels in and 12 out, which are not multiples of the 8 of"
    ):
        PatchedUnet.trace(three, lambda model: model(values))
    with pytest.raises(ValueError, match=r"^PatchedUnet\.images must be at least 1, not 0$"):
        PatchedUnet.trace(nn.Sequential(nn.Conv2d(2, 2, 3, 1, 1)), lambda model: model(values), images=0)
