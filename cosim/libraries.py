"""Loads shared libraries that were built."""

from __future__ import annotations

import ctypes
from pathlib import Path

from .errors import BuildFolderError


def load_library(path: Path, layout: str | None = None) -> ctypes.CDLL:
    """A shared library of a build folder.

    Parameters
    ----------
    path : Path
    layout : str, optional
        `brownout.hw.cpp_struct.layout_digest` of the structures that are shared with it, which its function
        ``brownout_layout`` must tell too.

    Raises
    ------
    BuildFolderError
        It cannot be loaded: nothing may be run from its folder, or it is damaged. Or it was built from other
        declarations of what is shared with it.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildFolderError(
            f"cannot load {path}: {error}; set BROWNOUT_BUILD to a folder from which programs can be run, or remove "
            f"{path.parent} to have it built again"
        ) from error
    if layout is not None and (found := _layout(library)) != layout:
        raise BuildFolderError(
            f"{path} was built from other structures and constants ({found}) than this Python has loaded ({layout}); "
            f"start Python again if its files have changed, or remove {path.parent} to have it built again"
        )
    return library


def _layout(library: ctypes.CDLL) -> str:
    try:
        tell = library.brownout_layout
    except AttributeError:
        return "none"
    tell.restype = ctypes.c_char_p
    told: bytes = tell()
    return told.decode()
