"""Builds: what shares a simulator, what does not, what a failed build says, and what is told before a long one."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path

import pytest

from brownout.cosim import BuildError, Simulator, build
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from ..configurations import plain


def test_second_build_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AcceleratorConfig(rows=2, cols=2)
    first = build.build_simulator(config)
    changed = first.stat().st_mtime_ns
    # Nothing is run, not even to find out that there is nothing to do.
    monkeypatch.setattr(build, "Commands", None)
    assert build.build_simulator(config) == first
    assert first.stat().st_mtime_ns == changed


def test_memory_does_not_name_the_simulator_but_the_array_does() -> None:
    small = AcceleratorConfig(rows=2, cols=2)
    other_memory = dataclasses.replace(small, memory=MemoryConfig(latency_cycles=9))
    assert build.build_simulator(small) == build.build_simulator(other_memory)
    assert small.rtl_hash in str(build.build_simulator(small))
    assert AcceleratorConfig(rows=2, cols=3).rtl_hash != small.rtl_hash


def test_compiler_error_names_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "COMMON_FLAGS", (*build.COMMON_FLAGS, "-no-such-option"))
    with pytest.raises(BuildError, match=r"no-such-option.* \(log: .*\.log\)$") as caught:
        build.build_memory_library(tmp_path)
    assert caught.value.log is not None
    assert caught.value.log.parent == tmp_path / "logs"
    assert "-no-such-option" in caught.value.log.read_text()
    assert not list(tmp_path.glob("sim/*/*.so"))


def test_notice_says_what_is_built_how_long_and_where_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = AcceleratorConfig(rows=2, cols=2)
    build.build_simulator(config)
    assert caplog.records == []

    def fail(*arguments: object) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(build, "Commands", fail)
    monkeypatch.setattr("brownout.cosim.durations.cores", lambda: 2)
    with pytest.raises(RuntimeError, match="stopped"):
        build.build_simulator(config, build_root=tmp_path)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("brownout.build", logging.WARNING)
    assert record.getMessage() == (f"building the simulator of a 2x2 array (server), about 20 s; kept in {tmp_path}")


def test_sources_that_change_while_a_process_runs_leave_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brownout.hw.emit.verilog_text", lambda *arguments: "module brownout(); endmodule")
    config = AcceleratorConfig(rows=2, cols=2)
    name = build.build_verilog(config, tmp_path / "before").parent.name
    monkeypatch.setattr(build, "_hw_digest", lambda: "another")
    with pytest.raises(BuildError, match=r"hw has changed since this Python has loaded it; start Python again$"):
        build.build_verilog(config, tmp_path / "after")
    assert list((tmp_path / "after" / "rtl").iterdir()) == []
    assert build.build_verilog(config, tmp_path / "before").parent.name == name


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++")
def test_clang_builds_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "clang++")
    with Simulator(plain(1, 1), build_root=tmp_path, deadline_s=60) as simulator:
        assert simulator.read_register("ID") == int.from_bytes(b"BRWN", "little")
