"""Log files: those of the last failures stay, those of living simulators too, and where they are."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from brownout.cosim.errors import BuildFolderError
from brownout.cosim.logs import BUILDS, KEPT, discard_old, open_simulator_log, writable_folder


def old_log(folder: Path, name: str, age_s: int) -> Path:
    path = folder / name
    path.touch()
    os.utime(path, (10_000 - age_s, 10_000 - age_s))
    return path


def test_logs_of_ended_simulators_go_except_for_the_newest(tmp_path: Path) -> None:
    ended = [old_log(tmp_path, f"simulator-{number}-0.log", number) for number in range(1, KEPT + 6)]
    builds = [old_log(tmp_path, f"build-{number}.log", number) for number in range(KEPT + 6)]
    path, file = open_simulator_log(tmp_path)
    with file:
        assert sorted(tmp_path.glob("simulator-*")) == sorted([path, *ended[:KEPT]])
    assert set(builds) <= set(tmp_path.iterdir())
    discard_old(tmp_path, BUILDS)
    assert sorted(tmp_path.glob("build-*")) == sorted(builds[:KEPT])


def test_log_of_a_living_simulator_stays_however_old(tmp_path: Path) -> None:
    path, file = open_simulator_log(tmp_path)
    with file:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=file)
    os.utime(path, (1, 1))
    ended = [old_log(tmp_path, f"simulator-{number}-0.log", number) for number in range(1, KEPT + 2)]
    discard_old(tmp_path, "simulator-")
    assert sorted(tmp_path.iterdir()) == sorted([path, *ended[:KEPT]])
    child.communicate(b"\n")
    discard_old(tmp_path, "simulator-")
    assert sorted(tmp_path.iterdir()) == sorted(ended[:KEPT])


def test_logs_are_temporary_files_where_the_build_folder_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path, file = open_simulator_log(tmp_path / "file" / "logs")
    file.close()
    assert path.parent == tmp_path / f"brownout-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.parent.rename(tmp_path / "other")
    path.parent.symlink_to(tmp_path / "other")  # somebody else's, perhaps
    with pytest.raises(BuildFolderError, match=f"^cannot use {tmp_path}/file/logs: Not a directory; a file is in the "):
        writable_folder(tmp_path / "file" / "logs")
