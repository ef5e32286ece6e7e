"""The perceptual distance, on the classifier and on a network whose distance is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import load_classifier
from brownout.host.models.data import load_dataset
from brownout.host.quality import extract_features, perceptual_distance, perceptual_distance_per_image


class Channels:
    """One stage: the image itself."""

    def stage_outputs(self, images):
        return [images]

    def features(self, images):
        return images.flatten(1)


@pytest.fixture(scope="module")
def classifier():
    return load_classifier("digits")


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits").test_images[:120]


def test_it_is_lpips_form_with_unit_weights(classifier, digits, generator):
    images = (digits[:3] + 0.2 * torch.rand(3, 1, 8, 8, generator=generator)).clamp(0, 1)
    wanted = np.zeros(3)
    for left, right in zip(classifier.stage_outputs(images), classifier.stage_outputs(digits[:3]), strict=True):
        for index in range(3):
            positions = []
            for row in range(left.shape[2]):
                for col in range(left.shape[3]):
                    a, b = (values[index, :, row, col].double().numpy() for values in (left, right))
                    a, b = (vector / np.linalg.norm(vector) if vector.any() else vector for vector in (a, b))
                    positions.append(((a - b) ** 2).sum())
            wanted[index] += np.mean(positions)
    found = perceptual_distance_per_image(images, digits[:3], classifier)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-6)
    assert perceptual_distance(images, digits[:3], classifier) == pytest.approx(wanted.mean(), rel=1e-6)


def test_orthogonal_channels_are_2_apart_whatever_their_length_and_dead_ones_1():
    images = torch.tensor([[1.0, 0.0], [0.25, 0.25], [0.0, 0.0]])[:, :, None, None]
    reference = torch.tensor([[0.0, 0.5], [1.0, 1.0], [0.0, 0.5]])[:, :, None, None]
    assert perceptual_distance_per_image(images, reference, Channels()).tolist() == pytest.approx([2, 0, 1], abs=1e-8)


def test_it_grows_with_noise_from_zero_and_is_symmetric(classifier, digits, generator):
    assert perceptual_distance(digits, digits, classifier) == 0
    noise = torch.randn(digits.shape, generator=generator)
    noisy = [(digits + strength * noise).clamp(0, 1) for strength in (0.003, 0.01, 0.03, 0.1, 0.3, 1)]
    values = [perceptual_distance(images, digits, classifier) for images in noisy]
    assert values[0] > 0
    assert values == sorted(values)
    assert perceptual_distance(digits, noisy[3], classifier) == pytest.approx(values[3], rel=1e-12)


def test_features_of_batches_are_those_of_the_whole(classifier, digits):
    found = extract_features(digits, classifier)
    assert found.shape == (120, 64)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, classifier.features(digits).double(), rtol=1e-4, atol=1e-5)
