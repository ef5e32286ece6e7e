"""What stays in float is counted and said."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, SlicedAttnProcessor
from torch import nn

from brownout.host import Calibration, OffloadWarning, calibrate, load_offloaded, offload, report, save_offloaded

WIDTH, TOKENS = 8, 6


class Mixed(nn.Module):
    """A layer, a volume convolution, a product of its own, and attention."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.linear, self.volume = nn.Linear(WIDTH, WIDTH), nn.Conv3d(1, 2, 3, padding=1)
        self.own = nn.Parameter(torch.randn(WIDTH, 5))
        self.unused = nn.Conv2d(2, 2, 1)

    def forward(self, values):
        values = self.linear(values) + self.volume(values.view(1, 1, 2, 3, WIDTH))[0, 0].view(TOKENS, WIDTH)
        F.linear(values, self.own.T)
        heads = values.view(1, TOKENS, 2, 4).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads)


MACS = {
    "linear": TOKENS * WIDTH * WIDTH,
    "volume": TOKENS * WIDTH * 2 * 27,
    "own": TOKENS * WIDTH * 5,
    "attention": 2 * TOKENS * TOKENS * (4 + 4),
}


def check(left, *, attention):
    """`left` is what `Mixed` leaves in float."""
    total = sum(MACS.values())
    expected = [
        ("volume", "Conv3d", MACS["volume"], "Conv3d layers are not offloaded"),
        ("", "Mixed", MACS["own"], "it calls linear itself, not through a Linear or Conv2d layer"),
        ("unused", "Conv2d", 0, "calibration did not call it"),
    ]
    if not attention:
        expected.insert(1, ("", "Mixed", MACS["attention"], "filter_fn excludes it"))
    assert [(each.name, each.kind, each.macs, each.reason) for each in left] == expected
    assert [each.share for each in left] == pytest.approx([macs / total for _, _, macs, _ in expected])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_what_stays_in_float_is_listed_with_its_share_and_warned_of_once(context, twin, generator):
    net, values = Mixed(), torch.randn(TOKENS, WIDTH, generator=generator)

    def run(model):
        with context():
            model(values)

    with pytest.warns(OffloadWarning) as caught:
        model = offload(net.requires_grad_(False), twin, calibration=run)
    check(model.left_in_float, attention=True)
    (warning,) = caught
    share = 100 * (MACS["volume"] + MACS["own"]) / sum(MACS.values())
    assert str(warning.message).startswith(f"{share:.3g} % of the model's MACs stay in float: 'volume' (Conv3d, ")
    # The warning is given where `offload` is called.
    assert warning.filename == __file__
    assert sum(each.macs for each in report(net)) == 0
    twin.reset_stats()
    net(values)
    assert twin.stats["macs"] == MACS["linear"] + MACS["attention"]


def test_shares_are_kept_with_a_calibration_and_an_offloaded_model(twin, generator, tmp_path):
    net, values = Mixed().requires_grad_(False), torch.randn(TOKENS, WIDTH, generator=generator)
    calibrate(net, lambda m: m(values)).save(tmp_path / "calibration")
    found = Calibration.load(tmp_path / "calibration")

    def without_attention(layer, name):
        return layer is not net

    with pytest.warns(OffloadWarning) as caught:
        model = offload(net, twin, calibration=found, filter_fn=without_attention)
    check(model.left_in_float, attention=False)
    # What the user excludes is listed, but no surprise.
    assert "filter_fn excludes" not in str(caught[0].message)
    save_offloaded(net, tmp_path / "model")
    with pytest.warns(OffloadWarning):
        check(load_offloaded(Mixed().requires_grad_(False), twin, tmp_path / "model").left_in_float, attention=False)


def test_a_calibration_that_counted_nothing_gives_no_shares(twin, generator):
    """As one from a file of an earlier program."""
    net, values = Mixed().requires_grad_(False), torch.randn(TOKENS, WIDTH, generator=generator)
    found = calibrate(net, lambda m: m(values))
    bare = {
        name: type(each)(each.kind, each.scales, each.smoothing, each.sqnr_db) for name, each in found.layers.items()
    }
    old = Calibration(bare, found.method, found.percentile, found.smoothing, found.timestep_bounds)
    with pytest.raises(ValueError, match=r"^calibration has no scale for layer 'unused'; calibrate it, or exclude it"):
        offload(net, twin, calibration=old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = offload(net, twin, calibration=old, filter_fn=lambda layer, name: name == "linear")
    assert [(each.name, each.share) for each in model.left_in_float] == [("", None), ("unused", None)]


def test_attention_slicing_is_said(twin, generator):
    torch.manual_seed(7)
    net = nn.Sequential(Attention(8, heads=2, dim_head=4, processor=SlicedAttnProcessor(1))).requires_grad_(False)
    values = torch.randn(1, TOKENS, 8, generator=generator)
    message = "it calls baddbmm, bmm itself, not through a Linear or Conv2d layer"
    with pytest.warns(OffloadWarning, match=re.escape(message)):
        (left,) = offload(net, twin, calibration=lambda m: m(values)).left_in_float
    assert (left.name, left.kind, left.macs) == ("0", "Attention", 2 * TOKENS * TOKENS * (4 + 4))


def test_a_layer_of_little_precision_is_warned_of(generator):
    values = torch.randn(20, 8, generator=generator)
    values[0, 0] = 1e4
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    net[0].weight[:, 0] = 0
    net[1].weight.mul_(0)
    with pytest.warns(OffloadWarning, match=r"^quantisation error is large in '0' \(-?[0-9.]+ dB\): below 10 dB of "):
        calibrate(net, lambda m: m(values), method="absmax")
