"""Range restriction, against plain arithmetic on the erring sums of an unprotected run."""

from __future__ import annotations

import pytest
import torch

from brownout.host import Accelerator, FileRefusedError, offloaded_model
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.runtime import protect
from brownout.host.drift.strategies import RangeRestriction, Unprotected
from brownout.host.drift.strategies.ranges import product_bounds
from brownout.host.storage.state import State

from ..denoiser import CONFIG, inputs, offloaded, products

SAFE = OperatingPoint(error_rate=0.0)
FIRST = "blocks.0.to_q"
"""Its inputs do not depend on what erred before."""


def run(strategy, *, product, rate=0.05, steps=5):
    """Sums of all products and counters of a run in which one product errs, after a clean evaluation."""
    low = OperatingPoint(error_rate=rate)

    def policy(site):
        return low if site.product == product and site.evaluation else SAFE

    with Accelerator(strategy.hardware(CONFIG), backend="twin") as accelerator:
        net = offloaded(accelerator, steps)
        with protect(net, strategy, policy, safe=SAFE, seed=2):
            seen = products(net, inputs(steps), offloaded_model(net))
        return seen, dict(accelerator.stats)


def restricted(erring, out_of_range, margin):
    """What is left of the sums of a column over evaluations, each a list of rows; and how many were replaced."""
    used, count = [erring[0]], 0
    for sums in erring[1:]:
        last = used[-1]
        low, high = min(last), max(last)
        reach = margin * (high - low)
        inside = [low - reach <= value <= high + reach for value in sums]
        used.append(
            [
                value if fits else (old if out_of_range == "keep" else 0)
                for value, fits, old in zip(sums, inside, last, strict=True)
            ]
        )
        count += inside.count(False)
    return used, count


@pytest.mark.parametrize("out_of_range", ["keep", "zero"])
@pytest.mark.parametrize("margin", [0.1, 0.5])
def test_sums_out_of_range_are_replaced_and_charged(out_of_range, margin):
    erring, _ = run(Unprotected(), product=FIRST)
    strategy = RangeRestriction(out_of_range, margin=margin)
    seen, stats = run(strategy, product=FIRST)
    values = [sums.reshape(-1, 8).tolist() for sums in erring[FIRST]]
    count = 0
    for column in range(8):
        expected, replaced = restricted([[row[column] for row in sums] for sums in values], out_of_range, margin)
        assert [sums.reshape(-1, 8)[:, column].tolist() for sums in seen[FIRST]] == expected
        count += replaced
    assert count > 0
    compared = 4 * len(values[0]) * 8
    assert stats["host_bytes"] == 4 * (compared + count * (2 if out_of_range == "keep" else 1))
    assert strategy.measured() == {"replaced.layer": count / compared}


def test_bounds_hold_for_all_sums_and_are_tight_for_some():
    generator = torch.Generator().manual_seed(5)
    for scale in (1, 20, 300):
        a, w = (
            (torch.randn(3, *shape, generator=generator) * scale).round().clamp(-128, 127).to(torch.int8)
            for shape in ((9, 17), (17, 11))
        )
        assert (torch.bmm(a.double(), w.double()).abs() <= product_bounds(a, w)).all()
    lowest = torch.full((1, 2, 5), -128, dtype=torch.int8)
    assert (product_bounds(lowest, lowest.mT) == 5 * 128 * 128).all()
    # Lengths 5 and 13; 7 * 12; 4 * 17.
    assert product_bounds(torch.tensor([[[3, -4]]]).char(), torch.tensor([[[5], [-12]]]).char()).item() == 65
    # One activation alone: its magnitude times the largest weight.
    assert product_bounds(torch.tensor([[[3, 0]]]).char(), torch.tensor([[[5], [-2]]]).char()).item() == 15


def test_scores_that_cannot_be_are_zero_and_others_as_they_came():
    name = "blocks.0.qk"
    erring, _ = run(Unprotected(), product=name)
    clean, _ = run(Unprotected(), product=name, rate=0.0)
    seen, _ = run(RangeRestriction(), product=name)
    zeroed = left = 0
    for got, wrong, right in zip(seen[name], erring[name], clean[name], strict=True):
        assert ((got == wrong) | (got == 0)).all()
        # No clean score is touched, and nothing is left beyond four products of int8.
        assert torch.equal(got[wrong == right], right[wrong == right])
        assert got.abs().max() <= 4 * 128 * 128
        zeroed += int((got != wrong).sum())
        left += int((got != right).sum())
    assert zeroed > 0
    assert left > zeroed / 2


def test_ranges_follow_the_scale_of_inputs():
    strategy = RangeRestriction()
    known = strategy._ranges
    tensors = {"0.low": torch.tensor([-10, 4], dtype=torch.int32), "0.high": torch.tensor([7, 1 << 30]).int()}
    strategy.load_state(State({"ranges": [[1, 0, 0, 0.5]]}, tensors), None)
    (held,) = strategy._ranges.values()
    assert known == {}
    finer = held.at(0.125)
    assert (finer.low.tolist(), finer.high.tolist()) == ([-40, 16], [28, (1 << 31) - 1])
    assert strategy.state().values == {"ranges": [[1, 0, 0, 0.5]]}


@pytest.mark.parametrize(
    ("values", "low", "reason"),
    [
        ([[1, 0, 0, -0.5]], torch.zeros(2).int(), "greater than 0, not -0.5"),
        ([[1, 0, 0]], torch.zeros(2).int(), "has a wrong form"),
        ([[1, 0, 0, 0.5]], torch.zeros(2), "tensor '0.low' of float32, not int32"),
        ([], torch.zeros(2).int(), "has a tensor '0.high'"),
    ],
)
def test_states_of_another_form_are_refused(values, low, reason):
    state = State({"ranges": values}, {"0.low": low, "0.high": torch.zeros(2).int()})
    with pytest.raises(FileRefusedError, match=reason):
        RangeRestriction().load_state(state, None)


def test_parameters_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"^out_of_range must be one of 'keep', 'zero', not 'clamp'$"):
        RangeRestriction("clamp")
    with pytest.raises(ValueError, match=r"^margin must not be negative, but is -1$"):
        RangeRestriction(margin=-1)
