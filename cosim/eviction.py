"""Bounds the size of a build folder: what was not used for longest goes first, and never what a living process uses.

Each cached folder has an empty file `MARK`. Its time of change is when the folder was last used; whoever uses the
folder holds a shared lock on it, which the system takes back when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import threading
from pathlib import Path

from .descriptors import reserve_standard_descriptors
from .errors import BuildFolderError

LIMIT_VARIABLE = "BROWNOUT_BUILD_GB"

DEFAULT_LIMIT_GB = 4.0
"""A thousand simulators of small arrays."""

MARK = ".used"

MOST_CLAIMS = 256
"""Folders that one process keeps from being removed, those that it used last; each costs a descriptor."""

_GONE = ".gone"

_claims: dict[Path, int] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


# A thread that does not exist in a forked child may have held it.
os.register_at_fork(after_in_child=_renew_lock)


def limit_bytes() -> float:
    """Most bytes of cached folders: ``$BROWNOUT_BUILD_GB``, in 10^9 bytes, else `DEFAULT_LIMIT_GB`; ``inf``: no bound.

    Raises
    ------
    BuildFolderError
        The variable is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE) or str(DEFAULT_LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise BuildFolderError(f"{LIMIT_VARIABLE} must be a positive number of gigabytes, or inf, not {text!r}")
    return limit * 1e9


def mark(folder: Path) -> None:
    """Make a folder one that can be claimed and removed."""
    (folder / MARK).touch()


def claim(folder: Path) -> bool:
    """Whether a cached folder is there. If so it was just used, and stays while this process lives."""
    path = folder / MARK
    reserve_standard_descriptors()
    with _lock:
        held = _claims.pop(folder, None)
        if held is not None and not _is(held, path):
            os.close(held)
            held = None
        if held is None:
            if not path.exists() and folder.is_dir():
                # Made before there were marks. Where none can be made nothing can be removed either.
                try:
                    mark(folder)
                except OSError:
                    return folder.is_dir()
            held = _shared(path)
        if held is None:
            return False
        with contextlib.suppress(OSError):
            os.utime(held)
        _claims[folder] = held
        while len(_claims) > MOST_CLAIMS:
            os.close(_claims.pop(next(iter(_claims))))
        return True


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def _shared(path: Path) -> int | None:
    """Descriptor with a shared lock; None if the file is not there, or was removed meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Some network file systems have no locks; nor can anything be removed there.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    if _is(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def make_room(root: Path) -> None:
    """Remove what was not used for longest from the folders ``KIND/NAME`` below `root` until they fit the limit.

    Raises
    ------
    BuildFolderError
        The limit is no positive number.
    """
    limit = limit_bytes()
    # That something could not be removed is no reason for not using what has been built.
    with contextlib.suppress(OSError):
        for rest in root.glob(f"*/.*{_GONE}"):
            shutil.rmtree(rest, ignore_errors=True)
        for work in root.glob("*/.*.part"):
            _remove_abandoned(work)
        entries = [(path.stat().st_mtime, path.parent) for path in root.glob(f"*/*/{MARK}")]
        sizes = {folder: _size(folder) for _, folder in entries}
        total = sum(sizes.values())
        for _, folder in sorted(entries):
            if total <= limit:
                return
            if _evict(folder):
                total -= sizes[folder]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.lstat().st_blocks * 512
    return total


def _remove_abandoned(work: Path) -> None:
    """Remove the working folder of a build that was killed."""
    lock = work.with_suffix(".lock")
    try:
        with open(lock, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
            lock.unlink(missing_ok=True)
    except OSError:
        return  # it is being built


def _evict(folder: Path) -> bool:
    """Remove a cached folder unless somebody uses it."""
    gone = folder.with_name(f".{folder.name}{_GONE}")
    try:
        with open(folder / MARK, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder.rename(gone)
            shutil.rmtree(gone)
    except OSError:
        return False
    return True
