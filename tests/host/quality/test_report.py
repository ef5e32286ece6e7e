"""One call measures everything that it is given the means for."""

from __future__ import annotations

import json
import re

import pytest
import torch

from brownout.host import load_classifier, write_results
from brownout.host.models.data import load_dataset
from brownout.host.quality import (
    agreement_difference,
    compare,
    extract_features,
    frechet_distance,
    perceptual_distance,
    psnr,
    recognised,
    ssim,
)


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def classifier():
    return load_classifier("digits")


def test_everything_is_measured_and_fits_a_result_file(data, classifier, generator, tmp_path):
    reference, labels = data.train_images[:100], data.train_labels[:100]
    images = (reference + 0.2 * torch.randn(reference.shape, generator=generator)).clamp(0, 1)
    held_out = data.test_images
    report = compare(
        images,
        reference,
        labels=labels,
        classifier=classifier,
        held_out=held_out,
        held_out_labels=data.test_labels,
    )
    assert report.psnr_db == psnr(images, reference)
    assert report.ssim == ssim(images, reference)
    assert report.perceptual_distance == perceptual_distance(images, reference, classifier)
    assert report.agreement == agreement_difference(
        recognised(images, labels, classifier), recognised(reference, labels, classifier)
    )
    features = [extract_features(part, classifier) for part in (images, reference, held_out)]
    assert report.frechet.distance == frechet_distance(features[0], features[2])
    assert report.reference_frechet.distance == frechet_distance(features[1], features[2])
    assert report.frechet.distance > report.reference_frechet.distance

    flat = report.to_dict()
    document = json.loads(write_results("run", flat, root=tmp_path).read_text())
    assert document["metrics"] == flat
    assert list(flat) == [
        "images",
        "mse",
        "ssim",
        "psnr_db",
        "perceptual_distance",
        "class_agreement",
        "class_agreement_reference",
        "class_agreement_difference",
        "class_agreement_difference_lower",
        "class_agreement_difference_upper",
        "class_agreement_p_value",
        "frechet_distance",
        "frechet_distance_low",
        "frechet_distance_high",
        "frechet_distance_bias",
        "frechet_distance_reference",
        "frechet_distance_reference_low",
        "frechet_distance_reference_high",
        "frechet_distance_reference_bias",
    ]


def test_equal_runs_give_a_result_file_without_psnr(data):
    flat = compare(data.test_images[:2], data.test_images[:2]).to_dict()
    assert flat == {"images": 2, "mse": 0, "ssim": pytest.approx(1)}


def test_another_network_can_measure_distances(data, classifier, generator):
    reference = data.test_images[:3]
    images = (reference + 0.1 * torch.rand(reference.shape, generator=generator)).clamp(0, 1)
    other = load_classifier("mnist")
    report = compare(images, reference, classifier=classifier, features=other)
    assert report.perceptual_distance == perceptual_distance(images, reference, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": torch.zeros(2)}, "labels are given but no classifier; pass classifier=load_classifier(...)"),
        (
            {"held_out": torch.zeros(2, 1, 8, 8)},
            "held_out is given but no network; pass classifier=load_classifier(...) or features=",
        ),
        ({"held_out_labels": torch.zeros(2)}, "held_out_labels are given but no held_out images; pass held_out="),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        compare(images, images, **arguments)


def test_too_few_images_for_a_covariance_are_refused(data, classifier):
    images = data.train_images[:64]
    with pytest.raises(ValueError, match=r"^features_a has 64 samples of 64 dimensions, "):
        compare(images, images, classifier=classifier, held_out=data.test_images)
