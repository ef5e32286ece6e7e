"""Builds the twin's C++ kernels, cached like the simulators but apart from them."""

from __future__ import annotations

from pathlib import Path

from brownout.cosim.cache import build_root as resolve_build_root
from brownout.cosim.cache import digest, files_digest
from brownout.cosim.compiling import Commands, write_headers
from brownout.cosim.durations import KERNELS_CPU_S, seconds_text
from brownout.cosim.errors import BuildError, BuildFolderError
from brownout.cosim.products import product_folder
from brownout.cosim.toolchain import find_compiler
from brownout.hw.cpp_header import HARDWARE_HEADER, hardware_header

from .structs import STRUCTURES_HEADER, kernels_header

SOURCES = Path(__file__).parent / "cpp"

KERNEL_LIBRARY = "libbrownout_kernels.so"

KERNEL_SOURCES = (
    "draws.cpp",
    "flip.cpp",
    "carry.cpp",
    "syndromes.cpp",
    "locating.cpp",
    "checks.cpp",
    "history.cpp",
    "quantise.cpp",
    "layout.cpp",
    "softmax.cpp",
)

KERNEL_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fPIC",
    "-fwrapv",
    "-ffp-contract=off",
    "-pthread",
    "-shared",
    "-w",
)
"""Sums wrap in two's complement, like the hardware's: without -fwrapv the compiler may assume that they do not.
Floating-point products and sums are rounded one by one, in vectors as in their scalar remainder."""

THREAD_FLAGS = ("-fopenmp",)
"""Left out where the compiler has no OpenMP; then the kernels start threads themselves."""


def build_kernels(build_root: Path | str | None = None) -> Path:
    """Shared library with the kernels of ``host/device/twin/cpp``, built unless it is already there.

    Safe to call from several processes at once.

    Parameters
    ----------
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildError
        There is no compiler, or it failed; names the log.
    """
    root = resolve_build_root(build_root)
    sources = SOURCES
    headers = {HARDWARE_HEADER: hardware_header(), STRUCTURES_HEADER: kernels_header()}
    parts = [*KERNEL_FLAGS, *THREAD_FLAGS, *headers.values(), files_digest(sources, ["*.h", "*.cpp"])]

    def make(folder: Path) -> None:
        commands = Commands(root / "logs", f"kernels-{digest(parts)}")
        write_headers(folder, headers)
        files = [str(sources / source) for source in KERNEL_SOURCES]
        command = [*find_compiler().command, *KERNEL_FLAGS, f"-I{folder}", *files, "-o", KERNEL_LIBRARY]
        try:
            commands.run([*command, *THREAD_FLAGS], cwd=folder)
        except BuildFolderError:
            raise
        except BuildError:
            commands.run(command, cwd=folder)

    def notice() -> str:
        return f"building the kernels of the twin, {seconds_text(KERNELS_CPU_S)}"

    return product_folder(root, "kernels", parts, make, verilator=False, notice=notice) / KERNEL_LIBRARY
