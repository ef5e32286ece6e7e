"""Which blocks can follow when the array is overclocked?

Run ``python benchmarks/static_timing.py`` (a quarter of an hour on one core; Debian's ``yosys``, ``opensta`` and
``qflow-tech-osu018``); writes ``build/results/static_timing.json``.

An 8 x 8 accelerator with the checks of `Rollback` against double errors (residues, segments of 8 columns, no column
checks) and without a model of errors is mapped, block by block, to the OSU standard cells for TSMC 0.18 um (typical,
1.8 V, 25 C) by Yosys and ABC, each block as fast as ABC makes it. OpenSTA then gives the least period of each
register: the delay of the longest path that ends there, from clock to clock with setup, through all modules on the way.
A block has the paths that end in it. What matters is ratios: to the array's longest path, that of an element's product
and sum.

- Memories of more than `REGISTER_BITS` with clocked reads are macros whose pins are as fast as those of a flip-flop;
  smaller ones, and those that are read in the cycle of their address, are registers and multiplexers.
- There are no wires, so nothing is placed; clocks have no skew; inputs come, and outputs are taken, with the edge.
- Blocks are optimised one by one (`KEPT`), for the longest path inside: nothing is moved or folded across their
  boundaries, and a path through many of them could be somewhat shorter.

Metrics: ``array_path_ns``; ``slack_ratio_BLOCK``, the longest path of a block over the array's;
``blocks_slower_than_array``; ``follow_speedup``, the array's path over the longest of the blocks that must not err,
that is, all but `GUARDED` ones: the fastest clock that all of these meet, over the fastest that the array meets, so
below 1 where another block sets the clock; ``follow_speedup_guarded``, the same over a nominal clock that leaves the
array the guard band of `SAFE_DELAY`; ``stage_ratio_STAGE``, stages into which the requantiser could be cut, over the
array's path.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from amaranth.back import rtlil
from amaranth.hdl import Cat, Elaboratable, Module, Mux, Signal, Value

from brownout.cosim.errors import BuildError, MissingToolError
from brownout.host import write_results
from brownout.host.device.power.timing import SAFE_DELAY
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.emit import rtlil_texts

LIBRARY = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")

TOOLS = {"yosys": "yosys", "sta": "opensta"}
"""Programs and Debian's packages with them."""

REGISTER_BITS = 1024

TOP = "chip"

PERIOD_NS = 10.0
"""Of the clock that paths are reported for; what they need does not depend on it."""

ARRAY = "array"

GUARDED = (ARRAY, "check_row")
"""Blocks in which nothing but sums can be late, which the row checks find. They also find wrong sums of accumulators,
but not wrong addresses, which are in the same block."""

BLOCKS = (
    ("array/row_", ARRAY),
    ("array/check_row_", "check_row"),
    ("array/check_weights", "check_weights"),
    ("array", "array_skew"),
    ("accumulator", "accumulator"),
    ("row_checker", "row_checker"),
    ("drain/corrector/pairs_", "double_error_locator"),
    ("drain/corrector", "corrector"),
    ("drain/requantiser", "requantiser"),
    ("drain/packer", "packer"),
    ("drain/log", "log"),
    ("drain/reader", "vector_reader"),
    ("drain", "drain"),
    ("fetcher", "fetcher"),
    ("receiver/a_unpacker", "unpacker"),
    ("receiver/w_unpacker", "unpacker"),
    ("receiver/c_unpacker", "unpacker"),
    ("receiver", "receiver"),
    ("sequencer", "sequencer"),
    ("processor", "command_processor"),
    ("registers", "registers"),
    ("counters", "counters"),
    ("copier", "copier"),
    ("read_port", "bus_ports"),
    ("write_port", "bus_ports"),
)
"""Beginnings of the names of instances, and their block; the first that fits counts. The rest are the top's outputs."""

KEPT = (
    f"{TOP}_*",
    *(f"{TOP}.{name}" for name in ("accumulator", "array", "array.check_weights", "copier", "counters", "fetcher")),
    *(f"{TOP}.{name}" for name in ("processor", "receiver", "receiver.*_unpacker", "registers", "row_checker")),
    *(f"{TOP}.{name}" for name in ("sequencer", "read_port", "write_port", "drain", "drain.corrector")),
    *(f"{TOP}.{name}" for name in ("drain.corrector.pairs_*", "drain.log", "drain.packer", "drain.reader")),
    f"{TOP}.drain.requantiser",
)
"""Modules that are optimised by themselves, as patterns of Yosys; what is in them is part of them."""

