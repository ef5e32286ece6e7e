"""Formats of wave files, and what a simulator needs to write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

WaveName = Literal["vcd", "fst"]


@dataclass(frozen=True)
class Library:
    """A C library that Verilator's writer of a format uses.

    Attributes
    ----------
    name : str
        Name by which the linker knows it.
    header : str
        What is included of it.
    package : str
        Debian's package with the header.
    """

    name: str
    header: str
    package: str


@dataclass(frozen=True)
class WaveFormat:
    """A format of wave files.

    Attributes
    ----------
    option : str
        Option of Verilator that asks for it.
    source : str
        Writer, a file of Verilator's ``include``.
    libraries : tuple of Library
        What the writer needs.
    """

    option: str
    source: str
    libraries: tuple[Library, ...]


WAVE_FORMATS: dict[WaveName, WaveFormat] = {
    "vcd": WaveFormat("--trace-vcd", "verilated_vcd_c.cpp", ()),
    "fst": WaveFormat(
        *("--trace-fst", "verilated_fst_c.cpp"),
        (Library("lz4", "lz4.h", "liblz4-dev"), Library("z", "zlib.h", "zlib1g-dev")),
    ),
}


def wave_name(path: Path) -> WaveName:
    """Format of a wave file by the end of its name.

    Raises
    ------
    ValueError
        It ends neither in ``.vcd`` nor in ``.fst``.
    """
    for name in WAVE_FORMATS:
        if path.suffix == f".{name}":
            return name
    raise ValueError(f"a wave file must end in .vcd or .fst, not {path.name!r}")
