"""What a resilience profile says of damages that are known."""

from __future__ import annotations

import numpy as np
import pytest

from brownout.host.drift.characterisation.profile import OrderChange, ResilienceProfile
from brownout.host.drift.characterisation.slices import Slice, bit_slices, cross
from brownout.host.drift.characterisation.stopping import Stopping
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint

RATES = tuple(OperatingPoint(error_rate=rate) for rate in (1e-5, 1e-4, 1e-3, 1e-2))
MEANS = {"early": (0.2, 0.5, 1.0, 1.2), "late": (0.1, 0.3, 1.0, 1.6), "other": (0.0, 0.0, 0.1, 0.1)}


def profile(slices=None, points=RATES, means=MEANS):
    random = np.random.default_rng(5)
    values = {
        (name, index): {"known": tuple(np.clip(mean + random.normal(0, 0.05, 40), 0, None).tolist())}
        for name, each in means.items()
        for index, mean in enumerate(each)
    }
    chosen = tuple(Slice(name=name) for name in means) if slices is None else tuple(slices)
    return ResilienceProfile(chosen, tuple(points), ("known",), values, {"known": 2.0}, Stopping(images=40), {"x": 1})


def test_order_changes_where_it_is_shown():
    found = profile().order_changes("early", "late")
    # At 1e-3 neither is shown to be worse.
    assert found == [OrderChange(RATES[1], RATES[3], "early", "late")]
    assert found[0].error_rate == pytest.approx(1e-3)
    assert profile().order_changes("early", "other") == []
    with pytest.raises(ValueError, match=r"between nominal and 0.8 V has no error rate"):
        _ = OrderChange(NOMINAL, OperatingPoint(voltage_v=0.8), "a", "b").error_rate


def test_ranking_says_which_pairs_are_ordered():
    each = profile()
    assert [name for name, _ in each.ranking(3)] == ["late", "early", "other"]
    assert each.ordered_pairs(3) == [("late", "early"), ("late", "other"), ("early", "other")]
    assert each.ordered_pairs(2) in ([("late", "other"), ("early", "other")], [("early", "other"), ("late", "other")])
    difference = each.difference("early", "late", RATES[0], confidence=0.999)
    assert difference.lower < 0.1 < difference.upper
    assert difference.samples == 40


def test_tables_and_json_have_all_of_it():
    each = profile()
    rows = each.rows()
    assert len(rows) == 12
    assert rows[0] == {"slice": "early", "setting": "1e-05", "metric": "known"} | vars(each.damage("early", 0))
    assert ResilienceProfile.from_json(each.to_json()) == each
    with pytest.raises(ValueError, match="this is no resilience profile"):
        ResilienceProfile.from_json("{}")
    with pytest.raises(KeyError, match="slice 'x' was not measured; there are early, late, other"):
        each.damage("x", 0)


def test_plots_show_the_damages(tmp_path):
    from brownout.host.drift.characterisation.plots import (
        damage_by_slice,
        damage_over_bit,
        damage_over_point,
        heat_map,
    )

    bits = bit_slices([4, 20])
    found = damage_over_bit(profile(bits, means={"bit4": (0.1,) * 4, "bit20": (1.0,) * 4}), bits)
    lines = found.axes[0].containers
    assert [each.get_label() for each in lines] == ["1e-05", "0.0001", "0.001", "0.01"]
    assert lines[0].lines[0].get_xdata().tolist() == [4, 20]
    assert lines[0].lines[0].get_ydata() == pytest.approx([0.1, 1.0], abs=0.05)
    with pytest.raises(ValueError, match="slices of one bit each"):
        damage_over_bit(profile(), [Slice(name="early")])

    rows = [Slice(name="e0", evaluations=(0,)), Slice(name="e1", evaluations=(1,))]
    columns = [Slice(name="b0", blocks=("b.0",))]
    grid = cross(rows, columns)
    image = heat_map(profile(grid, RATES[:1], {"e0/b0": (0.5,), "e1/b0": (0.1,)}), rows, columns, 0)
    assert image.axes[0].images[0].get_array().shape == (2, 1)

    assert len(damage_over_point(profile()).axes[0].containers) == 3
    volts = [OperatingPoint(voltage_v=0.8), OperatingPoint(voltage_v=0.7)]
    by_point = damage_over_point(profile(None, volts, {"early": (0.1, 0.2)}))
    assert [each.get_text() for each in by_point.axes[0].get_xticklabels()] == ["0.8 V", "0.7 V"]
    bars = damage_by_slice(profile(), 3)
    assert [each.get_text() for each in bars.axes[0].get_yticklabels()] == ["late", "early", "other"]
    bars.savefig(tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"
