"""The two products of attention move to the accelerator and back."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import calibrate, offload, report, restore
from brownout.host.offloading import attention, int8_attention


class Attend(nn.Module):
    """Calls attention itself, so often."""

    def __init__(self, calls=1, **settings):
        super().__init__()
        self.calls, self.settings = calls, settings

    def forward(self, query, key, value, mask=None):
        return sum(
            F.scaled_dot_product_attention(query * (i + 1), key, value, mask, **self.settings)
            for i in range(self.calls)
        )


def draw(generator, *shapes):
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def golden(query, key, value, mask=None, scale=None):
    """Quantised attention in float64, by its definition."""
    arrays, steps = [], []
    for each in (query, key, value):
        array = each.double().numpy()
        steps.append(np.abs(array).max() / 127)
        arrays.append(np.round(array / steps[-1]))
    q, k, v = arrays
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = q @ k.swapaxes(-1, -2) * (scale * steps[0] * steps[1])
    if mask is not None:
        scores = scores + mask
    with np.errstate(invalid="ignore"):
        weights = np.round(np.nan_to_num(np.exp(scores - scores.max(-1, keepdims=True))) * 127)
    return weights @ v * steps[2] / np.maximum(weights.sum(-1, keepdims=True), 1)


def check(net, twin, operands, expected):
    """Offloaded, `net` gives `expected`, but for exponentials that lie on the edge between two steps."""
    before = net(*operands)
    offload(net, twin, calibration=calibrate(net, lambda m: m(*operands), method="absmax"))
    got = net(*operands)
    assert got.shape == before.shape
    assert got.dtype == before.dtype
    np.testing.assert_allclose(got.double().numpy(), expected, atol=2e-3)
    restore(net)
    assert torch.equal(net(*operands), before)
    assert set(net.__dict__) == set(type(net)(net.calls).__dict__)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 10, 8), (2, 3, 10, 8), (2, 3, 10, 8)),
        ((2, 3, 10, 8), (2, 3, 17, 8), (2, 3, 17, 5)),
        ((2, 9, 8), (2, 7, 8), (2, 7, 8)),
        ((9, 8), (7, 8), (7, 8)),
        ((2, 2, 1, 5, 4), (2, 2, 1, 6, 4), (2, 2, 1, 6, 4)),
    ],
)
def test_attention_computes_quantised_arithmetic(shapes, twin, generator):
    operands = draw(generator, *shapes)
    check(Attend(), twin, operands, golden(*operands))


def test_views_of_tokens_are_taken_as_they_are(twin, generator):
    operands = tuple(x.transpose(1, 2) for x in draw(generator, *[(2, 10, 3, 8)] * 3))
    check(Attend(), twin, operands, golden(*operands))


def test_long_sequences_run_in_blocks_of_rows(twin, generator, monkeypatch):
    operands = draw(generator, *[(1, 2, 23, 8)] * 3)
    net = Attend()
    offload(net, twin, calibration=lambda m: m(*operands))
    whole = net(*operands)
    assert [product.calls for product in report(net)] == [1, 1]
    monkeypatch.setattr(attention, "ROWS_AT_ONCE", 10)
    assert torch.equal(net(*operands), whole)
    assert [product.calls for product in report(net)] == [4, 4]


def test_boolean_and_additive_masks(twin, generator):
    operands = draw(generator, (2, 2, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8))
    allowed = torch.rand(2, 1, 6, 7, generator=generator) < 0.5
    allowed[:, :, 0] = False
    added = np.where(allowed.numpy(), 0, -np.inf)
    # Float32 PyTorch gives zero, too, where all keys are masked.
    check(Attend(), twin, (*operands, allowed), golden(*operands, added))
    bias = torch.randn(1, 7, generator=generator) * 3
    check(Attend(), twin, (*operands, bias), golden(*operands, bias.double().numpy()))


def test_causal_attention_and_a_scale_of_its_own(twin, generator):
    operands = draw(generator, *[(2, 2, 7, 8)] * 3)
    net = Attend(is_causal=True, scale=0.7)
    added = np.where(np.tril(np.ones((7, 7))), 0, -np.inf)
    offload(net, twin, calibration=calibrate(net, lambda m: m(*operands), method="absmax"))
    np.testing.assert_allclose(net(*operands).numpy(), golden(*operands, added, 0.7), atol=2e-3)


def test_grouped_heads_share_keys_and_values(twin, generator):
    query, key, value = draw(generator, (2, 4, 6, 8), (2, 2, 7, 8), (2, 2, 7, 8))
    net = Attend(enable_gqa=True)
    offload(net, twin, calibration=calibrate(net, lambda m: m(query, key, value), method="absmax"))
    repeated = [x.repeat_interleave(2, 1) for x in (key, value)]
    np.testing.assert_allclose(net(query, key, value).numpy(), golden(query, *repeated), atol=2e-3)


def test_half_precision_is_computed_in_float32_and_returned_in_half(twin, generator):
    operands = tuple(x.half() for x in draw(generator, *[(1, 2, 6, 8)] * 3))
    check(Attend(), twin, operands, golden(*operands))


def test_weights_of_many_keys_keep_their_mass(twin, generator):
    # 1,024 nearly equal keys: every probability is far below 1/254.
    query, key = draw(generator, (1, 1, 8, 16), (1, 1, 1024, 16))
    value = torch.rand(1, 1, 1024, 16, generator=generator) + 1
    net = Attend()
    exact = F.scaled_dot_product_attention(query * 0.1, key, value)
    with_small_scores = (query * 0.1, key, value)
    offload(net, twin, calibration=lambda m: m(*with_small_scores))
    assert (net(*with_small_scores) - exact).abs().max() < 0.01 * exact.abs().max()


def test_each_call_in_a_module_has_scales_and_products_of_its_own(twin, generator):
    operands = draw(generator, *[(1, 2, 5, 8)] * 3)
    net = nn.ModuleDict({"inner": Attend(calls=2)})
    net.forward = lambda *x: net["inner"](*x)
    found = calibrate(net, lambda m: m(*operands), method="absmax")
    assert list(found.layers) == ["inner", "inner#1"]
    assert found.layers["inner#1"].scales[0, 0] == pytest.approx(2 * found.layers["inner"].scales[0, 0].item())
    offload(net, twin, calibration=found)
    expected = golden(*operands) + golden(operands[0] * 2, *operands[1:])
    np.testing.assert_allclose(net(*operands).numpy(), expected, atol=4e-3)
    layers = report(net)
    assert [layer.name for layer in layers] == ["inner.qk", "inner.pv", "inner#1.qk", "inner#1.pv"]
    assert sum(layer.macs for layer in layers) == twin.stats["macs"]
    net["inner"].calls = 3
    message = "module 'inner' calls attention more than 2 times, as often as in its calibration; calibrate what it is "
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}used for$"):
        net(*operands)


def test_filter_selects_the_module_that_calls_attention(twin, generator):
    operands = draw(generator, *[(1, 2, 5, 8)] * 3)
    net = nn.ModuleDict({"first": Attend(), "second": Attend()})
    net.forward = lambda q, k, v: net["second"](net["first"](q, k, v), k, v)
    offload(net, twin, calibration=lambda m: m(*operands), filter_fn=lambda layer, name: name == "second")
    net(*operands)
    assert [(layer.name, layer.kind, layer.calls) for layer in report(net)] == [
        ("second.qk", "attention", 1),
        ("second.pv", "attention", 1),
    ]


@pytest.mark.parametrize("mask", [None, "bool"])
def test_custom_op_passes_opcheck(mask, twin, generator):
    operands = draw(generator, (2, 3, 6, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    net = Attend()
    offload(net, twin, calibration=lambda m: m(*operands))
    call = net.offloaded_attention.calls[0]
    masks = {None: None, "bool": torch.ones(6, 7, dtype=torch.bool)}
    arguments = (*operands, masks[mask], call.scales, None, False, 0.3, False, call.number)
    torch.library.opcheck(int8_attention, arguments)


def test_scales_are_in_the_state_dict(twin, generator):
    operands = draw(generator, *[(1, 2, 5, 8)] * 3)
    nets = [Attend(), Attend()]
    for factor, net in enumerate(nets, 1):
        offload(net, twin, calibration=lambda m, factor=factor: m(*(x * factor for x in operands)))
    assert not torch.equal(nets[0](*operands), nets[1](*operands))
    nets[1].load_state_dict(nets[0].state_dict())
    assert torch.equal(nets[0](*operands), nets[1](*operands))


def test_dropout_and_two_kinds_of_mask_are_refused(twin, generator):
    operands = draw(generator, *[(1, 2, 5, 8)] * 3)
    net = Attend()
    offload(net, twin, calibration=lambda m: m(*operands))
    net.settings["dropout_p"] = 0.1
    with pytest.raises(ValueError, match=r"has no dropout when it is offloaded; call eval\(\) on the model$"):
        net(*operands)
    net.settings = {"is_causal": True}
    with pytest.raises(ValueError, match=r"got attn_mask and is_causal; give one of them$"):
        net(*operands, torch.zeros(5, 5))