# A macro's inputs and outputs are registers. What is between them only has to make each output depend on inputs and
# each input be needed, so that nothing is folded or removed, and to be short.
_MACRO = """
(* techmap_celltype = "$mem_v2" *)
module macro (RD_CLK, RD_EN, RD_ARST, RD_SRST, RD_ADDR, RD_DATA, WR_CLK, WR_EN, WR_ADDR, WR_DATA);
  parameter MEMID = "";
  parameter SIZE = 4;
  parameter OFFSET = 0;
  parameter ABITS = 2;
  parameter WIDTH = 8;
  parameter INIT = 1'bx;
  parameter RD_PORTS = 1;
  parameter RD_CLK_ENABLE = 1'b1;
  parameter RD_CLK_POLARITY = 1'b1;
  parameter RD_TRANSPARENCY_MASK = 1'b0;
  parameter RD_COLLISION_X_MASK = 1'b0;
  parameter RD_WIDE_CONTINUATION = 1'b0;
  parameter RD_CE_OVER_SRST = 1'b0;
  parameter RD_ARST_VALUE = 1'b0;
  parameter RD_SRST_VALUE = 1'b0;
  parameter RD_INIT_VALUE = 1'b0;
  parameter WR_PORTS = 1;
  parameter WR_CLK_ENABLE = 1'b1;
  parameter WR_CLK_POLARITY = 1'b1;
  parameter WR_PRIORITY_MASK = 1'b0;
  parameter WR_WIDE_CONTINUATION = 1'b0;
  input [RD_PORTS-1:0] RD_CLK, RD_EN, RD_ARST, RD_SRST;
  input [RD_PORTS*ABITS-1:0] RD_ADDR;
  output [RD_PORTS*WIDTH-1:0] RD_DATA;
  input [WR_PORTS-1:0] WR_CLK;
  input [WR_PORTS*WIDTH-1:0] WR_EN, WR_DATA;
  input [WR_PORTS*ABITS-1:0] WR_ADDR;
  wire _TECHMAP_FAIL_ = SIZE * WIDTH <= %d || RD_CLK_ENABLE != {RD_PORTS{1'b1}};
  localparam PINS = RD_PORTS * (ABITS + 1) + WR_PORTS * (ABITS + 2 * WIDTH);
  wire [PINS-1:0] taken;
  \\$dff #(.WIDTH(PINS), .CLK_POLARITY(1'b1)) macro_in (
    .CLK(WR_CLK[0]), .D({RD_EN, RD_ADDR, WR_EN, WR_DATA, WR_ADDR}), .Q(taken));
  localparam OUT = RD_PORTS * WIDTH;
  localparam PARTS = (PINS + OUT - 1) / OUT;
  wire [PARTS*OUT-1:0] parts = taken;
  wire [(PARTS+1)*OUT-1:0] change;
  assign change[OUT-1:0] = RD_DATA;
  genvar i;
  for (i = 0; i < PARTS; i = i + 1)
    assign change[(i+1)*OUT +: OUT] = change[i*OUT +: OUT] ^ parts[i*OUT +: OUT];
  \\$dff #(.WIDTH(OUT), .CLK_POLARITY(1'b1)) macro_out (
    .CLK(WR_CLK[0]), .D(change[PARTS*OUT +: OUT]), .Q(RD_DATA));
endmodule
""".replace("%d", str(REGISTER_BITS))

_CONSTRAINTS = """
set_driving_cell BUFX2
set_load 0.02 [all_outputs]
"""

# Registers keep the names of what they hold, by which paths are told apart. Buffers and sizes of gates follow fan-out.
# OpenSTA reads no concatenations on the left.
_SYNTHESIS = """
{reads}
hierarchy -check -top {top}
setattr -mod -set keep_hierarchy 1 {kept}
proc -norom
flatten
attrmap -remove init
opt_expr
opt_clean
memory_collect
techmap -map macro.v t:$mem_v2
opt_clean
memory_map
attrmap -remove init
opt -fast
wreduce
alumacc
opt_clean
techmap
opt_clean
dfflegalize -cell $_DFF_P_ x
opt_merge t:$_DFF_P_
opt_clean
rename -wire t:$_DFF_P_
dfflibmap -liberty cells.lib
abc -liberty cells.lib -constr constraints -script +strash;ifraig;dch,-f;map,-B,0.9;topo;buffer,-c,-p;upsize;dnsize
opt_clean
write_verilog -noattr -noexpr -simple-lhs netlist.v
"""

