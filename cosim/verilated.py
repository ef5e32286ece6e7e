"""What all simulators share of Verilator: its library, and its headers, precompiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .cache import digest
from .compiling import Commands
from .products import product_folder
from .toolchain import find_compiler, find_verilator
from .waves import WAVE_FORMATS, WaveName

CLOCK_PERIOD_PS = 500
"""Nominal clock period in simulated time (2 GHz)."""

COMMON_FLAGS = ("-std=c++17", "-fPIC", "-pipe", "-w", f"-DBROWNOUT_CLOCK_PERIOD_PS={CLOCK_PERIOD_PS}")

SLOW_FLAGS = ("-O0",)
"""Code that runs once (construction, declaration of traces)."""

LIBRARY_SOURCES = ("verilated.cpp", "verilated_dpi.cpp", "verilated_threads.cpp", "verilated_vpi.cpp")
"""What runs every cycle is in headers; optimising these costs more than it gains."""

LIBRARY = "verilated"
"""How folders of its objects begin."""

_HEADER = "verilated_all.h"

_HEADERS = ("verilated.h", "verilated_dpi.h", "verilated_vpi.h")

STEPS = Path(__file__).read_text()
"""What products depend on of this file."""


def macros(waves: WaveName | None) -> list[str]:
    """Options that tell Verilator's headers what the model was made with."""
    formats = [f"-DVM_TRACE_{name.upper()}={int(waves == name)}" for name in WAVE_FORMATS]
    return [
        *("-DVERILATOR=1", "-DVM_COVERAGE=0", "-DVM_SC=0", "-DVM_TIMING=0"),
        *(f"-DVM_TRACE={int(waves is not None)}", *formats, "-DVM_TRACE_SAIF=0"),
    ]


def includes() -> list[str]:
    """Options that name the folders of Verilator's headers."""
    include = find_verilator().root / "include"
    return [f"-I{include}", f"-I{include / 'vltstd'}"]


def build_library(root: Path, waves: WaveName | None) -> list[Path]:
    """Objects of Verilator's own library, which depend on Verilator and the compiler alone."""
    objects = _library_objects(root, LIBRARY, LIBRARY_SOURCES)
    if waves is not None:
        objects += _library_objects(root, f"{LIBRARY}-{waves}", (WAVE_FORMATS[waves].source,))
    return objects


def _library_objects(root: Path, prefix: str, sources: Sequence[str]) -> list[Path]:
    def make(folder: Path) -> None:
        include = find_verilator().root / "include"
        commands = Commands(root / "logs", f"{prefix}-{digest([STEPS])}")
        headers = precompiled_headers(root, SLOW_FLAGS, None)
        options = [*SLOW_FLAGS, *headers, *COMMON_FLAGS, *macros(None), *includes(), "-c"]
        compile_one = [*find_compiler().command, *options]
        jobs = ([*compile_one, str(include / source), "-o", object_name(source)] for source in sources)
        commands.run_parallel(jobs, cwd=folder)

    folder = product_folder(root, prefix, [STEPS], make, verilator=True)
    return [folder / object_name(source) for source in sources]


def object_name(source: str) -> str:
    """Object file of a source."""
    return f"{Path(source).stem}.o"


def precompiled_headers(root: Path, flags: Sequence[str], waves: WaveName | None) -> list[str]:
    """Options that put Verilator's headers before a source, precompiled for it.

    Reading them costs more than the code of a small model: half a dozen sources do for each simulator.

    Parameters
    ----------
    root : Path
        Folder for everything built.
    flags : sequence of str
        How the source is optimised; a precompiled header serves no other flags.
    waves : {"vcd", "fst"}, optional
        Format of waves (`macros`). Models with waves are few: they read the headers themselves.
    """
    # Clang looks for the header in the folder in which it was precompiled, which has another name by now.
    if waves is not None or find_compiler().is_clang:
        return []

    def make(folder: Path) -> None:
        commands = Commands(root / "logs", f"{prefix}-{digest([STEPS, *flags])}")
        (folder / _HEADER).write_text("".join(f'#include "{header}"\n' for header in _HEADERS))
        options = [*flags, *COMMON_FLAGS, *macros(waves), *includes()]
        command = [*find_compiler().command, *options, "-x", "c++-header", _HEADER, "-o", f"{_HEADER}.gch"]
        commands.run(command, cwd=folder)

    prefix = f"headers{flags[0]}"
    folder = product_folder(root, prefix, [STEPS, *flags], make, verilator=True)
    return ["-include", str(folder / _HEADER)]
