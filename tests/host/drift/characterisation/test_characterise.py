"""Sweeps over slices of a run: what they measure, when they stop, how they go on after a kill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator
from brownout.host.drift.characterisation.characterise import Sweep, characterise, digest_of, image_metrics
from brownout.host.drift.characterisation.profile import ResilienceProfile
from brownout.host.drift.characterisation.slices import (
    Slice,
    SubjectLayout,
    bit_slices,
    block_slices,
    cross,
    evaluation_slices,
    kind_slices,
    layout_of,
    split,
)
from brownout.host.drift.characterisation.stopping import Stopping
from brownout.host.drift.characterisation.store import Store
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.strategies import Rollback

from ..denoiser import CONFIG, RESIDUE, draw, offloaded

RATES = [OperatingPoint(error_rate=1e-3), OperatingPoint(error_rate=0.1)]
STOPPING = Stopping(images=12, batch=4, relative=0.3)


@pytest.fixture(scope="module")
def net():
    with Accelerator(CONFIG, backend="twin") as accelerator:
        yield offloaded(accelerator)


def sweep(net, slices=None, points=RATES, **options):
    chosen = bit_slices([2, 24]) if slices is None else slices
    options = {"metrics": image_metrics(), "stopping": STOPPING, **options}
    return characterise(net, draw(net), chosen, points, **options)


def test_layout_is_that_of_the_run(net):
    assert layout_of(net, draw(net)) == SubjectLayout(
        3, ("blocks.0", "blocks.1"), ("other", "attention.qk", "attention.pv")
    )
    assert layout_of(net, draw(net, 2), kinds=["other"]).kinds == ("other",)


def test_slices_have_names_and_intersect():
    early, late = evaluation_slices(split(range(5), 2), Slice(name="", kinds=("qkv",)))
    assert (early.name, early.evaluations, late.name, late.evaluations) == ("steps0-1", (0, 1), "steps2-4", (2, 3, 4))
    both = cross([late], block_slices([["b.0", "b.1"], ["b.2"]]))
    assert both[0] == Slice(name="steps2-4/b.0..b.1", evaluations=(2, 3, 4), blocks=("b.0", "b.1"), kinds=("qkv",))
    assert both[1].name == "steps2-4/b.2"
    assert Slice.from_dict(both[0].to_dict()) == both[0]
    assert kind_slices(["qkv"])[0].kinds == ("qkv",)
    with pytest.raises(ValueError, match=r"Slice\.evaluations of 'steps0-1/steps2-4' is empty"):
        _ = early & late
    with pytest.raises(ValueError, match="slice 'bit3' chooses bits, which needs operating points with error_rate"):
        bit_slices([3])[0].low(NOMINAL)
    with pytest.raises(ValueError, match=r"parts must be in 1..2, not 3"):
        split([1, 2], 3)


def test_damage_is_that_of_errors_in_the_slice_alone(net):
    """Errors in the last evaluation alone, drawn by hand."""
    from brownout.host.drift.power_policy import SelectivePolicy
    from brownout.host.drift.runtime import protect
    from brownout.host.drift.strategies import Unprotected

    last = Slice(name="last", evaluations=(2,), blocks=("blocks.1",))
    low, safe = RATES[1], OperatingPoint(error_rate=0.0)
    profile = sweep(net, [last], [low], seed=7, stopping=Stopping(images=4, batch=4))
    run = draw(net)
    with protect(
        net, Unprotected(), SelectivePolicy(low=low, safe=safe, first=2, blocks=["blocks.0"]), safe=safe, seed=7
    ):
        images = run(7, 4)
    expected = (images.double() - run(7, 4).double()).square().mean((1, 2, 3))
    assert profile.values["last", 0]["mse"] == pytest.approx(expected.tolist(), rel=1e-12)
    assert profile.unrelated["mse"] == pytest.approx(
        (run(7, 4) - run(7, 4).roll(1, 0)).square().mean().item(), rel=1e-5
    )


def test_high_bits_at_high_rates_hurt_more(net):
    profile = sweep(net)
    assert profile.ranking(1)[0][0] == "bit24"
    assert profile.damage("bit24", 1).mean > profile.damage("bit24", 0).mean
    assert profile.damage("bit24", 1).lower > 10 * profile.damage("bit2", 1).upper
    assert profile.ordered_pairs(1) == [("bit24", "bit2")]


def test_operating_points_and_strategies_are_characterised_alike(net):
    points = [OperatingPoint(voltage_v=0.8), OperatingPoint(voltage_v=0.6, check_voltage_v=0.75)]
    both = evaluation_slices([[0], [1, 2]])
    profile = sweep(net, both, points, strategy=Rollback(RESIDUE), stopping=Stopping(images=4, batch=4))
    # The first evaluation has nothing to go back to and runs at the safe point, but for attention.
    assert profile.damage("steps1-2", 1).mean > profile.damage("steps0", 1).mean
    assert profile.about["strategy"]["name"] == "ours"
    assert ResilienceProfile.from_json(profile.to_json()) == profile


class KilledError(Exception):
    pass


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_sweep_goes_on_to_the_same_end(net, tmp_path, torn):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"metrics": image_metrics(), "stopping": STOPPING}
    expected = characterise(net, draw(net), bit_slices([2, 24]), RATES, store=whole, **options)
    kills = 0
    while True:
        draws = iter(range(3))

        def run(seed, count, draws=draws):
            if next(draws, None) is None:
                raise KilledError
            return draw(net)(seed, count)

        try:
            found = characterise(net, run, bit_slices([2, 24]), RATES, store=cut, **options)
            break
        except KilledError:
            kills += 1
            if torn and kills == 2:
                cut.write_bytes(cut.read_bytes()[:-9])
    assert kills > 2
    assert cut.read_bytes() == whole.read_bytes()
    assert found == expected
    before = whole.read_bytes()
    assert sweep(net, store=whole) == expected
    assert whole.read_bytes() == before


def test_foreign_stores_are_refused(net, tmp_path):
    path = tmp_path / "store"
    sweep(net, store=path, stopping=Stopping(images=4, batch=4))
    with pytest.raises(ValueError, match="is of another characterisation: seed is 0 there, 1 here"):
        sweep(net, store=path, seed=1)
    digest = digest_of(net)
    with torch.no_grad():
        net.blocks[0].ff.bias += 0.1
    try:
        assert digest_of(net) != digest
        with pytest.raises(ValueError, match="is of another characterisation: model is"):
            sweep(net, store=path)
    finally:
        with torch.no_grad():
            net.blocks[0].ff.bias -= 0.1
    path.write_text("a,b,c\n")
    with pytest.raises(ValueError, match="is no store of a characterisation; choose another file"):
        sweep(net, store=path)
    path.write_text("a,b,c")
    with pytest.raises(ValueError, match="is no store of a characterisation; choose another file"):
        sweep(net, store=path)


def test_a_store_of_other_images_is_refused(net, tmp_path):
    path = tmp_path / "store"
    options = {"metrics": image_metrics(), "store": path, "stopping": Stopping(images=4, batch=4)}
    characterise(net, draw(net), bit_slices([24]), RATES[:1], **options)
    with pytest.raises(ValueError, match="is of other images: batch 0 of the clean run is not the one noted there"):
        characterise(net, draw(net, 2), bit_slices([25]), RATES[:1], **options)


def test_what_cannot_be_measured_is_refused(net):
    with pytest.raises(ValueError, match="slice 'steps9' selects no product of this run"):
        sweep(net, evaluation_slices([[9]]))
    with pytest.raises(ValueError, match="two slices are called 'bit3'"):
        sweep(net, bit_slices([3, 3]))
    with pytest.raises(ValueError, match="pairs name 'bit9', which is none of the slices bit2, bit24"):
        sweep(net, pairs=[("bit2", "bit9")])
    with pytest.raises(ValueError, match="at least one slice and one operating point"):
        sweep(net, [])
    four = Stopping(images=4, batch=4)
    with pytest.raises(ValueError, match=r"run\(seed, 4\) must return 4 images, not 3"):
        characterise(net, lambda s, n: draw(net)(s, 3), bit_slices([3]), RATES, metrics=image_metrics(), stopping=four)


class FakeBench:
    """Damages drawn from known distributions, with a part that slices share."""

    metrics = {"known": None}  # noqa: RUF012

    def __init__(self, means, batch):
        self.means, self.batch, self.measured = means, batch, []

    def describe_clean(self, batch):
        return {"sha256": str(batch), "unrelated": {"known": [5.0] * self.batch}}

    def slice_damage(self, slice_, point, batch):
        self.measured.append((slice_.name, batch))
        shared = np.random.default_rng(batch).gamma(2.0, 0.5, self.batch)
        own = np.random.default_rng([batch, len(slice_.name)]).normal(0, 0.05, self.batch)
        return {"known": (self.means[slice_.name] * shared + own).clip(0).tolist()}


def fake_sweep(means, stopping, pairs=()):
    bench = FakeBench(means, stopping.batch)
    slices = tuple(Slice(name=name) for name in means)
    each = Sweep(bench, Store(None, {}), slices, (NOMINAL,), stopping, list(pairs))
    each.go()
    return each.profile({}), bench


def test_sweeps_stop_where_the_answer_is_clear():
    stopping = Stopping(images=100, batch=20, relative=0.0, threshold=1.0)
    profile, bench = fake_sweep({"low": 0.1, "near": 1.0, "worst": 4.0}, stopping)
    images = {name: profile.damage(name, 0).images for name in ("low", "near", "worst")}
    assert images == {"low": 20, "near": 100, "worst": 20}
    assert len(bench.measured) == 7


def test_pairs_are_measured_until_their_order_is_shown():
    """The difference of a pair is clear long before each of its means: both have the same images."""
    stopping = Stopping(images=200, batch=20, relative=0.01)
    profile, _ = fake_sweep({"a": 1.0, "bb": 1.1, "alone": 1.0}, stopping, [("a", "bb")])
    assert profile.worse("a", "bb", 0) == "bb"
    assert profile.damage("a", 0).images == profile.damage("bb", 0).images <= 60
    assert profile.damage("alone", 0).images == 200
