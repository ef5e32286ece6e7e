"""The emitted Verilog under a top of one's own in Verilator: two configurations in one, and coverage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from brownout.cosim.toolchain import find_compiler, find_verilator
from brownout.hw.config import AcceleratorConfig

from .verilog_system import FOLDER, Part, check_system, write_system

SMALL = {"bus_bytes": 4, "address_bits": 32, "block_rows": 4, "block_col_tiles": 1}
LEFT = AcceleratorConfig(rows=1, cols=2, **SMALL)
RIGHT = AcceleratorConfig(rows=2, cols=1, **SMALL)


def run(folder: Path, sources: list[Path], *coverage: str) -> str:
    """Build `system` with Verilator and run it; returns what it prints. Coverage goes to ``coverage.dat``."""
    verilator = find_verilator()
    include = verilator.root / "include"
    quiet = ["-Wno-fatal", "-Wno-lint", "-Wno-style", "--no-timing"]
    subprocess.run(
        [
            *(str(verilator.executable), "--cc", "--prefix", "Vsystem", "--top-module", "system", *quiet, *coverage),
            *("--Mdir", str(folder / "model"), *map(str, sources)),
        ],
        env={**os.environ, **verilator.variables},
        check=True,
        capture_output=True,
    )
    model = sorted((folder / "model").glob("*.cpp"))
    (folder / "model" / "all.cc").write_text("".join(f'#include "{path.name}"\n' for path in model))
    library = ["verilated.cpp", "verilated_threads.cpp", *(["verilated_cov.cpp"] if coverage else [])]
    subprocess.run(
        [
            *(*find_compiler().command, "-std=c++17", "-O0", "-w", "-pthread", "-DVM_TRACE=0", "-DVM_SC=0"),
            *(
                f"-DVM_COVERAGE={int(bool(coverage))}",
                f"-I{folder / 'model'}",
                f"-I{include}",
                f"-I{include / 'vltstd'}",
            ),
            *(str(folder / "model" / "all.cc"), str(FOLDER / "main.cpp"), *(str(include / name) for name in library)),
            *("-o", str(folder / "program")),
        ],
        check=True,
    )
    command = [str(folder / "program"), "coverage.dat"]
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def points(folder: Path) -> dict[str, list[tuple[str, int]]]:
    """Points of ``coverage.dat`` and their counts by kind."""
    found: dict[str, list[tuple[str, int]]] = {}
    for line in (folder / "coverage.dat").read_text().splitlines()[1:]:
        text, count = line.rsplit("' ", 1)
        fields = dict(field.split("\x02", 1) for field in text.split("\x01")[1:])
        found.setdefault(fields["t"], []).append((fields["o"], int(count)))
    return found


def test_two_configurations_under_one_top(tmp_path: Path) -> None:
    parts = [Part("left", LEFT), Part("right", RIGHT, aresetn=True)]
    check_system(tmp_path, parts, run(tmp_path, write_system(tmp_path, parts)))


@pytest.mark.soak
def test_line_toggle_and_expression_coverage_are_written(tmp_path: Path) -> None:
    parts = [Part("left", LEFT)]
    sources = write_system(tmp_path, parts)
    check_system(tmp_path, parts, run(tmp_path, sources, "--coverage-line", "--coverage-toggle", "--coverage-expr"))
    found = points(tmp_path)
    assert {"line", "branch", "toggle", "expr"} <= set(found)
    for kind in ("line", "branch", "toggle"):
        assert sum(count > 0 for _, count in found[kind]) > 100
    # What starts the processes at time 0 is no logic, and never counts as not covered.
    assert not [name for name, _ in found["toggle"] if "time_zero" in name]
    assert all(count > 0 for name, count in found["line"] if name == "block")
