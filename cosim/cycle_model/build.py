"""Builds the cycle model, cached like the simulators but apart from them: a change of it rebuilds no simulator."""

from __future__ import annotations

from pathlib import Path

from brownout.hw.cpp_header import HARDWARE_HEADER, hardware_header

from ..cache import build_root as resolve_build_root
from ..cache import digest, files_digest
from ..compiling import Commands, write_headers
from ..durations import CYCLE_MODEL_CPU_S, cores, seconds_text
from ..products import product_folder
from ..toolchain import find_compiler
from ..verilated import object_name
from .structs import STRUCTURES_HEADER, cycle_model_header

CYCLE_MODEL_LIBRARY = "libbrownout_cycle_model.so"

CYCLE_MODEL_SOURCES = ("machine.cpp", "model.cpp", "interface.cpp")

CYCLE_MODEL_FLAGS = ("-O2", "-march=native", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-pipe")


def build_cycle_model(build_root: Path | str | None = None) -> Path:
    """The cycle model as a shared library; see `brownout.cosim.cycle_model`. Needs no Verilator.

    Parameters
    ----------
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildError
        There is no compiler, or it failed.
    """
    root = resolve_build_root(build_root)
    sources = Path(__file__).parent
    headers = {HARDWARE_HEADER: hardware_header(), STRUCTURES_HEADER: cycle_model_header()}
    parts = [*CYCLE_MODEL_FLAGS, *headers.values(), files_digest(sources, ["*.h", "*.cpp"])]

    def make(folder: Path) -> None:
        commands = Commands(root / "logs", f"cycle-model-{digest(parts)}")
        compiler = find_compiler().command
        write_headers(folder, headers)
        compile_one = [*compiler, *CYCLE_MODEL_FLAGS, f"-I{folder}", "-c"]
        jobs = ([*compile_one, str(sources / source), "-o", object_name(source)] for source in CYCLE_MODEL_SOURCES)
        commands.run_parallel(jobs, cwd=folder)
        objects = map(object_name, CYCLE_MODEL_SOURCES)
        commands.run([*compiler, "-shared", *objects, "-o", CYCLE_MODEL_LIBRARY], cwd=folder)

    def notice() -> str:
        return f"building the cycle model, {seconds_text(CYCLE_MODEL_CPU_S / min(cores(), len(CYCLE_MODEL_SOURCES)))}"

    return product_folder(root, "cycle-model", parts, make, verilator=False, notice=notice) / CYCLE_MODEL_LIBRARY
