"""Kinds that others can add to: each named once, by its owner."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar


class Named(Protocol):
    """What a registry holds."""

    name: ClassVar[str]
    """Name by which configurations ask for it."""


Entry = TypeVar("Entry", bound=Named)
Kind = TypeVar("Kind", bound=type[Any])


def require_members(kind: type[Any], base: type[Any], *names: str) -> None:
    """Refuse a class that says it can do something and leaves out how.

    Parameters
    ----------
    kind : type
        Subclass that is being defined.
    base : type
        Class whose members only raise.
    names : str
        Members that `kind` must have of its own, or from a class between them.

    Raises
    ------
    TypeError
        Names the first that is missing.
    """
    for name in names:
        if getattr(kind, name) is getattr(base, name):
            raise TypeError(f"{kind.__qualname__} needs {name}, which {base.__name__} only describes")


class Registry(Generic[Entry]):
    """Entries by name: those that come with Brownout, those of installed packages, and those of the running program.

    An installed package names the modules of its entries as entry points; then every process finds them, the
    simulator's too. A program may also import a module that registers one.

    Parameters
    ----------
    what : str
        What an entry is, for messages.
    group : str
        Group of entry points, each with the entry's name and its module.
    built_in : mapping of str to str
        Modules of the entries that come with Brownout, in their order; imported when they are first asked for.
    """

    def __init__(self, what: str, group: str, built_in: Mapping[str, str]) -> None:
        self.what, self.group = what, group
        self._built_in = dict(built_in)
        self._entries: dict[str, Entry] = {}

    def register(self, kind: Kind) -> Kind:
        """Decorator of an entry's class, which is made without arguments.

        Raises
        ------
        ValueError
            Its name is another entry's.
        """
        entry = kind()
        other = self._entries.get(entry.name)
        if other is not None and (type(other).__module__, type(other).__qualname__) != (
            kind.__module__,
            kind.__qualname__,
        ):
            raise ValueError(
                f"{entry.name!r} is the name of the {self.what} {type(other).__qualname__}; choose another"
            )
        self._entries[entry.name] = entry
        return kind

    def _modules(self) -> dict[str, str]:
        installed = {point.name: point.module for point in entry_points(group=self.group)}
        return {**installed, **self._built_in}

    def names(self) -> tuple[str, ...]:
        """Names of all entries: those of Brownout first."""
        return tuple(dict.fromkeys((*self._modules_in_order(), *sorted(self._entries))))

    def _modules_in_order(self) -> tuple[str, ...]:
        return (*self._built_in, *sorted(set(self._modules()) - set(self._built_in)))

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in self._entries or name in self._built_in or name in self._modules()

    def get(self, name: str) -> Entry:
        """Entry of that name.

        Raises
        ------
        LookupError
            There is none; names what there is.
        """
        entry = self._entries.get(name)
        if entry is None:
            module = self._built_in.get(name) or self._modules().get(name)
            if module is not None:
                import_module(module)
                if name not in self._entries:
                    raise LookupError(
                        f"{module} registers no {self.what} {name!r}; decorate its class with the registry's register"
                    )
            entry = self._entries.get(name)
        if entry is None:
            raise LookupError(f"there is no {self.what} {name!r}; there are {', '.join(map(repr, self.names()))}")
        return entry

    def added_source(self, name: str) -> bytes:
        """Python sources of the package that an entry was added by; empty for those that come with Brownout.

        What is built by an entry depends on them.
        """
        if name in self._built_in:
            return b""
        module = type(self.get(name)).__module__.partition(".")[0]
        file = getattr(sys.modules.get(module), "__file__", None)
        if file is None:
            return b""
        path = Path(file)
        files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
        return b"\0".join(each.read_bytes() for each in files)
