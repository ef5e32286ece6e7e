"""Dataclasses that the files of a fleet, and messages between its processes, may hold: each by a name that stays.

Among them are those that only tell runs apart: a name that changed would be another run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

Kind = TypeVar("Kind", bound=type[Any])

# Files name a dataclass by the module in which it lay when the format began, wherever it lies now.
_ROOT = "brownout.host."

_CLASSES: dict[tuple[str, str], type[Any]] = {}
_NAMES: dict[type[Any], tuple[str, str]] = {}
_FIELDS: dict[type[Any], Mapping[str, str]] = {}


def packable(name: str, fields: Mapping[str, str] = MappingProxyType({})) -> Callable[[Kind], Kind]:
    """Decorator of a dataclass that may be packed.

    Parameters
    ----------
    name : str
        Name in files, as ``stadi.plan.Plan``; once files have it, it stays.
    fields : mapping
        Names in files by names of fields, where these differ.

    Raises
    ------
    ValueError
        The name is taken.
    """
    module, _, kind = name.rpartition(".")
    key = (_ROOT + module, kind)

    def register(found: Kind) -> Kind:
        if key in _CLASSES:
            raise ValueError(f"{name!r} is the name of {_CLASSES[key].__qualname__} in files; choose another")
        _CLASSES[key] = found
        _NAMES[found] = key
        _FIELDS[found] = fields
        return found

    return register


def name_of(kind: type[Any]) -> tuple[str, str] | None:
    """Module and name of a dataclass in files; None: it cannot be packed."""
    return _NAMES.get(kind)


def field_names(kind: type[Any]) -> dict[str, str]:
    """Names of the fields of a packable dataclass, and what files call them, in the order of the fields."""
    given = _FIELDS[kind]
    return {each.name: given.get(each.name, each.name) for each in dataclasses.fields(kind)}


def class_of(module: str, name: str) -> type[Any] | None:
    """Dataclass of that module and name in files, if a module that has been imported defines it."""
    return _CLASSES.get((module, name))
