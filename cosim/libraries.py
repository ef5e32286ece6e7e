"""Loads shared libraries that were built."""

from __future__ import annotations

import ctypes
from pathlib import Path

from .errors import BuildFolderError


def load_library(path: Path) -> ctypes.CDLL:
    """A shared library of a build folder.

    Raises
    ------
    BuildFolderError
        It cannot be loaded: nothing may be run from its folder, or it is damaged.
    """
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildFolderError(
            f"cannot load {path}: {error}; set BROWNOUT_BUILD to a folder from which programs can be run, or remove "
            f"{path.parent} to have it built again"
        ) from error
