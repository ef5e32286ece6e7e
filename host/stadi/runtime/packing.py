"""Values of a fleet as JSON and tensors: for files, and between processes.

What comes back is plain values, tensors, and dataclasses of a closed set; nothing is unpickled or imported. The float
model that a worker begins with is the exception (`pack_recipe`): its classes are the user's, so its skeleton is
pickled, and only ever handed from a coordinator to workers that it has started.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import pickle
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from ...decoding import check_type, parse
from ...errors import FileRefusedError
from ...files import UNREADABLE, storable

if TYPE_CHECKING:
    from .worker import Recipe

_PACKAGE = "brownout.host."

_TREE_BYTES = struct.Struct("<Q")

_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON that stands for a value; its tensors are added to `tensors`.

    Raises
    ------
    TypeError
        It is, or contains, something other than tensors, numbers, strings, None, tuples, lists, mappings, and
        dataclasses of Brownout.
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
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(_PACKAGE):
        fields = {each.name: pack(getattr(value, each.name), tensors) for each in dataclasses.fields(value)}
        return ["dataclass", kind.__module__, kind.__qualname__, fields]
    raise TypeError(f"a checkpoint or a message cannot hold a {kind.__name__}")


@functools.cache
def _classes() -> dict[tuple[str, str], type[Any]]:
    """All dataclasses that can come back."""
    # Here, because some of these modules use this one.
    from ...state import State
    from .. import coding, plan, solver_state, solvers, timeline
    from . import checkpoint, executor, group_norms, halos, keys_values, residuals, worker

    classes = (
        (State, coding.ExchangeCoding, plan.Plan, plan.Share, timeline.Failure, checkpoint.Meeting),
        (solver_state.SolverState, solvers.DDIMSolver, solvers.DPMSolver),
        (keys_values.Piece, halos.PixelRow, group_norms.Moments, residuals.Known),
        (worker.Job, worker.Task, worker.Evaluation, worker.Report, worker.WorkerState),
        (executor.Begin, executor.Held, executor.Adopt, executor.Keep, executor.Restore),
        (executor.Done, executor.Progress, executor.Stopped, executor.Failed),
    )
    return {(each.__module__, each.__qualname__): each for group in classes for each in group}


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
            found = _classes().get((module, name))
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
    hints = _hints(kind)
    if wrong := sorted(set(given) ^ set(hints)):
        raise ValueError(f"{kind.__name__} {'lacks' if wrong[0] in hints else 'has no'} {wrong[0]!r}")
    for name, value in given.items():
        check_type(value, hints[name], f"{kind.__name__}.{name} of {source}")
    return kind(**given)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints: dict[str, Any] = get_type_hints(kind, localns={"Piece": _piece()})
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _piece() -> type[Any]:
    from .keys_values import Piece

    return Piece


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


PackedRecipe = tuple[bytes, bytes]
"""Skeleton, and tensors as safetensors."""


def pack_recipe(recipe: Recipe, pickler: type[pickle.Pickler] = pickle.Pickler) -> PackedRecipe:
    """What a worker is made of, for a process that the caller has started: a pickle without tensors, and the tensors.

    Parameters
    ----------
    recipe : Recipe
        With a module of any class.
    pickler : type
        Which pickles the skeleton.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}

    # One of these bases, whichever it is.
    class Skeleton(pickler):  # type: ignore[valid-type, misc]
        def persistent_id(self, value: Any) -> Any:
            if type(value) not in (torch.Tensor, nn.Parameter) or value.is_meta or value.layout != torch.strided:
                return None
            name = names.setdefault(id(value), str(len(names)))
            tensors[name] = value
            return name, type(value) is nn.Parameter, value.requires_grad

    buffer = io.BytesIO()
    Skeleton(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(recipe)
    return buffer.getvalue(), save(storable(tensors))


def unpack_recipe(packed: PackedRecipe) -> Recipe:
    """Undo `pack_recipe`: only for what the process that started this one has sent."""
    skeleton, data = packed
    tensors = load_tensors(data, "the recipe")
    made: dict[str, torch.Tensor] = {}

    class Whole(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> torch.Tensor:
            name, is_parameter, requires_grad = pid
            if name not in made:
                tensor = tensors[name]
                made[name] = nn.Parameter(tensor, requires_grad) if is_parameter else tensor
            return made[name]

    recipe: Recipe = Whole(io.BytesIO(skeleton)).load()
    return recipe