_ANALYSIS = """
read_liberty cells.lib
read_verilog netlist.v
link_design {top}
create_clock -name clock -period {period} [get_ports clk]
set_input_delay 0 -clock clock [all_inputs]
set_output_delay 0 -clock clock [all_outputs]
report_checks -path_delay max -format summary -group_count 1000000 -endpoint_count 1 -digits 4
exit
"""

_PATH = re.compile(r"^(\S+) \(\S+\)\s+(\S+) \(\S+\)\s+(-?\d+\.\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class TimedPath:
    """The longest path to an endpoint.

    Attributes
    ----------
    startpoint, endpoint : str
        Pins or ports, by the names of instances from the top on.
    period_ns : float
        Least period of the clock that the path allows.
    """

    startpoint: str
    endpoint: str
    period_ns: float


def parse_paths(report: str, period_ns: float) -> list[TimedPath]:
    """Paths in a summary report of OpenSTA.

    Parameters
    ----------
    report : str
        What ``report_checks -format summary`` prints.
    period_ns : float
        Period of the clock that slacks are of.

    Raises
    ------
    ValueError
        There is no path in it.
    """
    paths = [TimedPath(start, end, round(period_ns - float(slack), 6)) for start, end, slack in _PATH.findall(report)]
    if not paths:
        raise ValueError("OpenSTA reported no path")
    return paths


def block_of(point: str) -> str:
    """Block that a pin belongs to; ``"outputs"`` for those of the top."""
    return next((block for start, block in BLOCKS if point.startswith(start)), "outputs")


def worst_paths(paths: Iterable[TimedPath]) -> dict[str, TimedPath]:
    """The longest path that ends in each block, the slowest block first."""
    worst: dict[str, TimedPath] = {}
    for path in sorted(paths, key=lambda path: -path.period_ns):
        worst.setdefault(block_of(path.endpoint), path)
    return worst


def _product(held: Value) -> Value:
    return (held[:32].as_signed() * held[32:63])[:64]


def _product_of_halves(held: Value) -> Value:
    return held[:16].as_signed() * held[16:32]


def _sum_of_products(held: Value) -> Value:
    high, low = held[:32].as_signed(), held[32:64]
    left, right = held[64:97].as_signed(), held[97:130].as_signed()
    return ((high << 32) + (left << 16) + (right << 16) + low)[:64]


def _rounded(held: Value) -> Value:
    return (held[:64] + held[64:128])[:64]


def _shifted(held: Value) -> Value:
    return (held[:64].as_signed() >> held[64:70])[:64]


def _clamped(held: Value) -> Value:
    value = held[:64].as_signed()
    quantised = Mux(value > 127, 127, Mux(value < -128, -128, value))[:8]
    return Mux(held[255], 0, Mux(held[254], quantised, held[128:160]))[:32]


def _rounded_shifted_clamped(held: Value) -> Value:
    half = ((1 << held[64:70]) >> 1)[:64]
    return _clamped(Cat(_shifted(Cat(_rounded(Cat(held[:64], half)), held[64:70])), held[64:]))


STAGES: dict[str, Callable[[Value], Value]] = {
    "product": _product,
    "product_of_halves": _product_of_halves,
    "sum_of_products": _sum_of_products,
    "rounded_shifted_clamped": _rounded_shifted_clamped,
    "rounded": _rounded,
    "shifted": _shifted,
    "clamped": _clamped,
}
"""A lane's work in the requantiser's second and third stage, each followed by what it could be cut into: four products
of 16 x 16 bits and their sum; half of the last place added (a register has it ready), the shift, saturation."""


class Stage(Elaboratable):
    """Logic between registers of its own.

    Parameters
    ----------
    logic : callable
        From the 256 bits of the registers before it to the bits of those after it.
    """

    def __init__(self, logic: Callable[[Value], Value]) -> None:
        self.logic = logic
        self.given = Signal(256)
        self.found = Signal(64)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal.like(self.given)
        result = self.logic(held)
        kept = Signal(len(result))
        m.d.sync += [held.eq(self.given), kept.eq(result)]
        m.d.comb += self.found.eq(kept)
        return m


def accelerator_config() -> AcceleratorConfig:
    """The accelerator that is timed."""
    checksum = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=8, pairs=True)
    return AcceleratorConfig(rows=8, cols=8, checksum=checksum)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"{command[0]} failed: {lines[-1]}", None)
    return done.stdout


