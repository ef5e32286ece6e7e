"""What a user's shell has set or closed does not reach simulators and builds."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brownout.cosim import ProtocolError, Simulator, build_simulator, process
from brownout.cosim.environment import build_environment, emission_environment, own_environment
from brownout.cosim.scoreboard import GemmCase

from ..configurations import plain
from .conftest import memory_array
from .gemm_cases import random_int8

pytestmark = pytest.mark.xdist_group("process")

CONFIG = plain(4, 4)


def run_product() -> None:
    rng = np.random.default_rng(0)
    case = GemmCase(CONFIG, random_int8(rng, 3, 4), random_int8(rng, 4, 5))
    with Simulator(CONFIG, deadline_s=60) as simulator:
        case.write(memory_array(simulator))
        simulator.run([case.command().encode()])
        case.check(memory_array(simulator))


_PROGRAM = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np
from brownout.cosim import Simulator
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.config import AcceleratorConfig
config = AcceleratorConfig.from_dict({config!r})
a, w = np.full((3, 4), 2, np.int8), np.full((4, 5), 3, np.int8)
with Simulator(config, deadline_s=60) as simulator:
    low = {{os.readlink(f"/proc/self/fd/{{number}}") for number in {closed!r}}}
    case = GemmCase(config, a, w)
    memory = np.frombuffer(simulator.memory, np.uint8)
    case.write(memory)
    simulator.run([case.command().encode()])
    case.check(memory)
    place = case.command().y_addr
    total = int(memory[place : place + 20].view(np.int32)[0])
with open({out!r}, "w") as file:
    file.write(f"{{total}} {{sorted(low)}}")
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=["stdin", "stdout", "stderr", "all"])
def test_closed_standard_streams_do_no_harm(tmp_path: Path, closed: tuple[int, ...]) -> None:
    build_simulator(CONFIG)  # without a deadline
    out = tmp_path / "out"
    program = _PROGRAM.format(path=sys.path, config=CONFIG.to_dict(), closed=closed, out=str(out))
    closing = " ".join(f"{number}>&-" for number in closed)
    command = f"exec {shlex.join([sys.executable, '-c', program])} {closing}"
    assert subprocess.run(["sh", "-c", command], check=False, timeout=120).returncode == 0
    # Neither memory nor link of the simulator has the number of a standard stream.
    assert out.read_text() == "24 ['/dev/null']"


def test_variables_of_the_shell_do_not_reach_a_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "COCOTB_TESTCASE": "nothing",
        "COCOTB_TEST_FILTER": "nothing",
        "COCOTB_LOG_LEVEL": "BOGUS",
        "GPI_EXTRA": "/nonexistent.so:foo",
        "PYGPI_USERS": "nonsense",
        "TESTCASE": "nothing",
        "PYTHONHOME": "/nonexistent",
        "PYTHONWARNINGS": "error",
        "LIBPYTHON_LOC": "/nonexistent.so",
        "BROWNOUT_WAVES": "/nonexistent/waves.vcd",
        "LD_PRELOAD": "/nonexistent.so",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = process.cocotb_environment("module", process.needed_environment())
    assert {name for name, value in variables.items() if seen.get(name) == value} == set()
    run_product()


def test_python_without_shared_library_is_told_from_a_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("find_libpython.find_libpython", lambda: None)
    with pytest.raises(ProtocolError, match=r"^cannot find libpython; use a Python .* LIBPYTHON_LOC$"):
        process.cocotb_environment("module", {})
    monkeypatch.setenv("LIBPYTHON_LOC", "/nonexistent.so")
    with pytest.raises(ProtocolError, match=r"^cannot find libpython: /nonexistent\.so does not exist; use "):
        process.cocotb_environment("module", {})
    monkeypatch.setenv("LIBPYTHON_LOC", os.devnull)
    assert process.cocotb_environment("module", {})["GPI_USERS"].startswith(f"{os.devnull};")


def test_build_and_testbench_keep_what_users_have_set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CCACHE_DIR", "MY_BENCH_SEED", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "kept")
    for name in ("MAKEFLAGS", "VERILATOR_ROOT", "COCOTB_TEST_FILTER", "MODULE", "DEPENDENCIES_OUTPUT", "PYTHONPATH"):
        monkeypatch.setenv(name, "lost")
    for taken in (own_environment(), build_environment(tmp_path)):
        assert [name for name, value in taken.items() if value == "lost"] == []
        assert sorted(name for name, value in taken.items() if value == "kept") == [
            "CCACHE_DIR",
            "MY_BENCH_SEED",
            "PYTHONDONTWRITEBYTECODE",
        ]
    assert build_environment(tmp_path)["TMPDIR"] == str(tmp_path)


def test_emission_runs_the_yosys_of_the_package_and_needs_no_writable_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = dict(os.environ)
    with emission_environment(tmp_path / "root"):
        assert os.environ["AMARANTH_USE_YOSYS"] == "builtin"
        assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    assert dict(os.environ) == before
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    with emission_environment(tmp_path / "root"):
        assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "root")
    assert os.environ["XDG_CACHE_HOME"] == "/proc/cache"
