"""Keep an offloaded model in a folder, so that it need not be calibrated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..device.accelerator import Accelerator
from ..storage.decoding import Form
from ..storage.files import read_tensors, write_tensors
from .attention import SUBMODULE
from .calibration import Calibration
from .layer import OffloadedLayer
from .layer_calibration import ATTENTION
from .layer_types import check_kind, find_layer_type
from .nonfinite import Nonfinite
from .offload import calibration_of, offload, offloaded_model, restore
from .output_format import Outputs
from .products import OffloadedModel, ProductObserver

KIND = "offloaded model"
MODEL_FILE, CALIBRATION_FILE = "model.safetensors", "calibration.safetensors"
SCALES = ("weight_scale", "input_scale", "smoothing", "scales")
"""Buffers of offloaded layers that are divided by."""

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class _Details:
    """What ``model.safetensors`` has beside the tensors."""

    architecture: str
    layers: dict[str, str]
    # Files of earlier programs have none.
    outputs: Outputs = "int32"

    def __post_init__(self) -> None:
        for name, kind in self.layers.items():
            check_kind(name, kind)


def _offloaded_names(module: nn.Module) -> dict[str, str]:
    """Kind of each offloaded layer and owner of attention, by name."""
    names = {name: each.product.kind for name, each in module.named_modules() if isinstance(each, OffloadedLayer)}
    owners = {name: ATTENTION for name, each in module.named_modules() if SUBMODULE in each._modules}
    return names | owners


def save_offloaded(module: nn.Module, folder: Path | str) -> None:
    """Write int8 weights, scales and everything else in the ``state_dict`` of an offloaded model.

    Parameters
    ----------
    module : nn.Module
        The model.
    folder : Path or str
        Made if need be; gets ``model.safetensors`` and ``calibration.safetensors``.

    Raises
    ------
    ValueError
        `module` is not offloaded.
    """
    calibration = calibration_of(module)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    calibration.save(folder / CALIBRATION_FILE)
    details: dict[str, Any] = {"architecture": type(module).__name__, "layers": _offloaded_names(module)}
    details["outputs"] = offloaded_model(module).outputs
    write_tensors(folder / MODEL_FILE, KIND, module.state_dict(), details)


def load_offloaded(
    module: nn.Module,
    accelerator: Accelerator,
    folder: Path | str,
    *,
    observer: ProductObserver | None = None,
    nonfinite: Nonfinite = "nan",
) -> OffloadedModel:
    """Offload a model with the weights and scales that `save_offloaded` wrote.

    Parameters
    ----------
    module : nn.Module
        A float model of the same architecture; its weights do not matter. `restore` brings its layers
        back as they were; all other parameters are those of the folder from now on.
    accelerator : Accelerator
        Argument of `offload`.
    folder : Path or str
        Where the files are.
    observer, nonfinite
        As in `offload`.

    Returns
    -------
    OffloadedModel
        As `offload`.

    Raises
    ------
    FileNotFoundError
        A file is missing.
    FileRefusedError
        A file is damaged or foreign, or has values that cannot be; the model is as before.
    ValueError
        It is of another architecture; the model is as before.
    """
    folder = Path(folder)
    calibration = Calibration.load(folder / CALIBRATION_FILE)
    tensors, details = read_tensors(folder / MODEL_FILE, KIND, _Details)
    if details.architecture != type(module).__name__:
        raise ValueError(f"{folder} holds a {details.architecture}, not a {type(module).__name__}")
    _check_layers(module, folder, details.layers)
    model = offload(
        module,
        accelerator,
        calibration=calibration,
        filter_fn=lambda _, name: name in details.layers,
        observer=observer,
        nonfinite=nonfinite,
        outputs=details.outputs,
    )
    try:
        _check_tensors(module, folder, tensors)
    except ValueError:
        restore(module)
        raise
    module.load_state_dict(tensors)
    return model


def _check_layers(module: nn.Module, folder: Path, layers: Mapping[str, str]) -> None:
    modules = dict(module.named_modules())
    for name, kind in layers.items():
        if name not in modules:
            raise ValueError(
                f"{folder} has a layer {name!r}, which this {type(module).__name__} lacks; "
                "make the model with the configuration that it was saved with"
            )
        layer_type = find_layer_type(modules[name])
        if kind != (ATTENTION if layer_type is None else layer_type.kind):
            raise ValueError(f"{folder} has {name!r} as {kind!r}, but here it is {type(modules[name]).__name__}")


def _check_tensors(module: nn.Module, folder: Path, tensors: dict[str, Any]) -> None:
    wanted = module.state_dict()
    parameters = {name for name, _ in module.named_parameters()}
    if wrong := sorted(set(tensors) ^ set(wanted)):
        where = "the folder" if wrong[0] in tensors else "the model"
        raise ValueError(
            f"{folder} does not fit this {type(module).__name__}: {wrong[0]!r} is only in {where}; "
            "make the model with the configuration that it was saved with"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise ValueError(
                f"{folder} does not fit this {type(module).__name__}: {name!r} has shape {tuple(tensor.shape)} there "
                f"and {tuple(wanted[name].shape)} here; make the model with the configuration that it was saved with"
            )
        positive = name.rpartition(".")[2] in SCALES and name not in parameters
        Form(_stored_dtypes(wanted[name]), positive=positive).check(name, tensor, folder / MODEL_FILE)


def _stored_dtypes(tensor: torch.Tensor) -> torch.dtype | tuple[torch.dtype, ...]:
    """What may be loaded into a tensor: floating-point numbers of any width, everything else as it is."""
    return FLOATS if tensor.is_floating_point() else tensor.dtype
