"""Values of a fleet as JSON and tensors: for files, and between processes.

What comes back is plain values, tensors, and `packable` dataclasses; nothing is unpickled or imported.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import struct
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from ..errors import FileRefusedError
from .decoding import check_type, parse
from .files import UNREADABLE, storable
from .packable import class_of, field_names, name_of

_TREE_BYTES = struct.Struct("<Q")

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON that stands for a value; its tensors are added to `tensors`.

    Raises
    ------
    TypeError
        It is, or contains, something other than tensors, numbers, strings, None, tuples, lists, mappings, and
        `packable` dataclasses.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return ["float", repr(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return ["tensor", name]
    if isinstance(value, tuple | list):
        return ["tuple" if isinstance(value, tuple) else "list", *(pack(each, tensors) for each in value)]
    if isinstance(value, Mapping):
        return ["dict", *([pack(name, tensors), pack(each, tensors)] for name, each in value.items())]
    kind = type(value)
    if names := name_of(kind):
        fields = {stored: pack(getattr(value, name), tensors) for name, stored in field_names(kind).items()}
        return ["dataclass", *names, fields]
    raise TypeError(f"a checkpoint or a message cannot hold a {kind.__name__}")


def unpack(tree: Any, tensors: Mapping[str, torch.Tensor], source: str = "this") -> Any:
    """Undo `pack`, for dataclasses that are used between the processes of a fleet or in its files.

    Raises
    ------
    FileRefusedError
        It is something else; or a field of a dataclass has another type, or a value that cannot be.
    """
    if isinstance(tree, dict):
        raise FileRefusedError(source, "has an object where a value should be")
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree or [None]
    try:
        if kind == "tensor":
            (name,) = rest
            return tensors[name]
        if kind == "float":
            (name,) = rest
            return _NOT_FINITE[name]
        if kind == "dict":
            return {unpack(name, tensors, source): unpack(each, tensors, source) for name, each in rest}
        if kind == "dataclass":
            module, name, fields = rest
            found = class_of(module, name)
            if found is None:
                raise ValueError(f"{module}.{name} is no dataclass that can come back")
            return _made(found, {field: unpack(each, tensors, source) for field, each in fields.items()}, source)
        if kind not in ("tuple", "list"):
            raise ValueError(f"there are no values of kind {kind!r}")
    except FileRefusedError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FileRefusedError(source, f"has values that cannot be: {error}") from error
    values = [unpack(each, tensors, source) for each in rest]
    return tuple(values) if kind == "tuple" else values


def _made(kind: Any, given: Mapping[str, Any], source: str) -> Any:
    names = {stored: name for name, stored in field_names(kind).items()}
    given = {names.get(stored, stored): value for stored, value in given.items()}
    hints = _hints(kind)
    if wrong := sorted(set(given) ^ set(hints)):
        raise ValueError(f"{kind.__name__} {'lacks' if wrong[0] in hints else 'has no'} {wrong[0]!r}")
    for name, value in given.items():
        check_type(value, hints[name], f"{kind.__name__}.{name} of {source}")
    return kind(**given)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints: dict[str, Any] = get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def to_bytes(value: Any) -> bytes:
    """A value as bytes: the length of the JSON, the JSON, and its tensors as safetensors; raises as `pack`."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(pack(value, tensors), allow_nan=False).encode()
    return b"".join((_TREE_BYTES.pack(len(tree)), tree, save(storable(tensors))))


def from_bytes(data: bytes | bytearray, source: str) -> Any:
    """Undo `to_bytes`; raises as `unpack`."""
    start = _TREE_BYTES.size
    if len(data) < start or (end := start + _TREE_BYTES.unpack_from(data)[0]) > len(data):
        raise FileRefusedError(source, f"is cut off: it has {len(data)} bytes")
    tree = parse(bytes(data[start:end]), source)
    return unpack(tree, load_tensors(bytes(data[end:]), source), source)


def load_tensors(data: bytes, source: str) -> dict[str, torch.Tensor]:
    """Tensors of safetensors bytes; raises `FileRefusedError`."""
    try:
        found: dict[str, torch.Tensor] = load(data)
    except (SafetensorError, *UNREADABLE) as error:
        raise FileRefusedError(source, f"has no tensors that can be read: {error}") from error
    return found
