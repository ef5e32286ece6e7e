"""Shipped models load, and what does not fit is refused with a reason."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from brownout.host import FileRefusedError, WeightsNotFoundError, load_classifier, load_denoiser
from brownout.host.models.classifier import Classifier
from brownout.host.models.data import load_dataset
from brownout.host.models.evaluate import evaluate, model_card
from brownout.host.models.load import WEIGHTS, note_digest, read_digests
from brownout.host.models.spec import DIGITS, MNIST_PATCH2, build_denoiser
from brownout.host.models.train import adopt_blocks, initialise_adaln_zero, train_classifier
from brownout.host.quality import class_agreement


@pytest.mark.parametrize("name", ["mnist", "emoji"])
def test_a_missing_file_says_how_to_train(tmp_path, name):
    message = (
        f"the weights of the {name} denoiser are not there ({name}-denoiser.safetensors); "
        f"train them with: python -m brownout.host.models.train denoiser {name}"
    )
    with pytest.raises(WeightsNotFoundError, match=f"^{re.escape(message)}$"):
        load_denoiser(name, folder=tmp_path)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match=r"^unknown model 'cats'; choose one of digits, emoji, mnist, mnist-patch2$"):
        load_classifier("cats")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("read_out.bias"),
            "digits-classifier.safetensors does not fit the digits classifier: it lacks a tensor 'read_out.bias'",
        ),
        (
            lambda state: state.update({"read_out.bias": torch.zeros(11)}),
            (
                "digits-classifier.safetensors does not fit the digits classifier: "
                "it has a tensor 'read_out.bias' of shape (11,), not (10)"
            ),
        ),
        (
            lambda state: state["read_out.bias"].fill_(float("nan")),
            (
                "digits-classifier.safetensors does not fit the digits classifier: "
                "it has a tensor 'read_out.bias' with 10 elements that are not finite"
            ),
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    state = Classifier(10).state_dict()
    change(state)
    path = tmp_path / "digits-classifier.safetensors"
    save_file(state, path)
    with pytest.raises(FileRefusedError, match=rf"has no digest in {tmp_path}/SHA256SUMS; add one: cd {tmp_path} && "):
        load_classifier("digits", folder=tmp_path)
    note_digest(path)
    with pytest.raises(FileRefusedError, match=f"^{tmp_path}/{re.escape(message)}$"):
        load_classifier("digits", folder=tmp_path)


def test_every_flipped_bit_of_weights_is_refused(tmp_path):
    name = "digits-denoiser.safetensors"
    data = (WEIGHTS / name).read_bytes()
    shutil.copy(WEIGHTS / "SHA256SUMS", tmp_path)
    seed = 5
    print(f"seed {seed}")
    rng = random.Random(seed)
    for place in [0, 9, len(data) - 1, *(rng.randrange(len(data)) for _ in range(57))]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(FileRefusedError, match=r"is damaged: its SHA-256 is not the one in SHA256SUMS; install it"):
            load_denoiser("digits", folder=tmp_path)
    (tmp_path / name).write_bytes(data)
    load_denoiser("digits", folder=tmp_path)


def test_the_list_of_digests_is_that_of_sha256sum():
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=WEIGHTS, check=True)
    assert sorted(read_digests(WEIGHTS)) == sorted(file.name for file in WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize("line", ["0" * 64 + " a", "0" * 63 + "  a", "0" * 64 + "  ../a", "x"])
def test_a_damaged_list_of_digests_is_refused(tmp_path, line):
    (tmp_path / "SHA256SUMS").write_text(f"{'1' * 64}  b\n{line}\n")
    with pytest.raises(FileRefusedError, match=r"SHA256SUMS has a damaged line 2; it must be a digest, two spaces and"):
        read_digests(tmp_path)


def test_digits_are_drawn_as_asked_and_judged_reliably():
    data = load_dataset("digits")
    assert class_agreement(data.test_images, data.test_labels, load_classifier("digits")) >= 0.96
    assert evaluate("digits", images_per_class=10) >= 0.97
    assert evaluate("digits", images_per_class=10, int8=True) >= 0.97


def test_the_model_card_tells_how_it_was_trained_and_how_good_it_is():
    card = model_card("digits", images_per_class=2)
    assert card["denoiser"]["recipe"]["iterations"] > 0
    assert card["class_agreement"]["images"] == 20
    assert 0.9 <= card["class_agreement"]["int8"] <= 1


def test_models_of_one_data_set_share_their_judge():
    a, b = load_classifier("mnist"), load_classifier("mnist-patch2")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"^the judge of mnist-patch2 is the classifier of mnist; train that one$"):
        train_classifier(MNIST_PATCH2, epochs=1, batch_size=1, peak_lr=1e-3)


def test_a_model_with_small_patches_starts_from_the_blocks_of_its_teacher():
    """A picture that is the same in each large patch is embedded with half its weight, and predicted as its mean."""
    teacher = build_denoiser(replace(DIGITS, patch_size=4))
    torch.manual_seed(0)
    initialise_adaln_zero(teacher)
    torch.nn.init.normal_(teacher.proj_out_2.weight)
    pupil = build_denoiser(DIGITS)
    adopt_blocks(pupil, teacher)
    blocks = teacher.transformer_blocks.state_dict()
    assert all(torch.equal(value, blocks[name]) for name, value in pupil.transformer_blocks.state_dict().items())
    flat = torch.full((1, 1, 8, 8), 0.7)
    large, small = (each.pos_embed.proj(flat) - each.pos_embed.proj.bias.view(1, -1, 1, 1) for each in (teacher, pupil))
    torch.testing.assert_close(small[:, :, 0, 0], large[:, :, 0, 0] / 2)
    hidden = torch.randn(5, 64)
    pixels = teacher.proj_out_2(hidden).view(5, 2, 2, 2, 2).mean((2, 4)).flatten(1)
    torch.testing.assert_close(pupil.proj_out_2(hidden), pixels)
    with pytest.raises(ValueError, match=r"^patches of 4 pixels cannot be divided into patches of 8$"):
        adopt_blocks(build_denoiser(replace(DIGITS, patch_size=8)), teacher)
