"""Tensors and what belongs to them in one safetensors file, with a checksum: the format of all files of the host."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import FileRefusedError, FileUnwrittenError
from .decoding import Digest, check, decode, parse, read_text

T = TypeVar("T")

VERSION = 2
"""Raised when files of another form are written, whatever is in them."""

TEMPORARY = ".tmp"
"""Ending of files that are being written."""

_KEY = "brownout"

UNREADABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What safetensors leaves to PyTorch, such as dtypes that only one of them has, fails there in many ways."""


@dataclass(frozen=True)
class _Document:
    """What is in the metadata."""

    kind: str
    version: int
    details: dict[str, Any]
    digest: Digest


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


def storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to; afterwards the file is flushed, and takes the place of `path`."""
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        # Above all where there is no room.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise FileUnwrittenError(path, error) from error


def _os_error(error: SafetensorError) -> OSError | None:
    """The system's error that safetensors reports as text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


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
    FileUnwrittenError
        It cannot be written.
    """
    stored = storable(tensors)
    document: dict[str, Any] = {"kind": kind, "version": VERSION, "details": details}
    digest = digest_of(stored, document)
    metadata = {_KEY: json.dumps({**document, "digest": digest}, allow_nan=False)}
    with _replacing(path) as temporary:
        try:
            save_file(stored, temporary, metadata=metadata)
        except SafetensorError as error:
            if (cause := _os_error(error)) is None:
                raise
            raise cause from error
    return digest


def write_text(path: Path, text: str) -> None:
    """Write a file of text as `write_tensors` writes, with its errors; the folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileUnwrittenError(path, error) from error
    with _replacing(path) as temporary:
        temporary.write_text(text)


def read_json(path: Path, schema: type[T]) -> T:
    """A file of JSON as a schema says; raises FileNotFoundError, and FileRefusedError as `decode`."""
    return decode(read_text(path), schema, path)


def read_tensors(
    path: Path,
    kind: str,
    schema: type[T] = dict,  # type: ignore[assignment]
) -> tuple[dict[str, torch.Tensor], T]:
    """Read what `write_tensors` wrote.

    Parameters
    ----------
    path, kind
        As given there.
    schema : type
        What the details have to be, as for `brownout.host.storage.decoding.decode`; by default any
        dict.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileRefusedError
        It is damaged, of another kind or version, or not Brownout's.
    """
    tensors, details, _ = read_with_digest(path, kind, schema)
    return tensors, details


def read_with_digest(path: Path, kind: str, schema: type[T]) -> tuple[dict[str, torch.Tensor], T, str]:
    """As `read_tensors`, with the checksum, which is that of the content."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EIO):
            raise
        raise FileRefusedError(path, f"cannot be read: {error}") from error
    # What safetensors leaves to PyTorch, such as dtypes that only one of them has, fails there in many ways.
    except (
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise FileRefusedError(path, f"is damaged, or no safetensors file: {error}") from error
    if _KEY not in metadata:
        raise FileRefusedError(path, "is a safetensors file, but Brownout did not write it")
    facts = parse(metadata[_KEY], path)
    # First of all: what else there is may differ between versions.
    if isinstance(facts, dict) and facts.get("version", VERSION) != VERSION:
        version = facts["version"]
        raise FileRefusedError(path, f"has version {version!r} of its format; this program reads version {VERSION}")
    document = check(facts, _Document, path)
    if document.kind != kind:
        raise FileRefusedError(path, f"holds {document.kind!r}, not {kind!r}")
    del facts["digest"]
    if document.digest != digest_of(tensors, facts):
        raise FileRefusedError(path, "is damaged: its content does not have the checksum that was written with it")
    return tensors, check(document.details, schema, path), document.digest
