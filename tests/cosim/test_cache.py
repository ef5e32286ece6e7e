"""Build folders: where they are, what a failed or concurrent build leaves, and what the system may refuse."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from brownout.cosim import cache
from brownout.cosim.cache import build_root, cached_folder, digest, files_digest, results_root
from brownout.cosim.errors import BuildFolderError, folder_errors

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder in no checkout, with this package installed as from a wheel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROWNOUT_BUILD", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "site-packages" / "brownout" / "cosim" / "cache.py"))
    return tmp_path


def test_build_root_comes_from_argument_then_environment(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWNOUT_BUILD", str(outside / "elsewhere"))
    assert build_root() == results_root() == outside / "elsewhere"
    assert build_root("here") == results_root("here") == outside / "here"


def test_build_root_in_a_checkout_is_its_build(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = outside / "other"
    (other / "deep").mkdir(parents=True)
    (other / "pyproject.toml").write_text('[project]\nname = "other"\n')
    (outside / "bad" / "deep").mkdir(parents=True)
    (outside / "bad" / "pyproject.toml").write_bytes(b"\xff[")
    (outside / "ours" / "deep").mkdir(parents=True)
    (outside / "ours" / "pyproject.toml").write_text('[project]\nname = "brownout"\n')
    monkeypatch.setenv("XDG_CACHE_HOME", str(outside / "cache"))
    for folder in ("other", "bad"):
        monkeypatch.chdir(outside / folder / "deep")
        assert build_root() == outside / "cache" / "brownout"
        assert results_root() == outside / folder / "deep" / "build"
    monkeypatch.chdir(outside / "ours" / "deep")
    assert build_root() == results_root() == outside / "ours" / "build"


def test_build_root_of_a_package_installed_for_editing_is_its_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROWNOUT_BUILD", raising=False)
    assert build_root() == results_root() == CHECKOUT / "build"


def test_build_root_outside_is_the_users_cache(outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(outside / "home"))
    assert build_root() == outside / "home" / ".cache" / "brownout"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert build_root() == outside / "home" / ".cache" / "brownout"
    monkeypatch.delenv("HOME")
    assert build_root() == Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache" / "brownout"

    def nobody(number: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(BuildFolderError, match=r"^there is no home folder to build in; set BROWNOUT_BUILD, or HOME$"):
        build_root()


def test_current_folder_that_is_gone_is_only_missed_if_asked_for(
    outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(outside))
    (outside / "gone").mkdir()
    monkeypatch.chdir(outside / "gone")
    (outside / "gone").rmdir()
    assert build_root() == outside / "brownout"
    message = r"^the current folder is gone; go to another one, or set BROWNOUT_BUILD to a full path$"
    with pytest.raises(BuildFolderError, match=message):
        results_root()
    with pytest.raises(BuildFolderError, match=message):
        build_root("relative")


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


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_failed_step_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("")
        raise RuntimeError("stopped")

    kind = tmp_path / "sim"
    with pytest.raises(RuntimeError, match="stopped"):
        cached_folder(kind, "thing", fail)
    assert list(kind.iterdir()) == []
    assert cached_folder(kind, "thing", lambda folder: (folder / "all").touch()) == kind / "thing"
    assert contents(kind / "thing") == ["all"]
    assert list(kind.iterdir()) == [kind / "thing"]


def test_remains_of_a_killed_build_are_replaced(tmp_path: Path) -> None:
    kind = tmp_path / "sim"
    (kind / ".thing.part").mkdir(parents=True)
    (kind / ".thing.part" / "half").touch()
    (kind / ".thing.lock").touch()
    folder = cached_folder(kind, "thing", lambda work: (work / "all").touch())
    assert contents(folder) == ["all"]
    assert list(kind.iterdir()) == [folder]


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
    if {fails!r} and len((parent / "log").read_text().splitlines()) < 3:
        raise SystemExit(0)
    (folder / "all").touch()

assert (cached_folder(parent / "sim", "thing", make) / "all").exists()
"""


@pytest.mark.parametrize("fails", [False, True], ids=["built", "fails twice"])
def test_processes_that_build_the_same_build_it_one_at_a_time(tmp_path: Path, fails: bool) -> None:
    program = _SLOW_BUILD.format(path=sys.path, parent=str(tmp_path), fails=fails)
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "built\n" * (3 if fails else 1)
    assert contents(tmp_path / "sim") == ["thing"]


def test_waiting_for_another_build_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LONGEST_BUILD_S", 0.2)
    with open(tmp_path / ".thing.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BuildFolderError, match=r"another process has held .*\.thing\.lock for .* minutes; end it"):
            cached_folder(tmp_path, "thing", lambda _: pytest.fail("built while another process builds"))
    assert cached_folder(tmp_path, "thing", lambda folder: (folder / "done").touch()).joinpath("done").exists()


def test_file_in_the_place_of_the_build_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildFolderError) as caught:
        cached_folder(tmp_path / "file" / "sim", "thing", lambda folder: None)
    assert str(caught.value) == (
        f"cannot use {tmp_path / 'file' / 'sim'}: Not a directory; a file is in the place of a folder; "
        "set BROWNOUT_BUILD to a folder, or remove the file"
    )


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space there, or set BROWNOUT_BUILD to a folder on another disk"),
        (errno.EDQUOT, "free space there, or set BROWNOUT_BUILD to a folder on another disk"),
        (errno.EROFS, "set BROWNOUT_BUILD to a folder that can be written"),
        (errno.EACCES, "set BROWNOUT_BUILD to a folder that can be written"),
        (errno.EIO, "set BROWNOUT_BUILD to another folder"),
    ],
)
def test_what_the_system_refuses_in_a_build_is_typed(tmp_path: Path, number: int, remedy: str) -> None:
    def write(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(number, os.strerror(number))

    with pytest.raises(BuildFolderError) as caught:
        cached_folder(tmp_path / "sim", "thing", write)
    assert str(caught.value) == f"cannot use {tmp_path / 'sim'}: {os.strerror(number)}; {remedy}"
    assert list((tmp_path / "sim").iterdir()) == []


def test_what_is_refused_elsewhere_is_not_the_build_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), folder_errors(tmp_path / "sim"):
        (tmp_path / "source.cpp").read_text()
