"""What each strategy leaves of a product's errors, element by element against the clean product."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brownout.host import Accelerator, offloaded_model
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.power_policy import SelectivePolicy
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import (
    Dmr,
    Drop,
    PredictedRollback,
    PublishedDrift,
    RecomputeAbft,
    Rollback,
    Unprotected,
    ZeroingAbft,
)
from brownout.hw.config import AcceleratorConfig

from ..denoiser import CONFIG, RESIDUE, inputs, offloaded, products

RATE = 0.05
SAFE = OperatingPoint(error_rate=0.0)
LAYERS = ("blocks.0.to_q",)
"""Its inputs do not depend on what erred before."""


def run(strategy, *, rate=RATE, kinds=None, steps=4, backend="twin", bit_weights=None):
    """Sums of all products, and counters, of a run whose first evaluation is clean."""
    low = OperatingPoint(error_rate=rate, bit_weights=bit_weights)
    config = strategy.hardware(CONFIG)
    with Accelerator(config, backend=backend) as accelerator:
        net = offloaded(accelerator, steps)
        with protect(
            net, strategy, SelectivePolicy(low=low, safe=SAFE, first=1, kinds=kinds), safe=SAFE, seed=2
        ) as execution:
            seen = products(net, inputs(steps), offloaded_model(net))
        return seen, dict(accelerator.stats), execution


@pytest.fixture(scope="module")
def clean():
    return run(Unprotected(), rate=0.0)[0]


def differing(seen, clean):
    return [
        (step, (a != b)) for name in LAYERS for step, (a, b) in enumerate(zip(seen[name], clean[name], strict=True))
    ]


def test_unprotected_errors_stay(clean):
    seen, stats, _ = run(Unprotected(), kinds=["other"])
    changed = differing(seen, clean)
    assert not changed[0][1].any()
    flipped = [(a ^ b)[a != b] for a, b in zip(seen[LAYERS[0]], clean[LAYERS[0]], strict=True)]
    assert sum(len(each) for each in flipped) > 0
    # One bit each.
    assert all(int(x) & (int(x) - 1) == 0 for each in flipped for x in each)
    assert stats["injected"] > 0


def test_dropped_sums_are_zero_and_no_others_wrong(clean):
    seen, stats, _ = run(Drop(), kinds=["other"])
    for after, want in zip(seen[LAYERS[0]], clean[LAYERS[0]], strict=True):
        assert (after[after != want] == 0).all()
    assert stats["dropped"] == stats["injected"] > 0


def test_zeroed_elements_are_zero_and_small_errors_pass(clean):
    theta = 8
    seen, stats, _ = run(ZeroingAbft(theta, tile=4))
    assert stats["suppressed"] > 0
    zeroed = 0
    for after, want in zip(seen[LAYERS[0]], clean[LAYERS[0]], strict=True):
        wrong = after != want
        zeroed += int((wrong & (after == 0)).sum())
        small = (after.long() - want.long()).abs() < 1 << theta
        # What is neither zero nor small hides in a row whose errors cancel below the threshold.
        assert (~wrong | (after == 0) | small).double().mean() > 0.99
    assert zeroed > 0


def test_published_rollback_goes_back_to_the_last_checkpoint(clean):
    interval = 2
    seen, stats, _ = run(PublishedDrift(theta=0, interval=interval, tile=4), steps=5)
    reference = run(Unprotected(), rate=0.0, steps=5)[0][LAYERS[0]]
    values = seen[LAYERS[0]]
    assert torch.equal(values[0], reference[0])
    restored = 0
    for step in range(1, 5):
        checkpoint = values[(step - 1) // interval * interval]
        wrong = values[step] != reference[step]
        assert (values[step] == checkpoint)[wrong].all()
        restored += int(wrong.sum())
    assert restored > 0
    assert stats["reloaded"] >= restored


def test_ours_corrects_or_keeps_the_last_value(clean):
    seen, stats, _ = run(Rollback(RESIDUE))
    values, reference = seen[LAYERS[0]], clean[LAYERS[0]]
    kept = 0
    for step in range(1, 4):
        wrong = values[step] != reference[step]
        assert (values[step] == values[step - 1])[wrong].all()
        kept += int(wrong.sum())
    assert kept > 0
    assert stats["corrected"] > 0
    assert stats["missed"] == stats["wrong"] == 0


def test_predicted_values_lie_on_the_line_through_the_last_two_evaluations():
    damping = 0.5
    steps = 5
    seen, stats, _ = run(PredictedRollback(RESIDUE, damping=damping), steps=steps)
    values, reference = seen[LAYERS[0]], run(Unprotected(), rate=0.0, steps=steps)[0][LAYERS[0]]
    predicted = 0
    for step in range(1, steps):
        wrong = values[step] != reference[step]
        latest = values[step - 1].double()
        change = latest - values[step - 2].double() if step > 1 else torch.zeros_like(latest)
        expected = (latest + damping * change).round().int()
        assert torch.equal(values[step][wrong], expected[wrong])
        predicted += int(wrong.sum())
    assert predicted > 0
    assert stats["host_bytes"] > 0
    assert stats["missed"] == stats["wrong"] == 0


@pytest.mark.parametrize("kind", ["attention.qk", "attention.pv"])
def test_repeated_attention_is_rarely_wrong(clean, kind):
    once, _, _ = run(Rollback(RESIDUE, attempts=0), kinds=[kind], rate=0.2)
    again, _, execution = run(Rollback(RESIDUE, attempts=3), kinds=[kind], rate=0.2)
    name = f"blocks.0.{kind.partition('.')[2]}"
    errors = [
        sum(int((a != b).sum()) for a, b in zip(seen[name][1:], clean[name][1:], strict=True)) for seen in (once, again)
    ]
    assert execution.recomputed_rows > 0
    assert errors[1] < errors[0] / 3


def test_recomputing_what_is_seen_leaves_nothing(clean):
    seen, _, execution = run(RecomputeAbft(deviations=1e-9, tile=4), rate=0.01)
    assert execution.recomputed_rows > 0
    assert all(torch.equal(a, b) for name in seen for a, b in zip(seen[name], clean[name], strict=True))


def test_a_statistical_threshold_lets_small_errors_pass(clean):
    low_bits = tuple(float(bit < 4) for bit in range(31))
    seen, _, execution = run(RecomputeAbft(deviations=1.0, tile=4), bit_weights=low_bits, kinds=["qkv", "other"])
    assert execution.recomputed_rows == 0
    assert any(not torch.equal(a, b) for a, b in zip(seen[LAYERS[0]], clean[LAYERS[0]], strict=True))


def test_doing_everything_twice_finds_everything(clean):
    seen, stats, execution = run(Dmr(), rate=0.01)
    assert all(torch.equal(a, b) for name in seen for a, b in zip(seen[name], clean[name], strict=True))
    assert execution.recomputed_rows > 0
    assert stats["host_bytes"] > 0
    # Three of four evaluations twice, and rows again.
    once = run(Unprotected())[1]["macs"]
    assert stats["macs"] > 1.75 * once


def test_checks_are_off_where_nothing_can_err():
    _, stats, _ = run(Rollback(RESIDUE), rate=0.0)
    assert stats["checks"] == 0
    assert stats["energy_check_j"] == 0


@pytest.mark.rtl
def test_rtl_and_twin_go_back_to_the_same_values():
    strategy = Rollback(RESIDUE)
    (twin, twin_stats, _), (rtl, rtl_stats, _) = (run(strategy, steps=3, backend=each) for each in ("twin", "rtl"))
    assert twin.keys() == rtl.keys()
    assert all(torch.equal(a, b) for name in twin for a, b in zip(twin[name], rtl[name], strict=True))
    assert twin_stats == pytest.approx(rtl_stats)
    assert twin_stats["suppressed"] > 0


def test_hardware_is_what_the_strategy_needs():
    assert Unprotected().hardware(CONFIG).checksum is None
    assert Rollback(RESIDUE).hardware(replace(CONFIG, checksum=None)).checksum == RESIDUE
    # Late carries change runs of bits, which are no pairs of single bits.
    for timing_model, pairs in (("flip", True), ("carry", False)):
        own = Rollback().hardware(AcceleratorConfig(timing_model=timing_model))
        assert own.checksum.pairs == pairs
        Rollback().check_hardware(own)
        with pytest.raises(ValueError, match=r"^strategy 'rollback' needs checksum=.*strategy\.hardware\(config\)$"):
            Rollback().check_hardware(replace(own, checksum=replace(own.checksum, pairs=not pairs)))
    assert PublishedDrift().hardware(replace(CONFIG, rows=32, cols=32, block_rows=64)).checksum.segment_cols == 32
