"""The bound of a build folder: what goes first, and what never goes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from brownout.cosim import eviction
from brownout.cosim.cache import cached_folder
from brownout.cosim.errors import BuildFolderError

MEGABYTE = 1 << 20


def fill(folder: Path) -> None:
    (folder / "data").write_bytes(os.urandom(MEGABYTE))


def forget(root: Path) -> None:
    """As if the process that has used what is in `root` had ended."""
    for folder in [folder for folder in eviction._claims if folder.is_relative_to(root)]:
        os.close(eviction._claims.pop(folder))


def make(root: Path, *names: str) -> None:
    """Folders that were last used in this order, long ago, by nobody who lives."""
    for age, name in enumerate(names):
        folder = cached_folder(root / name.split("/")[0], name.split("/")[1], fill)
        os.utime(folder / eviction.MARK, (1000 + age, 1000 + age))
    forget(root)


def left(root: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in root.glob("*/*")}


def test_least_recently_used_goes_first_over_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sim/a", "rtl/b", "sim/c", "sim/d")
    assert cached_folder(tmp_path / "sim", "a", fill)  # used again
    forget(tmp_path)
    monkeypatch.setenv("BROWNOUT_BUILD_GB", "0.0037")
    cached_folder(tmp_path / "sim", "e", fill)
    assert left(tmp_path) == {"sim/a", "sim/d", "sim/e"}


def test_what_this_process_has_used_or_just_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sim/a", "sim/b")
    cached_folder(tmp_path / "sim", "a", fill)
    monkeypatch.setenv("BROWNOUT_BUILD_GB", "0.000001")
    cached_folder(tmp_path / "sim", "c", fill)
    assert left(tmp_path) == {"sim/a", "sim/c"}
    assert (tmp_path / "sim" / "a" / "data").stat().st_size == MEGABYTE


_USER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from brownout.cosim.cache import cached_folder
cached_folder(Path({parent!r}), "a", None)
print("used", flush=True)
sys.stdin.read()
"""


def test_what_another_living_process_uses_stays_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sim/a", "sim/b")
    program = _USER.format(path=sys.path, parent=str(tmp_path / "sim"))
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "used\n"
        os.utime(tmp_path / "sim" / "a" / eviction.MARK, (1000, 1000))
        monkeypatch.setenv("BROWNOUT_BUILD_GB", "0.000001")
        eviction.make_room(tmp_path)
        assert left(tmp_path) == {"sim/a"}
        user.kill()
    eviction.make_room(tmp_path)
    assert left(tmp_path) == set()


def test_evicted_folder_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "sim/a")
    monkeypatch.setenv("BROWNOUT_BUILD_GB", "0.000001")
    eviction.make_room(tmp_path)
    assert left(tmp_path) == set()
    assert (cached_folder(tmp_path / "sim", "a", fill) / "data").exists()


def test_remains_of_killed_builds_and_removals_go_but_not_builds_in_progress(tmp_path: Path) -> None:
    kind = tmp_path / "sim"
    for rest in (".a.part", ".b.gone"):
        (kind / rest).mkdir(parents=True)
    (kind / ".a.lock").touch()

    def build(folder: Path) -> None:
        eviction.make_room(tmp_path)
        fill(folder)

    assert (cached_folder(kind, "c", build) / "data").exists()
    assert [path.name for path in kind.iterdir()] == ["c"]


def test_folder_of_before_there_were_marks_is_used_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sim" / "old").mkdir(parents=True)
    fill(tmp_path / "sim" / "old")
    assert cached_folder(tmp_path / "sim", "old", lambda folder: pytest.fail("made again"))
    monkeypatch.setenv("BROWNOUT_BUILD_GB", "0.000001")
    eviction.make_room(tmp_path)
    assert left(tmp_path) == {"sim/old"}
    forget(tmp_path)
    eviction.make_room(tmp_path)
    assert left(tmp_path) == set()


def test_one_process_holds_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "MOST_CLAIMS", 3)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number in range(9):
            cached_folder(tmp_path / "sim", str(number), lambda folder: None)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert [folder.name for folder in eviction._claims] == ["6", "7", "8"]


@pytest.mark.parametrize("text", ["much", "0", "-1", "nan"])
def test_limit_must_be_positive(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BROWNOUT_BUILD_GB", text)
    with pytest.raises(
        BuildFolderError, match=f"^BROWNOUT_BUILD_GB must be a positive number of gigabytes, or inf, not '{text}'$"
    ):
        eviction.limit_bytes()


def test_limit_has_a_default_and_can_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROWNOUT_BUILD_GB", raising=False)
    assert eviction.limit_bytes() == 4e9
    monkeypatch.setenv("BROWNOUT_BUILD_GB", "inf")
    assert eviction.limit_bytes() == float("inf")
