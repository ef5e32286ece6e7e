"""Pruned models compute what the whole ones do without the units that are gone."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch
from torch import nn

from brownout.host import Accelerator, calibrate, load_denoiser, offload, report, restore, sample
from brownout.host.models.pruning import hidden_statistics, importance, prune_mlp
from brownout.host.models.spec import DIGITS

from .. import tiny_denoisers

MLP = "transformer_blocks.1.ff"


def draw(model):
    return sample(model, DIGITS, [1, 4, 8], seed=2, num_inference_steps=3)


@pytest.fixture(scope="module")
def digits():
    return load_denoiser("digits")


@pytest.fixture(scope="module")
def statistics(digits):
    return hidden_statistics(digits, draw)


def kept_units(whole, pruned, name):
    """Which units of an MLP are still there, found by their weights."""
    rows = whole.get_submodule(name).net[0].proj.weight
    return [int((rows == row).all(1).nonzero()) for row in pruned.get_submodule(name).net[0].proj.weight]


def masked(model, pruned):
    """The whole model, with the units that `pruned` lacks set to zero."""
    result = copy.deepcopy(model)
    for index in range(len(result.transformer_blocks)):
        name = f"transformer_blocks.{index}.ff"
        gone = torch.ones(result.get_submodule(name).net[2].in_features, dtype=torch.bool)
        gone[kept_units(model, pruned, name)] = False
        first, second = result.get_submodule(name).net[0].proj, result.get_submodule(name).net[2]
        first.weight[gone] = 0
        first.bias[gone] = 0
        second.weight[:, gone] = 0
    return result


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_on_the_accelerator_a_pruned_model_is_the_masked_one(config, digits, share):
    """In int8 to the last bit."""
    pruned = prune_mlp(digits, share)
    # One for both: float sums, and with them scales, depend on the order in which a library adds.
    calibration = calibrate(pruned, draw, method="absmax", measure_error=False)
    images, macs = [], []
    for model in (pruned, masked(digits, pruned)):
        with Accelerator(config, backend="twin") as twin:
            offload(model, twin, calibration=calibration)
            images.append(draw(model))
            macs.append({layer.name: layer.macs for layer in report(model)})
            restore(model)
    assert torch.equal(*images)
    for name in macs[1]:
        factor = 1 - share if ".ff.net." in name else 1
        assert macs[0][name] == factor * macs[1][name], name


def test_the_model_itself_is_not_changed(digits):
    before = {name: value.clone() for name, value in digits.state_dict().items()}
    pruned = prune_mlp(digits, 0.5)
    assert isinstance(pruned, diffusers.DiTTransformer2DModel)
    after = digits.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(each.requires_grad for each in pruned.parameters())
    assert not any(module.training for module in pruned.modules())
    assert torch.equal(draw(prune_mlp(digits, 0)), draw(digits))


def test_the_least_important_units_go(digits, statistics):
    for given in (None, statistics):
        pruned = prune_mlp(digits, 0.25, statistics=given)
        scores = importance(digits, given)[MLP]
        kept = kept_units(digits, pruned, MLP)
        gone = sorted(set(range(len(scores))) - set(kept))
        assert kept == sorted(kept)
        assert len(gone) == len(scores) // 4
        assert scores[gone].max() <= scores[kept].min()


def test_importance_is_the_product_of_lengths(digits, statistics):
    mlp = digits.get_submodule(MLP)
    unit = 17
    column = sum(float(x) ** 2 for x in mlp.net[2].weight[:, unit]) ** 0.5
    row = sum(float(x) ** 2 for x in mlp.net[0].proj.weight[unit]) ** 0.5
    assert importance(digits)[MLP][unit].item() == pytest.approx(column * row)
    hidden = []
    handle = mlp.net[2].register_forward_pre_hook(lambda _m, arguments: hidden.append(arguments[0][..., unit]))
    draw(digits)
    handle.remove()
    activations = torch.stack(hidden).double()
    size = activations.square().mean().sqrt().item()
    assert importance(digits, statistics)[MLP][unit].item() == pytest.approx(column * size)
    assert statistics[MLP].mean[unit].item() == pytest.approx(activations.mean().item())


@pytest.mark.parametrize("compensation", [None, "mean", "least_squares"])
def test_compensation_on_the_calibration_data(digits, statistics, compensation):
    """Against ``torch.linalg.lstsq`` and means of the data itself; outputs are those of one MLP."""
    inputs = []
    handle = digits.get_submodule(MLP).net[2].register_forward_pre_hook(lambda _m, a: inputs.append(a[0].flatten(0, 1)))
    draw(digits)
    handle.remove()
    hidden = torch.cat(inputs).double()
    pruned = prune_mlp(digits, 0.5, statistics=statistics, compensation=compensation)
    layer, whole = pruned.get_submodule(MLP).net[2].double(), copy.deepcopy(digits.get_submodule(MLP).net[2]).double()
    kept = kept_units(digits, pruned, MLP)
    error = whole(hidden) - layer(hidden[:, kept])
    if compensation is None:
        assert torch.equal(layer.weight, whole.weight[:, kept])
        assert torch.equal(layer.bias, whole.bias)
        return
    assert error.mean(0).abs().max() < 1e-5
    if compensation == "mean":
        assert torch.equal(layer.weight, whole.weight[:, kept])
        return
    known = torch.cat([hidden[:, kept], torch.ones(len(hidden), 1).double()], 1)
    best = torch.linalg.lstsq(known, whole(hidden)).solution
    least = (whole(hidden) - known @ best).square().mean()
    assert error.square().mean() == pytest.approx(least.item(), rel=1e-2)


def test_gated_mlps_lose_value_and_gate():
    torch.manual_seed(0)
    unet = tiny_denoisers.unet_sd15().eval()
    name = "down_blocks.0.attentions.0.transformer_blocks.0.ff"
    whole, smaller = unet.get_submodule(name), prune_mlp(unet, 0.5).get_submodule(name)
    hidden = whole.net[2].in_features
    assert whole.net[0].proj.out_features == 2 * hidden
    assert smaller.net[0].proj.out_features == smaller.net[2].in_features * 2 == hidden
    rows = whole.net[0].proj.weight
    kept = [int((rows == row).all(1).nonzero()) for row in smaller.net[0].proj.weight]
    assert kept[len(kept) // 2 :] == [unit + hidden for unit in kept[: len(kept) // 2]]
    values = torch.randn(5, 4)
    with torch.no_grad():
        activations = whole.net[0](values)
        expected = activations[:, kept[: hidden // 2]] @ whole.net[2].weight[:, kept[: hidden // 2]].T
        torch.testing.assert_close(smaller(values), expected + whole.net[2].bias)


def test_what_cannot_be_pruned_is_refused(config, digits, statistics):
    with pytest.raises(ValueError, match=r"^share must be in 0 to below 1, not 1$"):
        prune_mlp(digits, 1)
    with pytest.raises(ValueError, match=r"^compensation must be None or one of 'mean', 'least_squares', not 'bias'$"):
        prune_mlp(digits, 0.5, compensation="bias")
    with pytest.raises(ValueError, match=r"^compensation='mean' needs statistics=hidden_statistics\(model, run\)$"):
        prune_mlp(digits, 0.5, compensation="mean")
    with pytest.raises(ValueError, match=r"^statistics do not fit MLP 'transformer_blocks.0.ff', of 128 hidden units"):
        prune_mlp(prune_mlp(digits, 0.5), 0.5, statistics=statistics)
    with pytest.raises(ValueError, match=r"^Linear has no MLP of diffusers \(FeedForward\) to prune$"):
        importance(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^MLP 'transformer_blocks.0.ff' was not evaluated by run"):
        hidden_statistics(digits, lambda model: None)
    with Accelerator(config, backend="twin") as twin:
        model = load_denoiser("digits")
        offload(model, twin, calibration=calibrate(model, draw, measure_error=False))
        with pytest.raises(ValueError, match=r"are not Linear; prune before offload, or restore first$"):
            prune_mlp(model, 0.5)