def require_tools(library: Path) -> None:
    """Ask for what is missing before anything is made.

    Raises
    ------
    MissingToolError
        There is no Yosys, no OpenSTA or no library of cells.
    """
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if not library.is_file():
        missing.append("qflow-tech-osu018")
    if missing:
        raise MissingToolError(f"static timing needs {', '.join(missing)}: apt-get install {' '.join(missing)}", None)


def timed_paths(texts: list[str], library: Path) -> list[TimedPath]:
    """The longest path to every endpoint of a design.

    Parameters
    ----------
    texts : list of str
        RTLIL; the top module is `TOP`.
    library : Path
        Liberty file of the standard cells.

    Raises
    ------
    BuildError
        Yosys or OpenSTA failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, text in enumerate(texts):
            (folder / f"part_{index}.il").write_text(text)
        reads = "\n".join(f"read_rtlil part_{index}.il" for index in range(len(texts)))
        shutil.copyfile(library, folder / "cells.lib")
        (folder / "macro.v").write_text(_MACRO)
        (folder / "constraints").write_text(_CONSTRAINTS)
        (folder / "synthesis.ys").write_text(_SYNTHESIS.format(reads=reads, top=TOP, kept=" ".join(KEPT)))
        (folder / "analysis.tcl").write_text(_ANALYSIS.format(top=TOP, period=PERIOD_NS))
        _run(["yosys", "-q", "-s", "synthesis.ys"], folder)
        return parse_paths(_run(["sta", "-exit", "analysis.tcl"], folder), PERIOD_NS)


def stage_paths(library: Path) -> dict[str, TimedPath]:
    """The longest path of each stage into which the requantiser could be cut."""
    found = {}
    for name, logic in STAGES.items():
        stage = Stage(logic)
        paths = timed_paths([rtlil.convert(stage, name=TOP, ports=[stage.given, stage.found])], library)
        inside = (path for path in paths if path.startpoint.endswith("/Q") and path.endpoint.endswith("/D"))
        found[name] = max(inside, key=lambda path: path.period_ns)
    return found


def metrics_of(worst: dict[str, TimedPath], stages: dict[str, TimedPath]) -> dict[str, float]:
    """Ratios to the array's path, and what follows from them."""
    array = worst[ARRAY].period_ns
    slowest = max(path.period_ns for block, path in worst.items() if block not in GUARDED)
    metrics = {"array_path_ns": array}
    metrics |= {f"slack_ratio_{block}": path.period_ns / array for block, path in worst.items()}
    metrics["blocks_slower_than_array"] = sum(path.period_ns > array for path in worst.values())
    metrics["follow_speedup"] = array / slowest
    metrics["follow_speedup_guarded"] = SAFE_DELAY * array / slowest
    metrics |= {f"stage_ratio_{name}": path.period_ns / array for name, path in stages.items()}
    return metrics


def main(
    library: Annotated[Path, typer.Option(help="Liberty file of the standard cells")] = LIBRARY,
) -> None:
    """Synthesise, time and write."""
    require_tools(library)
    config = accelerator_config()
    worst = worst_paths(timed_paths(rtlil_texts(config, TOP), library))
    stages = stage_paths(library)
    metrics = metrics_of(worst, stages)
    binding = next(block for block in worst if block not in GUARDED)
    for block, path in worst.items():
        print(
            f"{block:22} {path.period_ns:6.2f} ns {metrics[f'slack_ratio_{block}']:5.2f}  "
            f"{path.startpoint} -> {path.endpoint}"
        )
    for name, path in stages.items():
        print(f"{name:22} {path.period_ns:6.2f} ns {metrics[f'stage_ratio_{name}']:5.2f}")
    print(f"follow_speedup {metrics['follow_speedup']:.3f}, bound by {binding}")
    described = {
        **config.to_dict(),
        "library": library.stem,
        "worst_block": binding,
        "paths": {block: asdict(path) for block, path in worst.items()},
        "stages": {name: asdict(path) for name, path in stages.items()},
    }
    print(write_results("static_timing", metrics, config=described))


if __name__ == "__main__":
    typer.run(main)
