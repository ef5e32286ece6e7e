"""Build folders that appear complete or not at all, whoever else builds at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pwd
import shutil
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import BuildFolderError, folder_errors
from .eviction import claim, make_room, mark

PROJECT = "brownout"

LONGEST_BUILD_S = 7200.0
"""How long a process waits for another that builds the same: over ten times what the largest arrays take."""


def build_root(override: Path | str | None = None) -> Path:
    """Folder for everything built.

    `override`, else ``$BROWNOUT_BUILD``, else ``build`` of the checkout that the current folder or this package is in,
    else ``brownout`` in the user's cache folder: ``$XDG_CACHE_HOME``, or ``~/.cache``.

    Raises
    ------
    BuildFolderError
        It is relative to a current folder that is gone, or there is no home folder.
    """
    return _named(override) or _of_checkout() or _user_cache() / PROJECT


def results_root(override: Path | str | None = None) -> Path:
    """Folder for what is not to be lost; as `build_root`, but at last ``build`` in the current folder.

    Raises
    ------
    BuildFolderError
        It is relative to a current folder that is gone.
    """
    return _named(override) or _of_checkout() or _here() / "build"


def _named(override: Path | str | None) -> Path | None:
    named = override or os.environ.get("BROWNOUT_BUILD")
    if not named:
        return None
    return Path(named).resolve() if os.path.isabs(named) else (_here() / named).resolve()


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise BuildFolderError(
            "the current folder is gone; go to another one, or set BROWNOUT_BUILD to a full path"
        ) from None


def _of_checkout() -> Path | None:
    with contextlib.suppress(FileNotFoundError):
        if (found := _checkout(Path.cwd())) is not None:
            return found / "build"
    # Installed for editing, this file is where it is written.
    found = _checkout(Path(__file__).resolve().parents[1])
    return None if found is None else found / "build"


@functools.cache
def _checkout(folder: Path) -> Path | None:
    """The folder of this project's sources that `folder` is in."""
    for candidate in (folder, *folder.parents):
        try:
            project = tomllib.loads((candidate / "pyproject.toml").read_text()).get("project")
        except (OSError, ValueError):
            continue
        if isinstance(project, dict) and project.get("name") == PROJECT:
            return candidate
    return None


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(named):  # others are to be ignored, says the XDG specification
        return Path(named)
    home = os.environ.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise BuildFolderError("there is no home folder to build in; set BROWNOUT_BUILD, or HOME") from None
    return Path(home) / ".cache"


def digest(parts: Iterable[str | bytes]) -> str:
    """16 hexadecimal digits over `parts`, each counted with its length so that no two lists collide by joining."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:16]


def files_digest(folder: Path, patterns: Iterable[str], *, recursive: bool = True) -> str:
    """Digest of names and contents of the files in `folder` that match one of `patterns`; `recursive`: or below it."""
    search = folder.rglob if recursive else folder.glob
    found = sorted({path for pattern in patterns for path in search(pattern) if path.is_file()})
    parts: list[str | bytes] = []
    for path in found:
        parts += [path.relative_to(folder).as_posix(), path.read_bytes()]
    return digest(parts)


def _lock(descriptor: int, path: Path, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise BuildFolderError(
                    f"another process has held {path} for {LONGEST_BUILD_S / 60:g} minutes; end it, or set "
                    "BROWNOUT_BUILD to a folder of its own"
                ) from None
        time.sleep(0.05)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One process at a time; the file `path` is there meanwhile."""
    until = time.monotonic() + LONGEST_BUILD_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, path, until)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    break
        except BaseException:
            os.close(descriptor)
            raise
        # The one before has removed the file that this one waited for.
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def cached_folder(parent: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Folder ``parent/name``, made by `make` if it is not there yet.

    `make` fills an empty working folder, which then gets its name in one step. Processes that want the same folder wait
    for each other; if one is killed, the next starts afresh. A folder that is there is used as it is, and nothing need
    be written for that. It stays while this process lives (`brownout.cosim.eviction`).

    Parameters
    ----------
    parent : Path
        Where the folder belongs: ``KIND`` in a build folder.
    name : str
        Its name; must change with everything that its contents depend on.
    make : callable
        Called with the working folder; what it raises is passed on and leaves nothing behind.

    Raises
    ------
    BuildFolderError
        It is not there, and cannot be written.
    """
    folder = parent / name
    with folder_errors(parent):
        if claim(folder):
            return folder
        parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(parent / f".{name}.lock"):
            if claim(folder):
                return folder
            work = parent / f".{name}.part"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                make(work)
                mark(work)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
            claim(folder)
    make_room(parent.parent)
    return folder
