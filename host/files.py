"""Tensors and what belongs to them in one safetensors file, with a checksum: the format of all files of the host."""

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

from .errors import FileRefusedError

VERSION = 2
"""Raised when files of another form are written, whatever is in them."""

TEMPORARY = ".tmp"
"""Ending of files that are being written."""

_KEY = "brownout"


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements of a tensor in order, without a copy where it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def digest_of(tensors: Mapping[str, torch.Tensor], facts: Any) -> str:
    """SHA-256 of names, dtypes, shapes and elements of tensors and of a JSON value, in hexadecimal."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on the CPU, none of which shares memory with another: so safetensors wants them."""
    stored: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        if place in seen or plain.untyped_storage().nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    return stored


def sync_folder(folder: Path) -> None:
    """Make changes of names in a folder outlive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Path, kind: str, tensors: Mapping[str, torch.Tensor], details: Mapping[str, Any]) -> str:
    """Write a file as a whole: readers see the old one or the new one, also after a loss of power.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        What is in it.
    tensors : mapping
        Any dtypes and devices; there need be none.
    details : mapping
        What else is to be kept, as JSON.

    Returns
    -------
    str
        The checksum.

    Raises
    ------
    OSError
        It cannot be written.
    """
    stored = _storable(tensors)
    document: dict[str, Any] = {"kind": kind, "version": VERSION, "details": details}
    digest = digest_of(stored, document)
    temporary = path.with_name(path.name + TEMPORARY)
    save_file(stored, temporary, metadata={_KEY: json.dumps({**document, "digest": digest}, allow_nan=False)})
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    return digest


def read_tensors(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileRefusedError
        It is damaged, of another kind or version, or not Brownout's.
    """
    tensors, details, _ = read_with_digest(path, kind)
    return tensors, details


def read_with_digest(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
    """As `read_tensors`, with the checksum, which is that of the content."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FileRefusedError(path, f"is damaged, or no safetensors file: {error}") from error
    try:
        document = json.loads(metadata[_KEY])
        found, version, digest, details = (document[key] for key in ("kind", "version", "digest", "details"))
    except (KeyError, ValueError, TypeError) as error:
        raise FileRefusedError(path, "is a safetensors file, but Brownout did not write it") from error
    if found != kind:
        raise FileRefusedError(path, f"holds {found!r}, not {kind!r}")
    if version != VERSION:
        raise FileRefusedError(path, f"has version {version!r} of its format; this program reads version {VERSION}")
    if digest != digest_of(tensors, {"kind": kind, "version": version, "details": details}):
        raise FileRefusedError(path, "is damaged: its content does not have the checksum that was written with it")
    return tensors, details, digest
