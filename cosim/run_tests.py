"""Runs cocotb testbenches: ``python -m brownout.cosim.run_tests --test gemm --rows 4 --cols 4 --waves vcd``.

A testbench is a file ``bench_NAME.py`` with cocotb tests, by default in ``tests/cosim/benches``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from brownout.hw.config import AcceleratorConfig, MemoryConfig

from .build import build_simulator
from .cache import results_root
from .descriptors import reserve_standard_descriptors
from .dram import settings_text, timing_settings
from .environment import own_environment
from .errors import SimulatorError, folder_errors
from .process import cocotb_environment
from .testbench import CONFIG_VARIABLE
from .waves import WAVE_FORMATS, WaveName

DEFAULT_BENCHES = Path("tests/cosim/benches")
_PREFIX = "bench_"


@dataclass(frozen=True)
class BenchResult:
    """Outcome of a run.

    Attributes
    ----------
    passed, failed : int
        Numbers of cocotb tests.
    waves : Path or None
        Wave file that was written.
    """

    passed: int
    failed: int
    waves: Path | None


def bench_names(benches: Path) -> list[str]:
    """Names of the testbenches in a folder."""
    return sorted(path.stem.removeprefix(_PREFIX) for path in benches.glob(f"{_PREFIX}*.py"))


def run_benches(
    config: AcceleratorConfig,
    test: str = "all",
    *,
    benches: Path = DEFAULT_BENCHES,
    waves: WaveName | None = None,
    build_root: Path | str | None = None,
    environment: Mapping[str, str] | None = None,
) -> BenchResult:
    """Run testbenches with cocotb's own main; their output goes to this process's.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration of the device under test.
    test : str
        ``"all"``, the name of a testbench, or the name of one test in any of them.
    benches : Path
        Folder of the testbenches.
    waves : {"vcd", "fst"}, optional
        Write a wave file of this format, ``waves/NAME.vcd`` or ``waves/NAME.fst`` in
        `brownout.cosim.cache.results_root`.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.
    environment : mapping, optional
        Further environment variables. Those of cocotb, GPI, Verilator and Python in this process's are left out
        (`brownout.cosim.environment`).

    Raises
    ------
    SimulatorError
        The simulator ended without results, or no test ran.
    """
    names = bench_names(benches)
    executable = build_simulator(config, "testbench", waves=waves, build_root=build_root)
    chosen = [test] if test in names else names
    settings: dict[str, int | str | Path] = {"size_bytes": config.memory.size_bytes, **timing_settings(config.memory)}
    env = cocotb_environment(",".join(f"{_PREFIX}{name}" for name in chosen), own_environment()) | {
        "BROWNOUT_DRAM": settings_text(settings),
        CONFIG_VARIABLE: json.dumps(config.to_dict()),
        **(environment or {}),
    }
    env["PYTHONPATH"] = os.pathsep.join([str(benches.resolve()), env["PYTHONPATH"]])
    if test != "all" and test not in names:
        env["COCOTB_TEST_FILTER"] = rf"\.{test}$"
    file = None if waves is None else results_root(build_root) / "waves" / f"{test}.{waves}"
    command = [str(executable)]
    if file is not None:
        with folder_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        command += ["--trace", "--trace-file", str(file)]
    reserve_standard_descriptors()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        status = subprocess.run(command, env=env | {"COCOTB_RESULTS_FILE": str(results)}, check=False).returncode
        if not results.exists():
            raise SimulatorError(f"the simulator ended with status {status} and without results")
        cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    # cocotb lists filtered tests too, as skipped.
    ran = [case for case in cases if case.find("skipped") is None]
    if not ran:
        raise SimulatorError(f"no test ran: {test!r} is none of the testbenches {', '.join(names)}, nor a test in them")
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in ran)
    return BenchResult(len(ran) - failed, failed, file)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m brownout.cosim.run_tests", description="Run cocotb testbenches.")
    parser.add_argument("--test", default="all", help="testbench, single test, or 'all' (default)")
    parser.add_argument("--rows", type=int, default=4, help="array rows (default 4)")
    parser.add_argument("--cols", type=int, default=4, help="array columns (default 4)")
    parser.add_argument("--waves", choices=WAVE_FORMATS, help="write a wave file of this format")
    parser.add_argument("--benches", type=Path, default=DEFAULT_BENCHES, help="folder of the testbenches")
    options = parser.parse_args(arguments)
    config = AcceleratorConfig(rows=options.rows, cols=options.cols, memory=MemoryConfig(size_bytes=1 << 22))
    try:
        result = run_benches(config, options.test, benches=options.benches, waves=options.waves)
    except SimulatorError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{result.passed} passed, {result.failed} failed")
    if result.waves is not None:
        print(f"waves: {result.waves}")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
