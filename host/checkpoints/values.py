"""Arguments and results of modules as JSON and tensors, and what tells two sets of arguments apart."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from ..storage.decoding import Count, check
from ..storage.files import tensor_bytes

if TYPE_CHECKING:
    from diffusers.utils import BaseOutput

SHOWN = 8
"""Tensors of so many elements are described by them, larger ones by a checksum."""

Tree = Any
"""JSON: plain values as they are, everything else a list that begins with its kind."""


def encode(value: Any, tensors: dict[str, torch.Tensor]) -> Tree:
    """JSON that stands for a value; its tensors are added to `tensors`.

    Raises
    ------
    TypeError
        It is, or contains, something other than tensors, numbers, strings, None, tuples, lists, dicts with names, and
        outputs of diffusers.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        # Kernels, and so the last bits of what follows, may depend on strides.
        dense = torch.empty_like(value, device="meta", memory_format=torch.preserve_format)
        return ["tensor", name, str(value.device), list(dense.stride())]
    if _is_output(type(value)):
        kind = type(value)
        items = {each.name: encode(getattr(value, each.name), tensors) for each in fields(kind)}
        return ["output", kind.__module__, kind.__qualname__, items]
    if type(value) in (tuple, list):
        return [type(value).__name__, *(encode(each, tensors) for each in value)]
    if type(value) is dict and all(isinstance(name, str) for name in value):
        return ["dict", {name: encode(each, tensors) for name, each in value.items()}]
    raise TypeError(
        f"the denoiser returned a {type(value).__name__}, which a checkpoint cannot hold; it can hold tensors, plain "
        "values, tuples, lists, dicts and outputs of diffusers"
    )


def decode(tree: Tree, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `encode`.

    Raises
    ------
    ValueError
        It is nothing that `encode` returns.
    """
    if isinstance(tree, dict):
        raise ValueError("an object stands where a value should be")
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree or [None]
    if kind == "tensor":
        name, device, stride = check(rest, _Tensor, "a tensor among the values")
        return _laid_out(name, device, stride, tensors)
    if kind == "output":
        module, qualified, items = check(rest, _Output, "an output among the values")
        return _output_class(module, qualified)(**{name: decode(each, tensors) for name, each in items.items()})
    if kind == "dict":
        (items,) = check(rest, _Dict, "a dict among the values")
        return {name: decode(each, tensors) for name, each in items.items()}
    if kind not in ("tuple", "list"):
        raise ValueError(f"values cannot be of kind {kind!r}")
    values = [decode(each, tensors) for each in rest]
    return tuple(values) if kind == "tuple" else values


_Tensor: Any = tuple[str, str, list[Count]]
_Output: Any = tuple[str, str, dict[str, Any]]
_Dict: Any = tuple[dict[str, Any]]


def _laid_out(name: str, device: str, stride: Sequence[int], tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A tensor of a file with the device and the strides that it had."""
    if name not in tensors:
        raise ValueError(f"tensor {name!r} is missing")
    stored = tensors[name]
    # All in one piece, each element in a place of its own: so strides ask for no more memory than there are elements.
    last = sum((length - 1) * step for length, step in zip(stored.shape, stride, strict=False))
    if len(stride) != stored.ndim or (stored.numel() and last + 1 != stored.numel()):
        raise ValueError(f"tensor {name!r} of shape {tuple(stored.shape)} cannot have strides {list(stride)}")
    try:
        value = torch.empty_strided(stored.shape, stride, dtype=stored.dtype, device=device)
    except RuntimeError as error:
        raise ValueError(f"tensor {name!r} cannot be on device {device!r}: {error}") from error
    return value.copy_(stored)


def _is_output(kind: type) -> TypeGuard[type[BaseOutput]]:
    """Whether a class is an output class of diffusers; it is not imported for the question, which takes seconds."""
    outputs = sys.modules.get("diffusers.utils.outputs")
    return outputs is not None and issubclass(kind, outputs.BaseOutput)


def _output_class(module: str, qualified: str) -> Callable[..., BaseOutput]:
    found: Any = None
    if module.partition(".")[0] == "diffusers":
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
    for name in qualified.split("."):
        found = getattr(found, name, None)
    if not (isinstance(found, type) and _is_output(found)):
        raise ValueError(f"{module}.{qualified} is no output class of diffusers")
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (tuple, list)):
        yield name, f"{type(value).__name__} of {len(value)}"
        for place, each in enumerate(value):
            yield from _leaves(f"{name}[{place}]", each)
    elif isinstance(value, Mapping):
        yield name, f"{type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}"
        for key, each in value.items():
            yield from _leaves(f"{name}[{key!r}]", each)
    elif isinstance(value, torch.Tensor):
        few = value.numel() <= SHOWN
        content = value.tolist() if few else f"with SHA-256 {hashlib.sha256(tensor_bytes(value)).hexdigest()}"
        yield name, f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} {content}"
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield name, repr(value)
    else:
        # Such objects have no content that could be compared.
        yield name, f"{type(value).__module__}.{type(value).__qualname__}"


def describe(signature: inspect.Signature, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, str]:
    """Arguments of a call in words, by name: the words differ if the arguments do."""
    bound = signature.bind(*arguments, **named)
    return {path: words for name, value in bound.arguments.items() for path, words in _leaves(name, value)}


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first name at which two descriptions differ, with what is there; None if they are the same."""
    for name in [*before, *(name for name in now if name not in before)]:
        was, is_now = before.get(name, "absent"), now.get(name, "absent")
        if was != is_now:
            return f"{name!r} was {_short(was)} and is {_short(is_now)} now"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
