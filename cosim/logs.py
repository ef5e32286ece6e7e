"""Log files of simulators and builds: where they are, and that only those of the last failures stay."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from .errors import folder_error

KEPT = 20
"""Logs that stay of simulators that have ended, and of builds: the newest ones, each."""

SIMULATORS, BUILDS = "simulator-", "build-"

_numbers = itertools.count()


def writable_folder(folder: Path) -> Path:
    """`folder`, made if need be; if nothing can be written there, one of this user's among temporary files.

    Raises
    ------
    BuildFolderError
        Neither can be written.
    """
    first: OSError | None = None
    for place in (lambda: folder, _temporary):
        try:
            found = place()
            found.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=found):
                return found
        except OSError as error:
            first = first or error
    assert first is not None
    raise folder_error(folder, first) from first


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"brownout-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not this user's")
    return folder


def open_simulator_log(folder: Path) -> tuple[Path, BinaryIO]:
    """A new log file for a simulator, and where it is; logs of simulators that have ended are thinned out.

    The file is locked as long as it is open in this process or, as output, in the simulator.

    Raises
    ------
    BuildFolderError
        No folder can be written.
    """
    place = writable_folder(folder)
    discard_old(place, SIMULATORS)
    while True:
        path = place / f"{SIMULATORS}{os.getpid()}-{next(_numbers)}.log"
        # Processes of containers that share a folder may have the same number.
        with contextlib.suppress(FileExistsError):
            file = open(path, "xb")  # noqa: SIM115
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_SH)
            return path, file


def discard_old(folder: Path, kind: str) -> None:
    """Remove logs of `kind`, `SIMULATORS` or `BUILDS`, that nobody writes, except for the newest."""
    found = []
    for path in folder.glob(f"{kind}*.log"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime_ns, path))
    ended = [path for _, path in sorted(found, reverse=True) if not _written(path)]
    for path in ended[KEPT:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _written(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
