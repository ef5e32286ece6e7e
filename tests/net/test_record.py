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


def assert_recorded(name: str, images: torch.Tensor, counted: dict[str, Any]) -> None:
    if arithmetic() == RECORD["arithmetic"]:
        assert counted == RECORD["counted"][name]
        assert torch.equal(images, IMAGES[name])
        return
    # float32 layers round otherwise here.
    assert (images - IMAGES[name]).abs().max() < 0.05
    if "clean" in counted:
        assert _free(counted["clean"]) == _free(RECORD["counted"][name]["clean"])


def _free(counts: dict[str, Any]) -> dict[str, Any]:
    return {each: counts[each] for each in FREE_OF_VALUES}


@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_shipped_models(name: str) -> None:
    assert_recorded(name, *pictures(name))


def test_the_picture_of_a_fleet() -> None:
    assert_recorded("fleet", *fleet())


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_pictures_on_rtl() -> None:
    images, counted = pictures("digits", "rtl")
    assert torch.equal(images, IMAGES["digits"])
    for case, counts in RECORD["counted"]["digits"].items():
        # Sums of floats in another order.
        assert counted[case] == pytest.approx(counts, rel=1e-9)
