"""Ranges are watched: what calibration did not see stays in float, and inputs that saturate are counted and told."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import Calibration, calibrate, offload, report, restore
from brownout.host.errors import OffloadError, OffloadWarning


class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.main, self.condition = nn.Linear(16, 16), nn.Linear(16, 16)
        self.requires_grad_(False)

    def forward(self, values, condition, timestep=None):
        return self.main(values) + self.condition(condition)


@pytest.fixture
def values(generator):
    return torch.randn(8, 16, generator=generator)


ZEROS = "'condition' got only zeros in calibration and stay in float; to offload them, calibrate with inputs that reach"


def test_a_layer_that_saw_only_zeros_stays_in_float_and_is_right(twin, values, tmp_path):
    net, zeros = Conditioned(), torch.zeros(8, 16)
    expected = net.condition(values * 0.2)
    with pytest.warns(OffloadWarning, match=f"^{re.escape(ZEROS)}"):
        calibration = calibrate(net, lambda m: m(values, zeros))
    calibration.save(tmp_path / "c")
    for each in (calibration, Calibration.load(tmp_path / "c")):
        net = Conditioned()
        with pytest.warns(OffloadWarning, match="of the model's MACs stay in float"):
            model = offload(net, twin, calibration=each)
        assert torch.equal(
            net(values, values * 0.2) - net.main(values), (net.main(values) + expected) - net.main(values)
        )
        assert [(left.name, left.reason) for left in model.left_in_float] == [
            ("condition", "calibration gave it only zeros, of which no scale follows")
        ]
    with pytest.raises(OffloadError, match="'condition': calibration gave it only zeros, of which no scale follows"):
        offload(Conditioned(), twin, calibration=calibration, unsupported="refuse")


@pytest.mark.filterwarnings("ignore::brownout.host.errors.OffloadWarning")
def test_a_layer_that_saw_only_zeros_in_one_timestep_group_stays_in_float(values):
    def run(net):
        for timestep in (100, 900):
            net(values, values * (timestep > 500), timestep=timestep)

    calibration = calibrate(Conditioned(), run, timestep_groups=2)
    (left,) = calibration.left
    reason = "calibration gave it only zeros in timestep group 0 of 2, of which no scale follows"
    assert (left.name, left.reason) == ("condition", reason)


class Attention(nn.Module):
    def forward(self, values):
        first = F.scaled_dot_product_attention(values, values, values)
        return first + F.scaled_dot_product_attention(values, values, 0 * values)


@pytest.mark.filterwarnings("ignore::brownout.host.errors.OffloadWarning")
def test_attention_of_nothing_but_zeros_stays_in_float(twin, generator):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 8), Attention()).requires_grad_(False)
    values = torch.randn(1, 2, 5, 8, generator=generator)
    model = offload(net, twin, calibration=lambda m: m(values))
    assert [each.name for each in report(net)] == ["0"]
    reason = "calibration gave it only zeros as value, of which no scale follows"
    assert [(each.name, each.reason) for each in model.left_in_float] == [("1", reason), ("1#1", reason)]
    hidden = net[0](values)
    assert torch.equal(net(values), F.scaled_dot_product_attention(hidden, hidden, hidden))
    restore(net)
    excluded = re.escape("exclude them with filter_fn=lambda layer, name: name != '1'")
    with pytest.raises(
        OffloadError, match=rf"^2 layers cannot be offloaded \('1': {reason}; '1#1': {reason}\); {excluded}"
    ):
        offload(net, twin, calibration=lambda m: m(values), unsupported="refuse")
    offload(net, twin, calibration=lambda m: m(values), unsupported="refuse", filter_fn=lambda _, name: name != "1")


@pytest.mark.parametrize("method", ["absmax", "percentile", "mse"])
def test_saturated_inputs_are_counted_and_told_once(method, twin, values, tmp_path):
    net = Conditioned()
    calibration = calibrate(net, lambda m: m(values, values), method=method, percentile=90)
    limit = values.abs().max() if method == "absmax" else calibration.layers["main"].scales[0] * 127
    share = float((values.abs() > limit + calibration.layers["main"].scales[0] / 2).float().mean())
    assert calibration.layers["main"].clipped == pytest.approx(share, abs=0.002)
    calibration.save(tmp_path / "c")
    calibration = Calibration.load(tmp_path / "c")
    offload(net, twin, calibration=calibration)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(values, values)
    (first, second) = report(net)
    assert (first.inputs, first.saturation) == (128, pytest.approx(share, abs=0.002))
    told = (
        r"% of the inputs of layer 'condition' saturate in this run, more than [\d.]+ %: they are larger than in its "
        "calibration; calibrate on data like these$"
    )
    with pytest.warns(OffloadWarning, match=told):
        net(values, 100 * values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(values, 100 * values)
    first, second = report(net)
    assert first.saturated == pytest.approx(3 * 128 * share, abs=0.5)
    step = calibration.layers["condition"].scales.item()
    beyond = int((100 * values.double() / step > 127.5).sum() + (100 * values.double() / step < -128.5).sum())
    assert second.saturated == pytest.approx(128 * share + 2 * beyond, abs=0.5)
    assert "saturated" in str(report(net)).splitlines()[0]


def test_a_run_has_a_share_of_its_own(twin, values):
    net = Conditioned()
    model = offload(net, twin, calibration=calibrate(net, lambda m: m(values, values), method="absmax"))
    for _ in range(300):
        net(values[:1], values[:1])
    large = values.clone()
    large[0, 0] = 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(large, values)
    model.begin_run()
    large[0, :3] = 100
    with pytest.warns(OffloadWarning, match="of the inputs of layer 'main' saturate"):
        net(large, values)
