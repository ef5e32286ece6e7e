"""Models whose code reads the weights of their layers, adapters, and attention that was written otherwise."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, FusedAttnProcessor2_0
from torch import nn

from brownout.host import Accelerator, OffloadWarning, offload, report, restore


def relative(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


class FeedForward(nn.Module):
    """Reads the dtype of its layer before calling it, as T5 does."""

    def __init__(self):
        super().__init__()
        self.wi, self.wo = nn.Linear(16, 32, bias=False), nn.Linear(32, 16, bias=False)

    def forward(self, values):
        hidden = torch.relu(self.wi(values.to(self.wi.weight.dtype)))
        return self.wo(hidden.to(self.wo.weight.dtype))


class Tied(nn.Module):
    """Shares a matrix by reading it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 16, bias=False)

    def forward(self, values):
        return F.linear(torch.relu(self.embed(values)), self.embed.weight.t())


class Placed(nn.Module):
    """Takes device and dtype from its first parameter."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 16, bias=False)

    def forward(self, values):
        parameter = next(self.parameters())
        return self.embed(values.to(parameter.device, parameter.dtype))


@pytest.mark.parametrize("model", [FeedForward, Tied, Placed])
def test_code_that_reads_weights(model, twin, generator):
    torch.manual_seed(10)
    net, values = model().requires_grad_(False), torch.randn(8, 16, generator=generator)
    expected = net(values)
    with warnings.catch_warnings():
        # Half of the products of tied weights.
        warnings.simplefilter("ignore", OffloadWarning)
        offload(net, twin, calibration=lambda m: m(values))
    assert relative(net(values), expected) < 0.02
    restore(net)
    assert torch.equal(net(values), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_transformer_encoder(mode, twin, generator):
    """PyTorch's own: a fused path that reads all weights, and attention that calls no projection."""
    torch.manual_seed(11)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
    net = nn.TransformerEncoder(layer, 2).requires_grad_(False).eval()
    values = torch.randn(2, 7, 32, generator=generator)
    with mode():
        expected = net(values)
        with pytest.warns(UserWarning, match=r"MACs stay in float: .*'layers.0.self_attn' \(MultiheadAttention"):
            model = offload(net, twin, calibration=lambda m: m(values))
        assert 0 < relative(net(values), expected) < 0.05
        called = {each.name: each.calls for each in report(net)}
        assert called == {f"layers.{i}.linear{j}": 1 for i in range(2) for j in (1, 2)}
        reasons = {each.name: each.reason for each in model.left_in_float}
        assert reasons["layers.0.self_attn.out_proj"] == "calibration did not call it"
        assert "multi_head_attention_forward" in reasons["layers.0.self_attn"]
        restore(net)
        assert torch.equal(net(values), expected)


class LoraLinear(nn.Module):
    """As peft wraps a Linear layer with active adapters."""

    def __init__(self, base_layer, rank=4):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base_layer.out_features, bias=False)})
        self.scaling, self.active_adapters, self.merged = {"default": 2.0}, ["default"], False

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, values, *args, **kwargs):
        result = self.base_layer(values, *args, **kwargs)
        for adapter in self.active_adapters:
            lora_a, lora_b = self.lora_A[adapter], self.lora_B[adapter]
            result = result + lora_b(lora_a(values.to(lora_a.weight.dtype))) * self.scaling[adapter]
        return result.to(values.dtype)

    def merge(self):
        delta = self.lora_B["default"].weight @ self.lora_A["default"].weight * self.scaling["default"]
        self.base_layer.weight.data += delta
        self.active_adapters, self.merged = [], True


def test_active_adapters_work_and_merging_them_is_seen(twin, generator):
    torch.manual_seed(12)
    net = nn.Sequential(LoraLinear(nn.Linear(16, 16)), nn.GELU(), nn.Linear(16, 8)).requires_grad_(False)
    values = torch.randn(8, 16, generator=generator)
    expected = net(values)
    assert not offload(net, twin, calibration=lambda m: m(values), unsupported="refuse").left_in_float
    names = ["0.base_layer", "0.lora_A.default", "0.lora_B.default", "2"]
    assert [each.name for each in report(net)] == names
    assert relative(net(values), expected) < 0.03
    net[0].merge()
    assert relative(net(values), expected) < 0.03
    assert [each.calls for each in report(net)] == [2, 1, 1, 2]


def test_a_layer_that_becomes_active_after_calibration_is_right_in_float(twin, generator):
    torch.manual_seed(13)
    net = nn.Sequential(LoraLinear(nn.Linear(16, 16))).requires_grad_(False)
    values = torch.randn(8, 16, generator=generator)
    expected, net[0].active_adapters = net(values), []
    model = offload(net, twin, calibration=lambda m: m(values))
    assert [each.name for each in model.left_in_float] == ["0.lora_A.default", "0.lora_B.default"]
    net[0].active_adapters = ["default"]
    assert relative(net(values), expected) < 0.02


def test_fused_projections(twin, generator):
    torch.manual_seed(14)
    net = nn.Sequential(Attention(16, heads=2, dim_head=8, processor=FusedAttnProcessor2_0())).requires_grad_(False)
    values = torch.randn(1, 5, 16, generator=generator)
    net[0].fuse_projections()
    expected = net(values)
    model = offload(net, twin, calibration=lambda m: m(values))
    assert relative(net(values), expected) < 0.03
    assert {"0.to_qkv", "0.to_out.0", "0.qk", "0.pv"} == {each.name for each in report(net)}
    assert {each.name: each.macs for each in model.left_in_float} == {"0.to_q": 0, "0.to_k": 0, "0.to_v": 0}


@pytest.mark.parametrize("empty", ["key", "query"])
def test_attention_without_keys_is_named(empty, twin, generator):
    class Attend(nn.Module):
        def forward(self, query, key):
            return F.scaled_dot_product_attention(query, key, key)

    net = Attend()
    full = torch.randn(1, 2, 3, 4, generator=generator)
    operands = {"query": full, "key": full} | {empty: full[:, :, :0]}
    message = (
        rf"^attention '' got an empty {empty} of shape \(1, 2, 0, 4\); offloaded attention needs at least one query"
    )
    with pytest.raises(ValueError, match=message):
        offload(net, twin, calibration=lambda m: m(**operands))
    offload(net, twin, calibration=lambda m: m(full, full))
    with pytest.raises(ValueError, match=message):
        net(**operands)


def test_a_weight_that_is_shared_with_an_offloaded_layer(twin, config, generator):
    torch.manual_seed(15)
    net = nn.Sequential(nn.Sequential(nn.Linear(16, 16)), nn.Linear(16, 16)).requires_grad_(False)
    net[1].weight = net[0][0].weight
    values = torch.randn(8, 16, generator=generator)
    expected = net(values)
    with Accelerator(config, backend="twin") as other:
        offload(net[0], twin, calibration=lambda m: m(values))
        offload(net, other, calibration=lambda m: m(values), unsupported="refuse")
        assert relative(net(values), expected) < 0.02
        net[0][0].weight.neg_()
        got = net(values)
        restore(net)
    restore(net[0])
    assert net[1].weight is net[0][0].weight
    assert relative(got, net(values)) < 0.03
