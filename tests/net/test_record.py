"""Verilog, images and counts are those on record."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .record import CONFIGURATIONS, MODELS, arithmetic, fleet, generators, hardware, pictures, recorded

RECORD, IMAGES = recorded()

FREE_OF_VALUES = ("cycles", "macs", "commands")
"""Counts that do not depend on the last bits of values."""


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_hardware(name: str) -> None:
    if generators() != RECORD["generators"]:
        pytest.skip(f"recorded with {RECORD['generators']}, here are {generators()}")
    assert hardware(name) == RECORD["hardware"][name]


LARGEST_MEAN_SQUARE = 2e-3
"""Between images of the same model whose float32 layers round otherwise: 2.4e-4 was measured without oneDNN."""


def assert_recorded(name: str, images: torch.Tensor, counted: dict[str, Any], *, model: str) -> None:
    if arithmetic(model) == RECORD["arithmetic"][model]:
        assert counted == RECORD["counted"][name]
        assert torch.equal(images, IMAGES[name])
        return
    print(f"float32 layers of {model} round otherwise here than where this was recorded")
    assert (images - IMAGES[name]).square().mean() < LARGEST_MEAN_SQUARE
    if "clean" in counted:
        assert _free(counted["clean"]) == _free(RECORD["counted"][name]["clean"])


def _free(counts: dict[str, Any]) -> dict[str, Any]:
    return {each: counts[each] for each in FREE_OF_VALUES}


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_shipped_models(name: str) -> None:
    assert_recorded(name, *pictures(name), model=name)


def test_the_picture_of_a_fleet() -> None:
    assert_recorded("fleet", *fleet(), model="digits")


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_pictures_on_rtl() -> None:
    images, counted = pictures("digits", "rtl")
    expected_images, expected = pictures("digits")
    assert torch.equal(images, expected_images)
    for case, counts in expected.items():
        # Sums of floats in another order.
        assert counted[case] == pytest.approx(counts, rel=1e-9)


def test_images_of_other_arithmetic_are_near() -> None:
    """Without oneDNN, as on another processor."""
    with torch.backends.mkldnn.flags(enabled=False):
        assert arithmetic("mnist") != RECORD["arithmetic"]["mnist"]
        assert_recorded("mnist", *pictures("mnist"), model="mnist")
        with pytest.raises(AssertionError):
            assert_recorded("mnist", 1 - IMAGES["mnist"], RECORD["counted"]["mnist"], model="mnist")
