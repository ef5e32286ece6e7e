"""Load the shipped models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import nn

from ..errors import WeightsNotFoundError
from .classifier import Classifier
from .spec import build_denoiser, get_spec

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights."""


def _load(model: nn.Module, name: str, part: str, folder: Path) -> None:
    path = folder / f"{name}-{part}.safetensors"
    if not path.is_file():
        raise WeightsNotFoundError(
            f"the weights of the {name} {part} are not there ({path.name}); "
            f"train them with: python -m brownout.host.models.train {part} {name}"
        )
    state = load_file(path)
    wanted = model.state_dict()
    if wrong := sorted(set(state) ^ set(wanted)):
        raise ValueError(f"{path.name} does not fit the {name} {part}: {wrong[0]!r} is in only one of them")
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise ValueError(
                f"{path.name} does not fit the {name} {part}: {key!r} has shape {tuple(value.shape)}, "
                f"not {tuple(wanted[key].shape)}"
            )
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
        No model has that name, or the file does not fit its architecture.
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
