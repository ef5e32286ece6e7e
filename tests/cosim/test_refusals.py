"""What the system refuses: media that cannot be written, full disks, programs that are not there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brownout.cosim import build, build_simulator
from brownout.cosim.cache import build_root
from brownout.cosim.cycle_model.build import build_cycle_model
from brownout.cosim.errors import BuildFolderError
from brownout.cosim.process import SimulatorProcess

from ..configurations import plain

pytestmark = pytest.mark.xdist_group("process")

CONFIG = plain(4, 4)

_PROGRAM = """
import os, sys
sys.path[:0] = {path!r}
import numpy as np
from brownout.cosim import Simulator
from brownout.cosim.build import build_memory_library
from brownout.cosim.errors import BuildError
from brownout.cosim.scoreboard import GemmCase
from brownout.hw.config import AcceleratorConfig
{text}
"""

_PRODUCT = f"""
config = AcceleratorConfig.from_dict({CONFIG.to_dict()!r})
a, w = np.full((3, 4), 2, np.int8), np.full((4, 5), 3, np.int8)
with Simulator(config, deadline_s=60) as simulator:
    case = GemmCase(config, a, w)
    memory = np.frombuffer(simulator.memory, np.uint8)
    case.write(memory)
    simulator.run([case.command().encode()])
    case.check(memory)
    place = case.command().y_addr
    print(memory[place : place + 20].view(np.int32).tolist(), simulator.log.parent)
"""

_BUILD = """
try:
    build_memory_library()
except BuildError as error:
    print(type(error).__name__, error)
"""


def run_with_mounts(mounts: str, text: str, environment: dict[str, str]) -> str:
    """Output of a program; `mounts` are shell commands that change the file system as it, and nobody else, sees it."""
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("needs mounts of its own: unshare is missing or not allowed here")
    program = [sys.executable, "-c", _PROGRAM.format(path=sys.path, text=text)]
    variables = [f"{name}={value}" for name, value in environment.items()]
    script = f"set -e; {mounts}\nexec {shlex.join(['env', *variables, *program])}"
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_cached_needs_no_compiler_no_writing_and_no_working_folder(tmp_path: Path) -> None:
    build_simulator(CONFIG)
    root = build_root()
    mounts = f"mount --bind {root} {root}; mount -o remount,ro,bind {root}; cd {root}"
    environment = {"BROWNOUT_BUILD": str(root), "PATH": "", "CXX": "", "TMPDIR": str(tmp_path)}
    logs = tmp_path / f"brownout-{os.getuid()}"
    assert run_with_mounts(mounts, _PRODUCT, environment) == f"[24, 24, 24, 24, 24] {logs}\n"
    assert list(logs.iterdir()) == []


def test_simulator_runs_while_the_disk_of_its_logs_is_full(tmp_path: Path) -> None:
    executable = build_simulator(CONFIG)
    mounts = f"mount -t tmpfs -o size=64k tmpfs {tmp_path}; ln -s {executable.parents[1]} {tmp_path}/sim; "
    mounts += f"mkdir {tmp_path}/logs; cat /dev/zero > {tmp_path}/rest 2> {os.devnull} || true"
    environment = {"BROWNOUT_BUILD": str(tmp_path)}
    assert run_with_mounts(mounts, _PRODUCT, environment) == f"[24, 24, 24, 24, 24] {tmp_path}/logs\n"


@pytest.mark.parametrize("size", ["16k", "100k"], ids=["compiler", "linker"])
def test_full_disk_in_a_build_is_named_and_nothing_half_built_is_left(tmp_path: Path, size: str) -> None:
    mounts = f"mount -t tmpfs -o size={size} tmpfs {tmp_path}"
    text = f"{_BUILD}\nprint(sorted(os.listdir('{tmp_path}/sim')))"
    first, second = run_with_mounts(mounts, text, {"BROWNOUT_BUILD": str(tmp_path)}).splitlines()
    assert first.startswith(f"BuildFolderError cannot use {tmp_path}/")
    assert "No space left on device; free space there, or set BROWNOUT_BUILD to a folder on another disk" in first
    assert second == "[]"


def test_build_in_a_folder_that_cannot_be_written_names_the_remedy(tmp_path: Path) -> None:
    mounts = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    assert run_with_mounts(mounts, _BUILD, {"BROWNOUT_BUILD": str(tmp_path)}) == (
        f"BuildFolderError cannot use {tmp_path}/sim: Read-only file system; "
        "set BROWNOUT_BUILD to a folder that can be written\n"
    )


def test_build_folder_that_is_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path / "file"))
    for make in (build.build_memory_library, build_cycle_model, lambda: build.build_verilog(CONFIG)):
        with pytest.raises(
            BuildFolderError, match=f"^cannot use {tmp_path}/file/.*: Not a directory; a file is in the "
        ):
            make()


def test_simulator_that_may_not_be_run_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "simulator").touch()
    with pytest.raises(BuildFolderError) as caught:
        SimulatorProcess(
            tmp_path / "simulator", memory_fd=0, settings="", waves=None, logs=tmp_path / "logs", deadline_s=1
        )
    assert str(caught.value) == (
        f"cannot run {tmp_path}/simulator: Permission denied; "
        "set BROWNOUT_BUILD to a folder from which programs can be run"
    )
    assert list((tmp_path / "logs").iterdir()) == []
