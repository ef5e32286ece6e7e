"""A design of plain Verilog around accelerators: memories, register accesses and checks, for any simulator."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.scoreboard import GemmCase
from brownout.hw.bus.axi import Axi4LiteSignature, Axi4Signature
from brownout.hw.commands import COMMAND_BYTES, GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.emit import verilog_text
from brownout.hw.names import default_name
from brownout.hw.registers import ADDRESS_BITS, IRQ_DONE, OFFSETS, REGISTERS, counter_offset, counters

FOLDER = Path(__file__).parent / "verilog"
MEMORY_BYTES = 1 << 14
RING_BASE = MEMORY_BYTES - 4 * COMMAND_BYTES
READ, WRITE, WAIT, END = range(4)


@dataclass(frozen=True)
class Part:
    """One accelerator of a system and the product that it computes; instance ``NAME`` of module `module`."""

    name: str
    config: AcceleratorConfig
    shape: tuple[int, int, int] = (5, 7, 9)
    aresetn: bool = False

    @property
    def module(self) -> str:
        return default_name(self.config)

    def case(self) -> GemmCase:
        m, n, k = self.shape
        rng = np.random.default_rng(len(self.name))
        return GemmCase(self.config, rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8))

    def status_offsets(self) -> list[int]:
        """Of all that can be read."""
        count = len(counters(self.config))
        halves = [counter_offset(index) + 4 * half for index in range(count) for half in range(2)]
        return [register.offset for register in REGISTERS if register.access != "wo"] + halves

    def script(self) -> list[tuple[int, int, int]]:
        reads = [(READ, offset, 0) for offset in self.status_offsets()]
        ring = {"RING_BASE_LO": RING_BASE, "RING_BASE_HI": 0, "RING_ENTRIES": 4, "RING_TAIL": 1}
        writes = [(WRITE, OFFSETS[name], value) for name, value in ring.items()]
        snapshot = (WRITE, OFFSETS["SNAPSHOT"], 0)
        return [*reads, *writes, (WAIT, 0, 0), snapshot, *reads, (END, 0, 0)]

    def memory(self) -> NDArray[np.uint8]:
        memory = np.zeros(MEMORY_BYTES, np.uint8)
        case = self.case()
        case.write(memory)
        flags = GemmFlag.CHECK | GemmFlag.CORRECT if self.config.checksum is not None else GemmFlag(0)
        command = case.command(flags=int(flags)).encode()
        memory[RING_BASE : RING_BASE + COMMAND_BYTES] = np.frombuffer(command, np.uint8)
        return memory

    def verilog(self) -> str:
        """Instance, its memory, what accesses its registers, and a check of all outputs."""
        bits = dict(self._members())
        outputs = [name for name, direction in self._directions().items() if direction == "out"]
        wires = "\n".join(f"    wire [{width - 1}:0] {self.name}_{name};" for name, width in bits.items())
        clock = ".aclk(clk), .aresetn(!rst)" if self.aresetn else ".clk(clk), .rst(rst)"

        def connect(names: list[str], prefix: str = "") -> str:
            return ", ".join(f".{name.removeprefix(prefix)}({self.name}_{name})" for name in names)

        unused = ("size", "burst", "lock", "cache", "prot", "qos")
        memory = [name for name in bits if name.startswith("m_axi_") and not name.endswith(unused)]
        registers = [name for name in bits if name.startswith("s_axil_")]
        unknown = "\n".join(
            f"        if (rst === 1'b0 && ^{wire} === 1'bx) $display(\"{wire} is %b\", {wire});"
            for wire in (f"{self.name}_{name}" for name in outputs)
        )
        return f"""\
{wires}
    wire {self.name}_done;
    {self.module} {self.name} ({clock}, {connect(list(bits))});
    axi_memory #(
        .BUS_BYTES({self.config.bus_bytes}), .ADDRESS_BITS({self.config.address_bits}), .SIZE({MEMORY_BYTES}),
        .IMAGE("{self.name}_memory.hex")
    ) {self.name}_memory (.clk(clk), .rst(rst), {connect(memory, "m_axi_")});
    axi_lite_host #(.STEPS({len(self.script())}), .SCRIPT("{self.name}_script.hex")) {self.name}_host (
        .clk(clk), .rst(rst), .irq({self.name}_irq), .done({self.name}_done), {connect(registers, "s_axil_")}
    );
    always @(posedge clk) begin
{unknown}
        if (done === 1'b1) $writememh("{self.name}_result.hex", {self.name}_memory.bytes);
    end
"""

    def _members(self) -> list[tuple[str, int]]:
        from amaranth.hdl import Shape

        members = {f"m_axi_{name}": member for name, member in self._axi().members.items()}
        members |= {f"s_axil_{name}": member for name, member in self._axil().members.items()}
        return [*((name, Shape.cast(member.shape).width) for name, member in members.items()), ("irq", 1)]

    def _directions(self) -> dict[str, str]:
        from amaranth.lib.wiring import Out

        found = {f"m_axi_{n}": "out" if m.flow == Out else "in" for n, m in self._axi().members.items()}
        found |= {f"s_axil_{n}": "in" if m.flow == Out else "out" for n, m in self._axil().members.items()}
        return found | {"irq": "out"}

    def _axi(self) -> Axi4Signature:
        return Axi4Signature(address_bits=self.config.address_bits, data_bytes=self.config.bus_bytes)

    def _axil(self) -> Axi4LiteSignature:
        return Axi4LiteSignature(address_bits=ADDRESS_BITS)


def write_system(folder: Path, parts: list[Part]) -> list[Path]:
    """Write module ``system`` with all parts, and what it reads, into `folder`; returns its sources."""
    sources = [FOLDER / "axi_memory.v", FOLDER / "axi_lite_host.v"]
    for part in parts:
        source = folder / f"{part.module}.v"
        source.write_text(verilog_text(part.config, aresetn=part.aresetn))
        sources.append(source)
        (folder / f"{part.name}_memory.hex").write_text("\n".join(f"{byte:02x}" for byte in part.memory()))
        words = [f"{operation << 44 | offset << 32 | value:012x}" for operation, offset, value in part.script()]
        (folder / f"{part.name}_script.hex").write_text("\n".join(words))
    done = " && ".join(f"{part.name}_done" for part in parts)
    system = folder / "system.v"
    body = "".join(part.verilog() for part in parts)
    system.write_text(
        f"module system (input clk, input rst, output done);\n{body}    assign done = {done};\nendmodule\n"
    )
    return [*sources, system]


def check_system(folder: Path, parts: list[Part], output: str) -> None:
    """Check results, and that what was printed are the registers as they have to be, without any x."""
    for part in parts:
        printed = re.findall(rf"\.{part.name}_host read (\w+) (\w+) (\w+)", output)
        values = [(int(address, 16), response, value) for address, response, value in printed]
        assert [value[0] for value in values] == 2 * part.status_offsets()
        assert {response for _, response, _ in values} == {"00"}
        assert not [value for value in values if set(value[2]) & set("xz")]
        after = {address: int(value, 16) for address, _, value in values[len(part.status_offsets()) :]}
        assert after[OFFSETS["CONFIG_HASH"]] == part.config.hash_word
        assert after[OFFSETS["IRQ"]] == IRQ_DONE
        assert after[counter_offset([c.name for c in counters(part.config)].index("commands"))] == 1
        words = re.sub(r"//.*", "", (folder / f"{part.name}_result.hex").read_text()).split()
        part.case().check(np.array([int(word, 16) for word in words], np.uint8))
    other = [line for line in output.splitlines() if "_host read" not in line and "$finish" not in line]
    assert other == []
