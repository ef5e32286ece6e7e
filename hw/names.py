"""Names of modules and C macros, so that several accelerators can be in one design and one program."""

from __future__ import annotations

import re

from .config import AcceleratorConfig

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def default_name(config: AcceleratorConfig) -> str:
    """``brownout_`` and the value of CONFIG_HASH: configurations with different RTL have different names."""
    return f"brownout_{config.hash_word:08x}"


def checked_name(name: str) -> str:
    """`name`, if it can begin the names of Verilog modules and C macros.

    Raises
    ------
    ValueError
        It is not a letter followed by letters, digits and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a name must be a letter followed by letters, digits and underscores, not {name!r}")
    return name
