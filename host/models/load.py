"""Load the shipped models."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from ..errors import FileRefusedError, WeightsNotFoundError
from ..storage.decoding import Form, check_tensors, read_text
from ..storage.files import write_text
from .classifier import Classifier
from .spec import build_denoiser, get_spec

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights."""

DIGESTS = "SHA256SUMS"
"""File beside weights with their digests, as ``sha256sum`` writes and checks it."""

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+)")


def read_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of weights in a folder, in hexadecimal, by its name; empty without a list of them.

    Raises
    ------
    FileRefusedError
        The list is damaged.
    """
    path = folder / DIGESTS
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise FileRefusedError(path, f"has a damaged line {number}; it must be a digest, two spaces and a name")
        found[match[2]] = match[1]
    return found


def note_digest(path: Path) -> None:
    """Enter weights that were just written into the list of digests of their folder."""
    digests = read_digests(path.parent) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(path.parent / DIGESTS, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))


def read_weights(path: Path) -> bytes:
    """A file of weights, with the digest that is in the list beside it.

    Raises
    ------
    FileRefusedError
        The digest is another one, or there is none.
    """
    data, wanted = path.read_bytes(), read_digests(path.parent).get(path.name)
    if wanted is None:
        raise FileRefusedError(
            path,
            f"has no digest in {path.parent / DIGESTS}; add one: cd {path.parent} && sha256sum {path.name} >> "
            f"{DIGESTS}",
        )
    if hashlib.sha256(data).hexdigest() != wanted:
        raise FileRefusedError(
            path, f"is damaged: its SHA-256 is not the one in {DIGESTS}; install it anew (git checkout, or pip)"
        )
    return data


def _load(model: nn.Module, name: str, part: str, folder: Path) -> None:
    path = folder / f"{name}-{part}.safetensors"
    if not path.is_file():
        raise WeightsNotFoundError(
            f"the weights of the {name} {part} are not there ({path.name}); "
            f"train them with: python -m brownout.host.models.train {part} {name}"
        )
    try:
        state = load(read_weights(path))
    except SafetensorError as error:
        raise FileRefusedError(path, f"is no safetensors file: {error}") from error
    floats = (torch.float32, torch.float16)
    forms = {
        key: Form(floats if value.is_floating_point() else value.dtype, tuple(value.shape))
        for key, value in model.state_dict().items()
    }
    try:
        check_tensors(state, forms, path)
    except FileRefusedError as error:
        raise FileRefusedError(path, f"does not fit the {name} {part}: it {error.reason}") from error
    model.load_state_dict(state)


def load_denoiser(name: str, *, folder: Path = WEIGHTS) -> DiTTransformer2DModel:
    """Load a trained denoiser, float32, in eval mode, without gradients.

    Parameters
    ----------
    name : str
        One of `SPECS`.
    folder : Path
        Where the safetensors files are.

    Raises
    ------
    ValueError
        No model has that name.
    FileRefusedError
        The file is damaged, or does not fit the architecture.
    WeightsNotFoundError
        The file is missing; the message says how to train it.
    """
    spec = get_spec(name)
    model = build_denoiser(spec)
    _load(model, name, "denoiser", folder)
    return model.requires_grad_(False).eval()


def load_classifier(name: str, *, folder: Path = WEIGHTS) -> Classifier:
    """Load the classifier that judges generated images; as `load_denoiser`. Models of one data set share it."""
    spec = get_spec(name)
    model = Classifier(spec.num_classes, spec.channels)
    _load(model, spec.dataset, "classifier", folder)
    return model.requires_grad_(False).eval()
