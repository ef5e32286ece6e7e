"""Offloaded attention as one command: where the accelerator has the unit and the call fits, and not elsewhere."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Accelerator, OperatingPoint, Rollback, SelectivePolicy, calibrate, offload, protect, report
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.drift.strategies import Unprotected
from brownout.host.offloading import Calibration, offloaded_model, restore
from brownout.host.offloading.execution import Execution, knows_of
from brownout.host.workload.product_site import ATTENTION_KINDS
from brownout.host.workload.shaped import ShapedModel
from brownout.host.workload.trace import trace_workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

UNIT = AcceleratorConfig(rows=8, cols=8, block_rows=32, block_col_tiles=4, slab_bytes=16, attention=True)
ERRING = dataclasses.replace(
    UNIT,
    timing_model="flip",
    checksum=ChecksumConfig(scheme="residue", column_checks=False, segment_cols=16, pairs=True),
)
LOW = OperatingPoint(voltage_v=0.66)


class Attend(nn.Module):
    """Queries, keys and values of tokens by layers, and attention of heads of 8."""

    def __init__(self, **settings: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.settings = settings

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        heads = (layer(tokens).unflatten(-1, (2, 8)).transpose(-2, -3) for layer in self.layers)
        return F.scaled_dot_product_attention(*heads, attn_mask=mask, **self.settings).transpose(-2, -3).flatten(-2)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(3, 21, 16, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def unit():
    with Accelerator(UNIT, "twin") as accelerator:
        yield accelerator


def make(**settings: bool) -> Attend:
    torch.manual_seed(1)
    return Attend(**settings).eval()


def commands(accelerator: Accelerator, net: nn.Module, *arguments: torch.Tensor) -> tuple[torch.Tensor, int]:
    before = accelerator.stats["commands"]
    with torch.no_grad():
        out = net(*arguments)
    return out, int(accelerator.stats["commands"] - before)


@pytest.mark.parametrize("settings", [{}, {"is_causal": True}], ids=["all keys", "causal"])
def test_one_command_close_to_float(unit: Accelerator, tokens: torch.Tensor, settings: dict[str, bool]) -> None:
    net = make(**settings)
    wanted = net(tokens)
    offload(net, unit, calibration=lambda m: m(tokens))
    out, count = commands(unit, net, tokens)
    assert count == 4
    assert out.shape == wanted.shape
    error = (out - wanted).square().mean() / wanted.square().mean()
    assert 10 * math.log10(error.item()) < -30
    scores, values = (each for each in report(net) if each.kind == "attention")
    assert scores.macs == values.macs == 3 * 2 * 21 * 21 * 8
    assert values.cycles > 0
    restore(net)


def test_the_same_bits_on_rtl_twin_and_in_threads_of_any_number(unit: Accelerator, tokens: torch.Tensor) -> None:
    outs = []
    for threads in (1, 2):
        net, kept = make(), torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            offload(net, unit, calibration=lambda m: m(tokens))
            outs.append(commands(unit, net, tokens)[0])
        finally:
            torch.set_num_threads(kept)
    assert torch.equal(*outs)


def test_calls_that_do_not_fit_are_two_products(unit: Accelerator, tokens: torch.Tensor) -> None:
    net = make()
    calibration = calibrate(net, lambda m: m(tokens))
    offload(net, unit, calibration=calibration)
    mask = torch.rand(3, 1, 21, 21) < 0.9
    assert commands(unit, net, tokens, mask | torch.eye(21, dtype=torch.bool))[1] == 5
    many = torch.randn(1, 1025, 16)
    assert commands(unit, net, many)[1] > 5, "more keys than an accumulator bank has room for"
    restore(net)
    layers = {name: dataclasses.replace(each, output=None) for name, each in calibration.layers.items()}
    offload(net, unit, calibration=dataclasses.replace(calibration, layers=layers))
    assert commands(unit, net, tokens)[1] == 5, "a calibration of earlier programs has no scale of the output"
    restore(net)
    seen = []
    offload(net, unit, calibration=calibration, observer=lambda name, sums: seen.append(name))
    assert commands(unit, net, tokens)[1] == 5, "an observer sees all sums"
    assert len(seen) == 5


def test_output_scales_are_kept_in_files(tokens: torch.Tensor, tmp_path) -> None:
    found = calibrate(make(), lambda m: m(tokens))
    found.save(tmp_path / "calibration.safetensors")
    loaded = Calibration.load(tmp_path / "calibration.safetensors")
    (name,) = (name for name, each in found.layers.items() if each.kind == "attention")
    assert found.layers[name].output is not None
    assert torch.equal(found.layers[name].output, loaded.layers[name].output)


def test_what_is_not_finite(unit: Accelerator, tokens: torch.Tensor) -> None:
    net = make(is_causal=True)
    offload(net, unit, calibration=lambda m: m(tokens))
    clean, _ = commands(unit, net, tokens)
    bad = tokens.clone()
    bad[1, 7, 3] = math.nan
    out, count = commands(unit, net, bad)
    assert count == 4
    assert out[1, 7:].isnan().all()
    good = torch.ones(3, 21, dtype=torch.bool)
    good[1, 7:] = False
    assert torch.equal(out[good], clean[good])


@pytest.mark.parametrize(
    ("strategy", "together"),
    [(Rollback(attempts=0), True), (Rollback(attempts=2), False), (Unprotected(), True)],
    ids=["zero", "repeat", "unprotected"],
)
def test_strategies_that_need_no_products_apart(strategy, together: bool, tokens: torch.Tensor, monkeypatch) -> None:
    config = strategy.hardware(ERRING)
    net = make()
    policy = SelectivePolicy(low=LOW, kinds=ATTENTION_KINDS)
    with Accelerator(config, "twin") as accelerator:
        offload(net, accelerator, calibration=lambda m: m(tokens))
        clean, _ = commands(accelerator, net, tokens)
        points = []
        attend = accelerator.attention

        def watched(*arguments, **named):
            points.append(accelerator.operating_points[0].voltage_v)
            return attend(*arguments, **named)

        monkeypatch.setattr(accelerator, "attention", watched)
        with protect(net, strategy, policy, seed=3):
            out, _ = commands(accelerator, net, tokens)
        assert points == [0.66] * together
        assert accelerator.stats["injected"] > 0
        assert not torch.equal(out, clean)


class Counting(Execution):
    """Wants to see each product of attention."""

    def __init__(self) -> None:
        self.seen = 0

    def attention_product(self, call, out) -> None:
        self.seen += 1
        super().attention_product(call, out)


class Repeating(Unprotected):
    def attention_product(self, run, call, point, out) -> None:
        for _ in range(2):
            super().attention_product(run, call, point, out)


def test_who_changes_products_of_attention_gets_them(unit: Accelerator, tokens: torch.Tensor) -> None:
    net = make()
    model = offload(net, unit, calibration=lambda m: m(tokens))
    model.execution = Counting()
    assert commands(unit, net, tokens)[1] == 5
    assert model.execution.seen == 2
    assert knows_of(Unprotected, "attention_protection", "attention_product")
    assert not knows_of(Repeating, "attention_protection", "attention_product")


def test_scales_of_another_calibration_are_for_two_products(unit: Accelerator, tokens: torch.Tensor) -> None:
    """Their outputs may be larger than the scale of the output allows."""
    net, other = make(), make()
    offload(net, unit, calibration=lambda m: m(tokens))
    assert commands(unit, net, tokens)[1] == 4
    offload(other, unit, calibration=lambda m: m(30 * tokens))
    net.load_state_dict(other.state_dict())
    out, count = commands(unit, net, 30 * tokens)
    assert count == 5
    restore(other)
    wanted = other(30 * tokens)
    assert (out - wanted).square().mean() < 1e-2 * wanted.square().mean()


def test_a_workload_costs_what_the_model_does(tokens: torch.Tensor) -> None:
    net = make()
    workload = trace_workload(net, lambda m: m(tokens))
    with Accelerator(UNIT, "twin") as twin, Accelerator(UNIT, ShapeBackend(UNIT)) as shapes:
        offload(net, twin, calibration=lambda m: m(tokens))
        twin.reset_stats()
        commands(twin, net, tokens)
        executed = dict(twin.stats)
        model = ShapedModel(shapes, workload)
        shapes.reset_stats()
        model.evaluate()
        assert dict(shapes.stats) == executed
        assert offloaded_model(net).products


def key_mask(*kept: Sequence[int], dtype: torch.dtype = torch.bool) -> torch.Tensor:
    """(B, 1, 1, 21): keys that each image keeps; as -1e4 of the others where numbers are added."""
    mask = torch.zeros(len(kept), 1, 1, 21, dtype=torch.bool)
    for image, keys in zip(mask, kept, strict=True):
        image[..., list(keys)] = True
    return mask if dtype == torch.bool else torch.zeros(mask.shape).masked_fill_(~mask, -1e4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
@pytest.mark.parametrize(
    ("kept", "count"),
    [
        ([range(21)] * 3, 1),
        ([range(5)] * 3, 1),
        ([range(9), range(9), range(2)], 2),
        ([[0, 3, 20], [7], [0, 3, 20]], 3),
    ],
    ids=["all keys", "the same keys", "two lengths", "holes"],
)
def test_keys_that_a_mask_rules_out_are_left_out(
    unit: Accelerator, tokens: torch.Tensor, dtype: torch.dtype, kept: list[Sequence[int]], count: int
) -> None:
    """A command for images one behind the other with the same keys, each with the bits of the image alone, cut."""
    net = make()
    wanted = net(tokens, key_mask(*kept))
    offload(net, unit, calibration=lambda m: m(tokens, key_mask(*kept)))
    out, commands_sent = commands(unit, net, tokens, key_mask(*kept, dtype=dtype))
    assert commands_sent == 3 + count
    error = (out - wanted).square().mean() / wanted.square().mean()
    assert 10 * math.log10(error.item()) < -25
    for index, keys in enumerate(kept):
        alone, _ = commands(unit, net, tokens[index : index + 1], key_mask(keys, dtype=dtype))
        assert torch.equal(out[index], alone[0])


def test_masked_values_do_not_matter_unless_they_are_no_numbers(unit: Accelerator, tokens: torch.Tensor) -> None:
    net = make()
    offload(net, unit, calibration=lambda m: m(tokens))
    mask = key_mask(*[range(15)] * 3)
    wanted = net(tokens, mask)[:, :15]
    other = tokens.clone()
    other[:, 15:] = 0.1
    assert torch.equal(net(other, mask)[:, :15], wanted)
    other[:, 15:] = torch.nan
    # At -inf they do not count; at -1e4 NaN stays NaN, as in float.
    assert torch.equal(net(other, mask)[:, :15], wanted)
    assert net(other, key_mask(*[range(15)] * 3, dtype=torch.float32)).isnan().all()


@pytest.mark.parametrize(
    "mask",
    [
        torch.zeros(21, 21),
        torch.full((3, 1, 1, 21), 0.5),
        torch.full((3, 1, 1, 21), -1e4),
        torch.zeros(3, 2, 1, 21).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(-torch.inf)),
    ],
    ids=["of queries", "of numbers", "of no key", "of a head"],
)
def test_other_masks_are_two_products(unit: Accelerator, tokens: torch.Tensor, mask: torch.Tensor) -> None:
    net = make()
    wanted = net(tokens, mask)
    offload(net, unit, calibration=lambda m: m(tokens))
    out, count = commands(unit, net, tokens, mask)
    assert count == 5
    assert torch.allclose(out, wanted, atol=0.05)


def test_errors_of_pieces_are_those_of_the_whole(tokens: torch.Tensor) -> None:
    """Draws know the place in the batch: cutting it into commands, because of a key, changes no other image."""
    found = []
    for last in (range(21), range(20)):
        with Accelerator(ERRING, "twin") as erring:
            net = make()
            offload(net, erring, calibration=lambda m: m(tokens))
            erring.set_error_rate(0.05, seed=3)
            found.append(net(tokens, key_mask(range(21), range(21), last)))
            assert erring.stats["injected"] > 20
    assert torch.equal(found[0][:2], found[1][:2])
