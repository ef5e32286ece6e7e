"""Tensors and what belongs to them in one safetensors file, with a checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

VERSION = 1

_KEY = "brownout"


def _digest(tensors: Mapping[str, torch.Tensor], details: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(details, sort_keys=True).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, kind: str, tensors: Mapping[str, torch.Tensor], details: Mapping[str, Any]) -> None:
    """Write a file as a whole: readers see the old one or the new one.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        What is in it.
    tensors : mapping
        Any dtypes and devices.
    details : mapping
        What else is to be kept, as JSON.
    """
    # Tensors that share memory are stored once each.
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    document = {"kind": kind, "version": VERSION, "digest": _digest(stored, details), "details": details}
    temporary = path.with_name(path.name + ".tmp")
    save_file(stored, temporary, metadata={_KEY: json.dumps(document, allow_nan=False)})
    os.replace(temporary, path)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is damaged, of another kind or version, or not Brownout's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    try:
        document = json.loads(metadata[_KEY])
        found, version, digest, details = (document[key] for key in ("kind", "version", "digest", "details"))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is a safetensors file, but Brownout did not write it") from error
    if found != kind:
        raise ValueError(f"{path} holds {found!r}, not {kind!r}")
    if version != VERSION:
        raise ValueError(f"{path} has version {version!r} of its format; this program reads version {VERSION}")
    if digest != _digest(tensors, details):
        raise ValueError(f"{path} is damaged: its content does not have the checksum that was written with it")
    return tensors, details
