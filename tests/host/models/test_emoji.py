"""Emoji: the data, its variants, and models of colour pictures."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from PIL import ImageFont

from brownout.host import Accelerator, calibrate, load_classifier, load_denoiser, offload, restore, sample
from brownout.host.models import data_emoji, train
from brownout.host.models.augment import hue_rotation, vary
from brownout.host.models.data import Dataset, Originals, load_dataset
from brownout.host.models.sampling import initial_latents
from brownout.host.models.spec import EMOJI, build_denoiser
from brownout.host.quality import perceptual_distance, psnr, recognised
from brownout.hw.config import AcceleratorConfig

SMALL = dataclasses.replace(EMOJI, image_size=8, num_layers=2, num_heads=2, num_inference_steps=3)


def font_is_there():
    try:
        data_emoji.find_font()
    except (FileNotFoundError, RuntimeError):
        return False
    return True


needs_font = pytest.mark.skipif(not font_is_there(), reason="needs Debian's fonts-noto-color-emoji and libraqm")


@pytest.fixture
def halves():
    """Four pictures, 96x96 on white: a dark red rectangle, all of it left of the middle."""
    originals = torch.ones(4, 3, 96, 96)
    originals[:, :, 24:72, 18:42] = torch.tensor([0.5, 0.1, 0.1]).view(3, 1, 1)
    return originals


def test_a_missing_font_names_the_package(monkeypatch, tmp_path):
    path = tmp_path / "NotoColorEmoji.ttf"
    monkeypatch.setenv(data_emoji.FONT_VARIABLE, str(path))
    message = (
        f"the emoji font is not there ({path}); install Debian's package fonts-noto-color-emoji, "
        "or name the file NotoColorEmoji.ttf in the environment variable BROWNOUT_EMOJI_FONT"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        data_emoji.render_emoji()


def test_a_pillow_without_shaping_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "font.ttf"
    path.touch()
    monkeypatch.setenv(data_emoji.FONT_VARIABLE, str(path))
    monkeypatch.setattr(data_emoji.features, "check", lambda feature: feature != "raqm")
    message = (
        "Pillow has no libraqm, without which skin tones are drawn as separate squares; "
        "install Debian's packages libraqm0 and libfribidi0"
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        data_emoji.render_emoji()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", r"the emoji font has no picture of U\+0020; take the font of Debian 12 or later"),
        ("WWW", r"the emoji font draws U\+0057 U\+0057 U\+0057 as more than one picture, 1[67]\d pixels wide"),
    ],
)
def test_what_the_font_lacks_is_refused(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        data_emoji.render(text, ImageFont.load_default(size=60))


def test_no_emoji_is_twice_in_the_data():
    members = [text for texts in data_emoji.MEMBERS.values() for text in texts]
    assert len(set(members)) == len(members)
    assert set(data_emoji.MEMBERS) >= data_emoji.NOT_MIRRORED


@needs_font
def test_emoji_are_distinct_pictures_in_the_middle_of_white():
    data = load_dataset("emoji")
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    assert images.shape == (len(labels), 3, 32, 32)
    assert labels.bincount().tolist() == [len(members) for members in data_emoji.MEMBERS.values()]
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    assert (images[:, :, frame] == 1).all()
    assert (images[:, :, 8:24, 8:24].amin((1, 2, 3)) < 0.9).all()
    # Yellow: much red and green, little blue.
    red, green, blue = images[labels == 0][:, :, 8:24, 8:24].mean((0, 2, 3)).tolist()
    assert red > green > blue + 0.3


@needs_font
def test_a_tenth_of_each_class_is_held_out():
    data = load_dataset("emoji")
    assert data.test_labels.bincount().tolist() == [round(0.1 * len(texts)) for texts in data_emoji.MEMBERS.values()]
    assert data.train_originals is not None
    reduced = data.train_originals.images.unflatten(3, (32, 3)).unflatten(2, (32, 3)).mean((3, 5))
    assert torch.allclose(reduced, data.train_images, atol=1e-6)
    clock = list(data_emoji.MEMBERS).index("clock")
    assert not data.train_originals.mirrored[data.train_labels == clock].any()
    assert data.train_originals.mirrored[data.train_labels == 0].all()


def test_a_third_of_a_turn_swaps_colours_and_no_turn_changes_grey():
    third = hue_rotation(torch.tensor([2 * torch.pi / 3]))[0]
    assert torch.allclose(third, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=1e-6)
    turned = hue_rotation(torch.linspace(-1, 1, 9)) @ torch.full((3,), 0.7)
    assert torch.allclose(turned, torch.full((9, 3), 0.7), atol=1e-6)


def test_variants_stay_white_around_and_move_by_little(halves, generator):
    varied = torch.cat([vary(halves, 32, 2, torch.zeros(4, dtype=torch.bool), generator) for _ in range(25)])
    assert varied.shape == (100, 3, 32, 32)
    assert len(varied.flatten(1).unique(dim=0)) == 100
    assert torch.allclose(varied[:, :, :, 20:], torch.ones(()), atol=1e-5)
    ink = (1 - varied).sum(1)
    centre = (ink.sum(1) * (torch.arange(32) + 0.5)).sum(1) / ink.sum((1, 2))
    # The rectangle's centre is 6 pixels left of the middle; scale and turn move it by at most a tenth of that.
    assert ((centre - 10).abs() < 2.7).all()
    assert (centre - 10).abs().max() > 1.5


def test_only_what_may_be_mirrored_is(halves, generator):
    allowed = torch.tensor([True, False, True, False])
    varied = torch.stack([vary(halves, 32, 0, allowed, generator) for _ in range(40)])
    right = (1 - varied[..., 16:]).sum((2, 3, 4)) > (1 - varied[..., :16]).sum((2, 3, 4))
    shares = right.double().mean(0)
    assert shares[[1, 3]].tolist() == [0, 0]
    assert (shares[[0, 2]] - 0.5).abs().max() < 0.3


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return build_denoiser(SMALL).requires_grad_(False)


def test_colour_pictures_are_sampled_and_run_in_int8(model):
    float32 = sample(model, SMALL, [1, 7], seed=4)
    assert float32.shape == initial_latents(SMALL, 2, seed=4).shape == (2, 3, 8, 8)
    assert not torch.equal(float32[:, 0], float32[:, 1])
    calibration = calibrate(model, lambda denoiser: sample(denoiser, SMALL, range(10), seed=5))
    with Accelerator(AcceleratorConfig(), backend="twin") as accelerator:
        offload(model, accelerator, calibration=calibration)
        int8 = sample(model, SMALL, [1, 7], seed=4)
        restore(model)
    assert 20 < psnr(int8, float32) < 100


@pytest.fixture
def plain_colours(monkeypatch, tmp_path):
    """Ten classes of plain pictures in place of the emoji, and a folder of its own for what is trained."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.rand(10, 3, generator=generator)
    labels = torch.arange(80) % 10
    originals = colours[labels][:, :, None, None].expand(-1, -1, 96, 96).clone()
    images = originals[:, :, :32, :32]
    mirrored = torch.ones(80, dtype=torch.bool)
    data = Dataset(images, labels, images, labels, Originals(originals, mirrored))
    monkeypatch.setattr(train, "load_dataset", lambda name: data)
    monkeypatch.setattr(train, "WEIGHTS", tmp_path)
    return data


def test_models_of_colour_pictures_are_trained_and_loaded(plain_colours, tmp_path):
    train.train_denoiser(EMOJI, iterations=2, batch_size=2, peak_lr=1e-3, work=tmp_path / "work")
    denoiser = load_denoiser("emoji", folder=tmp_path)
    assert denoiser.config.in_channels == 3
    assert sum(parameter.numel() for parameter in denoiser.parameters()) < 3_000_000
    accuracy = train.train_classifier(EMOJI, epochs=20, batch_size=40, peak_lr=3e-3)
    assert accuracy >= 0.8
    classifier = load_classifier("emoji", folder=tmp_path)
    images = plain_colours.train_images[:10]
    assert perceptual_distance(images, images, classifier) == 0
    assert perceptual_distance(images, images.flip(1), classifier) > 0


def test_emoji_are_drawn_as_asked():
    classifier, denoiser = load_classifier("emoji"), load_denoiser("emoji")
    images = sample(denoiser, EMOJI, range(10), seed=0)
    assert recognised(images, torch.arange(10), classifier).sum() >= 9
    # On white, as in the data.
    assert images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].mean() > 0.95
