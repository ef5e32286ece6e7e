"""What a compiler makes, cached by what it depends on; found again without the compiler."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .cache import cached_folder, digest
from .errors import MissingToolError
from .eviction import claim
from .toolchain import find_compiler, find_verilator, machine

PRODUCTS = "sim"
"""Folder of the products in the build folder."""

_TOOLCHAINS = "toolchains"

_logger = logging.getLogger("brownout.build")


def product_folder(
    root: Path,
    prefix: str,
    parts: Iterable[str],
    make: Callable[[Path], None],
    *,
    verilator: bool,
    notice: Callable[[], str] | None = None,
) -> Path:
    """Folder of a product, made by `make` unless it is already there.

    The tools are part of what it depends on. Where none are installed, products of those that were used in this build
    folder before, on a machine like this one, are found.

    Parameters
    ----------
    root : Path
        Folder for everything built.
    prefix : str
        How its name begins.
    parts : iterable of str
        What it depends on beside the tools.
    make : callable
        Function that fills the empty folder that it gets (`cached_folder`).
    verilator : bool
        Whether Verilator is one of the tools.
    notice : callable, optional
        Says what is built and how long that takes; told before it is.

    Raises
    ------
    MissingToolError
        There is no compiler, or no Verilator, and it is not there.
    BuildFolderError
        Function that fills the empty folder that it gets (`cached_folder`).
    """
    parts = list(parts)

    def name(tools: list[str]) -> str:
        return f"{prefix}-{digest([*tools, *parts])}"

    def make_with_notice(folder: Path) -> None:
        if notice is not None:
            _logger.warning("%s; kept in %s", notice(), root)
        make(folder)

    try:
        tools = _tools(verilator)
    except MissingToolError:
        for before in _remembered(root, verilator):
            if claim(folder := root / PRODUCTS / name(before)):
                return folder
        raise
    folder = cached_folder(root / PRODUCTS, name(tools), make_with_notice)
    _remember(root, verilator, tools)
    return folder


def _tools(verilator: bool) -> list[str]:
    compiler = find_compiler()
    tools = [compiler.version, compiler.native_target]
    if verilator:
        found = find_verilator()
        tools += [str(found.root), found.version]
    return tools


def _remember(root: Path, verilator: bool, tools: list[str]) -> None:
    record = {"machine": machine(), "verilator": verilator, "tools": tools}
    path = root / _TOOLCHAINS / f"{digest([machine(), str(verilator), *tools])}.json"
    # A build folder that cannot be written has what it has.
    with contextlib.suppress(OSError):
        if path.exists():
            os.utime(path)
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(record))
        temporary.replace(path)


def _remembered(root: Path, verilator: bool) -> Iterator[list[str]]:
    """Tools that were used in `root`, on machines like this one; those used last come first."""
    found = []
    for path in (root / _TOOLCHAINS).glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(path.read_text())
            if record["machine"] == machine() and record["verilator"] == verilator:
                found.append((path.stat().st_mtime, list(map(str, record["tools"]))))
    for _, tools in sorted(found, reverse=True):
        yield tools
