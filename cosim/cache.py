"""Build folders that appear complete or not at all, whoever else builds at the same time."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def build_root(override: Path | str | None = None) -> Path:
    """Folder for everything built: `override`, else ``$BROWNOUT_BUILD``, else ``build`` in the current folder."""
    return Path(override or os.environ.get("BROWNOUT_BUILD") or "build").resolve()


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


def cached_folder(parent: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Folder ``parent/name``, made by `make` if it is not there yet.

    `make` fills an empty working folder, which then gets its name in one step. Processes that want the same folder wait
    for each other; if one is killed, the next starts afresh.

    Parameters
    ----------
    parent : Path
        Where the folder belongs.
    name : str
        Its name; must change with everything that its contents depend on.
    make : callable
        Called with the working folder; what it raises is passed on and leaves nothing behind.
    """
    folder = parent / name
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with open(parent / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        work = parent / f".{name}.part"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            make(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder
