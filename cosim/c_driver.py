"""Runs a driver in C on the simulated accelerator: ``python -m brownout.cosim.c_driver driver.c --rows 4 --cols 4``.

The driver sees what it would see of a chip: registers, memory and interrupt, through ``rtl/brownout_device.h``
(docs/driver.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brownout.hw.checks.scheme import CHECK_SCHEMES
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.errors.model import ERROR_FREE, TIMING_ERROR_MODELS

from .build import build_simulator, build_verilog, rtl_folder
from .descriptors import reserve_standard_descriptors
from .dram import settings_text, timing_settings
from .environment import build_environment, needed_environment
from .errors import BuildError, SimulatorError, SimulatorTimeout

C_FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")


@dataclass(frozen=True)
class DriverResult:
    """How a driver ended.

    Attributes
    ----------
    status : int
        What it returned; 2 if it could not be loaded, 3 after a breach of AXI rules.
    output : str
        What it and the simulator printed.
    """

    status: int
    output: str


def find_c_compiler() -> str:
    """The C compiler: ``$CC``, else ``cc``, ``gcc`` or ``clang``.

    Raises
    ------
    BuildError
        There is none, or ``$CC`` names a program that does not exist.
    """
    wanted = os.environ.get("CC")
    for name in (wanted,) if wanted else ("cc", "gcc", "clang"):
        if (executable := shutil.which(name)) is not None:
            return executable
    raise BuildError(f"no C compiler: CC names {wanted!r}" if wanted else "no C compiler: install gcc or set CC")


def run_driver(
    config: AcceleratorConfig,
    sources: Sequence[Path],
    *,
    deadline_s: float = 60.0,
    build_root: Path | str | None = None,
) -> DriverResult:
    """Compile a driver and run it on the simulated accelerator.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator; its header is ``accelerator.h``, with macros that begin with ``BROWNOUT_``.
    sources : sequence of Path
        C files, one of which has ``int brownout_driver(void)``.
    deadline_s : float
        Wall time after which the simulator is stopped.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

    Raises
    ------
    BuildError
        The simulator or the driver could not be built; names what the compiler said.
    SimulatorTimeout
        The driver did not end.
    """
    executable = build_simulator(config, "driver", build_root=build_root)
    header = build_verilog(config, build_root)
    settings: dict[str, int | str | Path] = {"size_bytes": config.memory.size_bytes, **timing_settings(config.memory)}
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "driver.so"
        files = [str(source.resolve()) for source in sources]
        includes = [f"-I{header.parent}", f"-I{rtl_folder()}"]
        command = [find_c_compiler(), *C_FLAGS, *includes, *files, "-o", str(library)]
        compiled = subprocess.run(
            command,
            env=build_environment(Path(folder)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if compiled.returncode:
            raise BuildError(f"the driver could not be compiled: {compiled.stderr.strip()}")
        reserve_standard_descriptors()
        try:
            ended = subprocess.run(
                [str(executable), str(library)],
                env=needed_environment() | {"BROWNOUT_DRAM": settings_text(settings)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
            raise SimulatorTimeout(
                f"the driver did not end within {deadline_s:g} s; it printed {said.strip()!r}"
            ) from late
    return DriverResult(ended.returncode, ended.stdout)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m brownout.cosim.c_driver", description="Run a driver in C.")
    parser.add_argument("sources", nargs="+", type=Path, help="C files")
    parser.add_argument("--rows", type=int, default=4, help="array rows (default 4)")
    parser.add_argument("--cols", type=int, default=4, help="array columns (default 4)")
    parser.add_argument("--checksum", choices=CHECK_SCHEMES.names(), help="scheme of checksum units (default: none)")
    parser.add_argument(
        "--timing-model", choices=TIMING_ERROR_MODELS.names(), default=ERROR_FREE, help="model of timing errors"
    )
    parser.add_argument("--deadline", type=float, default=60.0, metavar="SECONDS", help="wall time (default 60)")
    options = parser.parse_args(arguments)
    checksum = None if options.checksum is None else ChecksumConfig(scheme=options.checksum)
    try:
        config = AcceleratorConfig(
            rows=options.rows,
            cols=options.cols,
            checksum=checksum,
            timing_model=options.timing_model,
            memory=MemoryConfig(size_bytes=1 << 22),
        )
        result = run_driver(config, options.sources, deadline_s=options.deadline)
    except (SimulatorError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    sys.stdout.write(result.output)
    return result.status


if __name__ == "__main__":
    sys.exit(main())
