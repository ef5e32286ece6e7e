"""What main memory takes: energy per byte and per opened row, and power while it waits."""

from __future__ import annotations

import csv
import importlib.resources
import math
from dataclasses import dataclass, fields
from functools import cache


@dataclass(frozen=True, kw_only=True)
class Dram:
    """Energy constants of a kind of DRAM; those with a source are in ``data/dram.csv``, see `dram`.

    Attributes
    ----------
    name : str
    byte_j : float
        Reading or writing a byte of an open row, output drivers included, in joules.
    row_j_per_byte : float
        Opening a row and closing it again, in joules per byte of the row. It is not in `byte_j` too.
    background_w_per_gb_s : float
        Standby with rows open, and refresh, of as many devices as have a peak bandwidth of 1 GB/s (1e9 bytes per
        second), in watts.
    source : str
        Where the figures come from.
    """

    name: str
    byte_j: float
    row_j_per_byte: float
    background_w_per_gb_s: float
    source: str = ""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise ValueError(f"Dram.{each.name} must be finite and not negative, but is {value!r}")


@cache
def _table() -> dict[str, Dram]:
    text = (importlib.resources.files(__package__) / "data" / "dram.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        row["name"]: Dram(
            name=row["name"],
            byte_j=float(row["byte_j"]),
            row_j_per_byte=float(row["row_j_per_byte"]),
            background_w_per_gb_s=float(row["background_w_per_gb_s"]),
            source=row["source"],
        )
        for row in csv.DictReader(lines)
    }


def dram(name: str) -> Dram:
    """A named memory of ``data/dram.csv``, which ``benchmarks/dram_energy.py`` makes from published figures.

    Parameters
    ----------
    name : {"hbm2", "hbm3", "lpddr4x", "lpddr5"}
        HBM2 as O'Connor et al. have it ("Fine-Grained DRAM", MICRO 2017); HBM3 at 6.4 Gb/s, extrapolated from measured
        HBM2 (Olgun et al., MICRO 2026); LPDDR4X and LPDDR5 from currents of data sheets, which are maxima.

    Raises
    ------
    ValueError
        There is no such memory.
    """
    known = _table()
    if name not in known:
        raise ValueError(f"name must be {', '.join(map(repr, known))}, not {name!r}; or make a Dram(...)")
    return known[name]
