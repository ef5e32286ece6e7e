"""Offloaded pipelines in a folder.

It is a folder as diffusers writes it (``model_index.json`` and one folder per component), but that of the denoiser has
a configuration and no weights: they are in ``offloaded``, as `save_offloaded` writes them. Of a shipped model there is
nothing but the latter. ``brownout.json`` comes last, so a folder without one is no saved pipeline.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..device.accelerator import Accelerator
from ..errors import FileRefusedError
from ..models.spec import get_spec
from ..offloading import Nonfinite, load_offloaded, save_offloaded
from ..offloading.layer import OffloadedLayer
from ..storage.decoding import check, parse, read_text
from ..storage.files import write_text
from .denoiser import denoiser_of
from .shipped import ShippedPipeline

MANIFEST, OFFLOADED = "brownout.json", "offloaded"
VERSION = 1


@dataclass(frozen=True)
class _Shipped:
    """``brownout.json`` of a shipped model."""

    version: int
    shipped: str

    def __post_init__(self) -> None:
        get_spec(self.shipped)


@dataclass(frozen=True)
class _Saved:
    """``brownout.json`` of a pipeline of diffusers."""

    version: int
    denoiser: str
    architecture: str
    dtypes: dict[str, Literal["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]]
    absent: list[str]

    def __post_init__(self) -> None:
        import diffusers

        # Names become folders, attributes and arguments.
        for name in (self.denoiser, self.architecture, *self.dtypes, *self.absent):
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no name of a component or a class")
        if self.denoiser not in self.dtypes:
            raise ValueError(f"dtypes have no entry {self.denoiser!r}")
        found = getattr(diffusers, self.architecture, None)
        if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
            raise ValueError(f"{self.architecture!r} is no model of diffusers")


def _read_manifest(path: Path) -> _Shipped | _Saved:
    """What `save` wrote last."""
    manifest = parse(read_text(path), path)
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if type(version) is int and version != VERSION:
        raise FileRefusedError(path, f"has version {version!r} of its format; this program reads version {VERSION}")
    if isinstance(manifest, dict) and "shipped" in manifest:
        return check(manifest, _Shipped, path)
    return check(manifest, _Saved, path)


def is_saved(folder: Path) -> bool:
    """Whether `save` wrote this folder."""
    return (folder / MANIFEST).is_file()


@contextlib.contextmanager
def _without_weights(denoiser: Any) -> Iterator[None]:
    """Let ``save_pretrained`` write the configuration only: the weights are int8 and written elsewhere."""

    def save_pretrained(folder: str, **_: Any) -> None:
        denoiser.save_config(folder)

    denoiser.save_pretrained = save_pretrained
    try:
        yield
    finally:
        del denoiser.save_pretrained


def _dtypes(pipeline: Any) -> dict[str, str]:
    """Dtype of each component that has one, by name."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    return {name: str(module.dtype).removeprefix("torch.") for name, module in modules.items()}


def save(pipeline: Any, folder: Path) -> None:
    """Write a pipeline whose denoiser is offloaded; see `OffloadedPipeline.save`."""
    import diffusers

    name, denoiser = denoiser_of(pipeline)
    architecture = type(denoiser).__name__
    if getattr(diffusers, architecture, None) is not type(denoiser):
        raise ValueError(
            f"{architecture} is no model of diffusers, so it would not be found again; "
            "keep the denoiser alone with save_offloaded"
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; save to a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(pipeline, ShippedPipeline):
        manifest: dict[str, Any] = {"version": VERSION, "shipped": pipeline.spec.name}
    else:
        with _without_weights(denoiser):
            pipeline.save_pretrained(folder)
        manifest = {
            "version": VERSION,
            "denoiser": name,
            "architecture": architecture,
            "dtypes": _dtypes(pipeline),
            # diffusers wants to be told again.
            "absent": [each for each, part in pipeline.components.items() if part is None],
        }
    save_offloaded(denoiser, folder / OFFLOADED)
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def load(folder: Path, accelerator: Accelerator, nonfinite: Nonfinite = "nan") -> Any:
    """Read a pipeline and offload its denoiser; see `OffloadedPipeline.load`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no saved pipeline: there is no {MANIFEST}")
    manifest = _read_manifest(path)
    if isinstance(manifest, _Shipped):
        pipeline: Any = ShippedPipeline(manifest.shipped)
    else:
        pipeline = _load_diffusers(folder, manifest)
    _, denoiser = denoiser_of(pipeline)
    load_offloaded(denoiser, accelerator, folder / OFFLOADED, nonfinite=nonfinite)
    if isinstance(manifest, _Saved):
        # Float layers were made with random weights.
        for layer in denoiser.modules():
            if isinstance(layer, OffloadedLayer):
                layer.settle()
    return pipeline


def _load_diffusers(folder: Path, manifest: _Saved) -> Any:
    import diffusers

    name = manifest.denoiser
    dtypes = {each: getattr(torch, dtype) for each, dtype in manifest.dtypes.items()}
    architecture: Any = getattr(diffusers, manifest.architecture)
    denoiser = architecture.from_config(architecture.load_config(folder / name))
    given = {name: denoiser.to(dtypes[name]).eval(), **dict.fromkeys(manifest.absent)}
    return diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=dtypes, **given)
