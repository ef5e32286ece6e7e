"""Environments of the processes that the co-simulation starts: what they need, whatever the user's shell has set."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_KEPT_OF_PYTHON = frozenset(("PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"))

NEEDED = _KEPT_OF_PYTHON | {"PATH", "HOME", "TMPDIR", "TZ", "LANG", "LD_LIBRARY_PATH"}
"""What a simulator that serves a host takes over. Where Python is and what it imports is set for it."""

NEEDED_PREFIXES = ("LC_", "NIX_LD")

FOREIGN = frozenset(
    (
        # Names that cocotb had before they began with COCOTB_, and that other simulation flows export.
        *("MODULE", "TOPLEVEL", "TOPLEVEL_LANG", "TESTCASE", "RANDOM_SEED", "COVERAGE", "LIBPYTHON_LOC"),
        *("MAKEFLAGS", "MFLAGS", "GNUMAKEFLAGS", "MAKEOVERRIDES", "MAKEFILES", "MAKELEVEL"),
        *("LD_PRELOAD", "LD_AUDIT"),
        # Compilers write a list of dependencies into the file that these name.
        *("DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES"),
    )
)
"""What neither a build nor a testbench takes over: it would change what they do, or write elsewhere."""

FOREIGN_PREFIXES = ("COCOTB_", "GPI_", "PYGPI_", "VERILATOR_", "PYTHON")
"""The same. PYTHONHOME would move the simulator to another Python; PYTHONPATH is set to all that this one imports."""


def needed_environment() -> dict[str, str]:
    """What `NEEDED` names."""
    return {name: text for name, text in os.environ.items() if name in NEEDED or name.startswith(NEEDED_PREFIXES)}


def own_environment() -> dict[str, str]:
    """All but what `FOREIGN` names: for programs that their users have set up through variables of their own."""
    return {
        name: text
        for name, text in os.environ.items()
        if name in _KEPT_OF_PYTHON or (name not in FOREIGN and not name.startswith(FOREIGN_PREFIXES))
    }


def build_environment(work: Path) -> dict[str, str]:
    """Environment of compilers and of Verilator, with temporary files in `work`.

    Messages are in English, because a full disk is recognised by its message.
    """
    return {**own_environment(), "TMPDIR": str(work), "LC_ALL": "C"}


_emission = threading.Lock()


@contextlib.contextmanager
def emission_environment(root: Path) -> Iterator[None]:
    """Within, Amaranth runs the Yosys that is part of the cache key, not one on PATH, whatever folders are writable.

    That Yosys is translated for this machine at its first use, which takes a while, and kept in the user's cache
    folder; where that cannot be written, in `root`.
    """
    changes = {"AMARANTH_USE_YOSYS": "builtin"}
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wasmtime"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        writable = os.access(cache, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        changes["XDG_CACHE_HOME"] = str(root)
    with _emission:
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
