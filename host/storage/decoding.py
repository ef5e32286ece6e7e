"""The strict decoder of everything that is read: bounded JSON against a schema, and tensors against their forms.

A schema is a type: a dataclass, or what pydantic makes of ``list[...]``, ``Literal`` and ``Annotated``. Nothing is
converted, unknown fields and numbers that are not finite are refused, and a dataclass's own ``__post_init__`` has the
last word. Whatever is wrong becomes a `FileRefusedError` that names what was read, the field, and the reason.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import torch
from annotated_types import Ge, Gt, Interval, MinLen, Predicate

from ..errors import FileRefusedError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

LIMIT_BYTES = 1 << 28
"""Longest JSON that is read."""

DEPTH = 64
"""Most arrays and objects inside each other."""

INTEGER_BITS = 64
"""Integers are below 2^64, and above -2^64."""

_SHOWN = 80
"""Characters of a refused value that are shown."""


def _is_digest(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


Count = Annotated[int, Ge(0)]
Uint32 = Annotated[int, Interval(ge=0, lt=1 << 32)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
Name = Annotated[str, MinLen(1)]
Digest = Annotated[str, Predicate(_is_digest)]

# Strings are one token; a quote that is never closed is too, so that time is linear in whatever comes.
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH:
        return
    depth = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > DEPTH:
            raise ValueError(f"arrays and objects are nested more than {DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{_short(twice)} is there twice in one object")
    return found


def _integer(digits: str) -> int:
    # Before it is made: time is quadratic in the number of digits.
    if len(digits) > 21 or abs(number := int(digits)) >> INTEGER_BITS:
        raise ValueError(f"the integer {digits[:24]} has more than {INTEGER_BITS} bits")
    return number


def _number(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"the number {digits[:24]} is too large")
    return number


def _constant(word: str) -> float:
    raise ValueError(f"{word} is no JSON")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse(text: str | bytes, source: Path | str) -> Any:
    """JSON as plain values, without a schema.

    Parameters
    ----------
    text : str or bytes
        UTF-8.
    source : Path or str
        The file, or what else it was read from: for messages.

    Raises
    ------
    FileRefusedError
        It is no JSON, or longer, deeper or with larger numbers than this program reads, or an object has a name twice.
    """
    if len(text) > LIMIT_BYTES:
        raise FileRefusedError(source, f"has {len(text)} bytes of JSON; at most {LIMIT_BYTES} are read")
    try:
        text = text if isinstance(text, str) else text.decode()
        _check_depth(text)
        value = json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_constant
        )
        # Halves of surrogate pairs are no characters: who writes or prints them later would fail.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FileRefusedError(source, f"is no JSON that this program reads: {error}") from error
    return value


def decode(text: str | bytes, schema: type[T], source: Path | str) -> T:
    """JSON as a schema says.

    Parameters
    ----------
    text, source
        As in `parse`.
    schema : type
        What it has to be.

    Raises
    ------
    FileRefusedError
        As `parse`; or it is something else.
    """
    return check(parse(text, source), schema, source)


def decode_format(text: str | bytes, form: str, what: str, schema: type[T], source: Path | str) -> T:
    """JSON with an entry ``format``, which has to be `form`, and beside it what a schema says; as `decode`."""
    value = parse(text, source)
    if not isinstance(value, dict) or value.pop("format", None) != form:
        raise FileRefusedError(source, f"is no {what}: its format is not {form!r}")
    return check(value, schema, source)


def check(value: Any, schema: type[T], source: Path | str) -> T:
    """A value that JSON can hold as a schema says; as `decode`.

    Parameters
    ----------
    value : Any
        Value from `parse`, or made here: tuples count as arrays.
    schema, source
        As in `decode`.
    """
    from pydantic import ValidationError

    kind: Any = schema
    try:
        # Of JSON, because there a strict tuple is an array and a strict dataclass an object.
        (found,) = _adapter(kind).validate_json(json.dumps([value], allow_nan=False))
    except ValidationError as error:
        raise FileRefusedError(source, _reason(error)) from error
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise FileRefusedError(source, f"has values that make no sense together: {error}") from error
    result: T = found
    return result


@functools.cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    # Imported late: it takes 0.2 s, and most programs read nothing.
    from pydantic import ConfigDict, TypeAdapter

    # In a tuple, because dataclasses take their settings from what they are in.
    return TypeAdapter(tuple[schema], config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))


def check_type(value: Any, hint: Any, source: Path | str) -> None:
    """Refuse a value of Python that is not of a type, or a number in it that is not finite.

    Parameters
    ----------
    value : Any
        Classes in it are what they are: their fields have been checked when they were made.
    hint : Any
        Type, as it stands in an annotation.
    source : Path or str
        What the value is, for the message.

    Raises
    ------
    FileRefusedError
        It is of another type.
    """
    from pydantic import ValidationError

    try:
        _type_adapter(hint).validate_python((value,))
    except ValidationError as error:
        raise FileRefusedError(source, _reason(error)) from error


@functools.cache
def _type_adapter(hint: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    return TypeAdapter(tuple[hint], config=config)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # What a union's alternatives and the tuple around everything are called says nothing about the file.
    names = [each for each in first["loc"][1:] if isinstance(each, int) or not re.search(r"[\[( -]", each)]
    path = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in names).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    where = f"its {path} is refused" if path else "it is refused"
    given = "" if first["type"] in ("missing", "value_error") else f", not {_short(first['input'])}"
    return f"has a wrong form: {where}: {message}{given}"


def read_text(path: Path) -> str:
    """The text of a file of JSON.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileRefusedError
        It is longer than `LIMIT_BYTES`, or no UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        raise FileRefusedError(path, f"has more than {LIMIT_BYTES} bytes, the most that is read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise FileRefusedError(path, f"is no text in UTF-8: {error}") from error


@dataclass(frozen=True)
class Form:
    """What a tensor of a file has to be. Floating-point elements are finite in any case.

    Attributes
    ----------
    dtypes : torch.dtype or tuple of torch.dtype
        One of them.
    shape : tuple of int or None
        None stands for any length; None alone for any shape.
    positive : bool
        Whether all elements are above zero.
    """

    dtypes: torch.dtype | tuple[torch.dtype, ...]
    shape: tuple[int | None, ...] | None = None
    positive: bool = False

    def check(self, name: str, tensor: torch.Tensor, source: Path | str) -> None:
        """Refuse a tensor that is something else."""
        dtypes = self.dtypes if isinstance(self.dtypes, tuple) else (self.dtypes,)
        if tensor.dtype not in dtypes:
            wanted = " or ".join(_plain(dtype) for dtype in dtypes)
            raise FileRefusedError(source, f"has a tensor {name!r} of {_plain(tensor.dtype)}, not {wanted}")
        if self.shape is not None:
            fits = [wanted in (None, length) for wanted, length in zip(self.shape, tensor.shape, strict=False)]
            if len(self.shape) != tensor.ndim or not all(fits):
                wanted = ", ".join("any" if length is None else str(length) for length in self.shape)
                raise FileRefusedError(source, f"has a tensor {name!r} of shape {tuple(tensor.shape)}, not ({wanted})")
        check_finite(name, tensor, source)
        if self.positive and not bool((tensor > 0).all()):
            least = tensor.min().item()
            raise FileRefusedError(source, f"has a tensor {name!r} with the element {least:g}; all must be positive")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_finite(name: str, tensor: torch.Tensor, source: Path | str) -> None:
    """Refuse a tensor with NaN or infinity."""
    if not tensor.is_floating_point():
        return
    # One-byte formats have no such operation of their own.
    values = tensor if tensor.itemsize > 1 else tensor.float()
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise FileRefusedError(source, f"has a tensor {name!r} with {count} elements that are not finite")


def check_tensors(tensors: Mapping[str, torch.Tensor], forms: Mapping[str, Form], source: Path | str) -> None:
    """Refuse tensors that are not exactly those named, each of its form.

    Raises
    ------
    FileRefusedError
        One is missing, surplus, or something else.
    """
    if wrong := sorted(set(tensors) ^ set(forms)):
        raise FileRefusedError(source, f"{'lacks' if wrong[0] in forms else 'has'} a tensor {wrong[0]!r}")
    for name, form in forms.items():
        form.check(name, tensors[name], source)
