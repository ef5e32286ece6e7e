"""What memory on the chip takes: energy per byte by size and width of the port, and leakage."""

from __future__ import annotations

import csv
import importlib.resources
import math
from bisect import bisect_right
from dataclasses import dataclass, fields
from functools import cache

CELLS = ("hp", "lop", "lstp")
PORTS = ("1rw", "1r1w")


@dataclass(frozen=True, kw_only=True)
class Sram:
    """Energy constants of SRAM at its nominal voltage: a given one, `REFERENCE_SRAM`, or one of `cacti`.

    Attributes
    ----------
    name : str
    read_byte_j, write_byte_j : float
        A byte read and a byte written, by accesses of the whole port, in joules.
    leakage_w_per_byte : float
        Per byte of capacity, in watts.
    """

    name: str
    read_byte_j: float
    write_byte_j: float
    leakage_w_per_byte: float

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not isinstance(value, str) and not 0 <= value < math.inf:
                raise ValueError(f"Sram.{each.name} must be finite and not negative, but is {value!r}")


REFERENCE_SRAM = Sram(name="reference", read_byte_j=1e-12, write_byte_j=1e-12, leakage_w_per_byte=0.03 / (1 << 20))
"""1 pJ a byte and 0.03 W a MiB, whatever the size: a tenth of the leakage of CACTI's high-performance cells."""

_Point = tuple[float, float, float]


@cache
def _table(cells: str, ports: str) -> dict[tuple[int, int], _Point]:
    """Logarithms of the joules of a read and of a write and of the watts of leakage, by bytes of memory and port."""
    text = (importlib.resources.files(__package__) / "data" / "sram.csv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {
        (int(row["size_bytes"]), int(row["port_bits"]) // 8): (
            math.log(float(row["read_j"])),
            math.log(float(row["write_j"])),
            math.log(float(row["leakage_w"])),
        )
        for row in csv.DictReader(lines)
        if (row["cells"], row["ports"]) == (cells, ports)
    }


def _place(name: str, value: float, known: list[int]) -> tuple[int, int, float]:
    """Neighbours of a value in a list, and how far it is from the first to the second in the logarithm."""
    if not known[0] <= value <= known[-1]:
        raise ValueError(f"{name} must be in {known[0]}..{known[-1]}, where the table is, not {value!r}")
    upper = min(bisect_right(known, value), len(known) - 1)
    low, high = known[upper - 1], known[upper]
    return low, high, math.log(value / low) / math.log(high / low)


def cacti(size_bytes: float, port_bytes: float, cells: str = "hp", ports: str = "1rw") -> Sram:
    """SRAM of a size and a width of port by CACTI 7, 22 nm, 360 K.

    Between the memories of ``data/sram.csv``, which ``benchmarks/sram_energy.py`` makes, energies and leakage are
    interpolated in the logarithms of everything.

    Parameters
    ----------
    size_bytes : float
        Capacity of the memory, which is one bank: 8 KiB to 4 MiB.
    port_bytes : float
        Bytes of an access: 8 to 128.
    cells : {"hp", "lop", "lstp"}
        Transistors of cells and periphery: high performance, low operating power, low standby power.
    ports : {"1rw", "1r1w"}
        One port that reads and writes, or one that reads and one that writes.

    Raises
    ------
    ValueError
        Something is not in the table.
    """
    for name, value, choices in (("cells", cells, CELLS), ("ports", ports, PORTS)):
        if value not in choices:
            raise ValueError(f"{name} must be {', '.join(map(repr, choices))}, not {value!r}")
    table = _table(cells, ports)
    smaller, larger, up = _place("size_bytes", size_bytes, sorted({size for size, _ in table}))
    narrower, wider, across = _place("port_bytes", port_bytes, sorted({port for _, port in table}))
    corners = (
        (table[smaller, narrower], (1 - up) * (1 - across)),
        (table[smaller, wider], (1 - up) * across),
        (table[larger, narrower], up * (1 - across)),
        (table[larger, wider], up * across),
    )
    read_j, write_j, leakage_w = (math.exp(sum(point[i] * share for point, share in corners)) for i in range(3))
    return Sram(
        name=f"cacti-{cells}-{ports}-{size_bytes:g}x{port_bytes:g}",
        read_byte_j=read_j / port_bytes,
        write_byte_j=write_j / port_bytes,
        leakage_w_per_byte=leakage_w / size_bytes,
    )
