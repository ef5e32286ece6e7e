"""Whole products in a 4-state simulator, two configurations in one design: nothing is x after reset."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cocotb_tools.runner import get_runner

from brownout.cosim.testbench import CONFIG_VARIABLE
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.emit import verilog_text

from .verilog_system import FOLDER, Part, check_system, write_system

pytestmark = [
    pytest.mark.xdist_group("icarus"),
    pytest.mark.skipif(shutil.which("iverilog") is None, reason="Debian's iverilog is not installed"),
]

LANGUAGES = ["2005", "2012"]

PLAIN = AcceleratorConfig(rows=2, cols=3, bus_bytes=4, address_bits=32)
CHECKED = AcceleratorConfig(rows=3, cols=2, bus_bytes=8, checksum=ChecksumConfig(segment_cols=2, column_checks=False))

ODD = {
    "smallest": AcceleratorConfig(
        **{"rows": 1, "cols": 1, "bus_bytes": 128, "address_bits": 56, "block_rows": 1, "block_col_tiles": 1},
        **{"slab_bytes": 1, "drain_lanes": 1, "read_outstanding": 1, "write_outstanding": 1},
    ),
    "carry": AcceleratorConfig(
        **{"rows": 3, "cols": 2, "bus_bytes": 8, "timing_model": "carry", "razor": True, "voltage_domains": 2},
        checksum=ChecksumConfig(segment_cols=2),
    ),
    "classic": AcceleratorConfig(
        **{"rows": 5, "cols": 3, "block_rows": 3, "timing_model": "flip", "operating_points": 1},
        checksum=ChecksumConfig(scheme="classic", group_rows=1, segment_cols=3),
    ),
    "weighted": AcceleratorConfig(
        **{"rows": 2, "cols": 5, "bus_bytes": 32, "block_rows": 6, "timing_model": "flip", "razor": True},
        **{"voltage_domains": 3, "operating_points": 8},
        checksum=ChecksumConfig(scheme="weighted", locators=2, column_checks=False, segment_cols=4),
    ),
    "pairs": AcceleratorConfig(
        **{"rows": 3, "cols": 4, "bus_bytes": 4, "block_rows": 7, "block_col_tiles": 3},
        **{"read_outstanding": 255, "write_outstanding": 7},
        checksum=ChecksumConfig(pairs=True, column_checks=False, segment_cols=4),
    ),
    "matched": AcceleratorConfig(
        **{"rows": 1, "cols": 2, "bus_bytes": 64, "block_rows": 514, "timing_model": "carry", "slab_bytes": 4096},
        drain_lanes=2,
        checksum=ChecksumConfig(scheme="matched", group_rows=257, segment_cols=8),
    ),
}


def run(folder: Path, sources: list[Path], language: str) -> str:
    """What the design prints under one version of the language."""
    program = folder / "program"
    options = [f"-g{language}", "-s", "clocked", "-o", str(program)]
    subprocess.run(["iverilog", *options, str(FOLDER / "clocked.v"), *map(str, sources)], check=True)
    done = subprocess.run(
        ["vvp", "-n", str(program)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Part], list[Path]]:
    """Two configurations in one design, one with the clock and the reset of AXI."""
    folder = tmp_path_factory.mktemp("two")
    parts = [Part("plain", PLAIN), Part("checked", CHECKED, aresetn=True)]
    return folder, parts, write_system(folder, parts)


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_configurations_in_one_design(two: tuple[Path, list[Part], list[Path]], language: str) -> None:
    folder, parts, sources = two
    check_system(folder, parts, run(folder, sources, language))


@pytest.mark.soak
@pytest.mark.parametrize("name", ODD)
def test_odd_configurations(tmp_path: Path, name: str) -> None:
    parts = [Part(name, ODD[name])]
    sources = write_system(tmp_path, parts)
    for language in LANGUAGES:
        check_system(tmp_path, parts, run(tmp_path, sources, language))


@pytest.mark.soak
@pytest.mark.parametrize("language", LANGUAGES)
def test_cocotb_with_its_axi_library_runs_a_product(
    tmp_path: Path, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's testbench, which is what a bench of someone else looks like."""
    config = replace(PLAIN, memory=MemoryConfig(size_bytes=1 << 16))
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "stock_cocotb")
    verilog = tmp_path / "accelerator.v"
    verilog.write_text(verilog_text(config, "accelerator"))
    runner = get_runner("icarus")
    design: dict[str, Any] = {"hdl_toplevel": "accelerator", "build_dir": tmp_path / "build"}
    runner.build(sources=[verilog], build_args=[f"-g{language}"], timescale=("1ps", "1ps"), **design)
    result = tmp_path / "result.json"
    variables = {
        CONFIG_VARIABLE: json.dumps(config.to_dict()),
        "BROWNOUT_STOCK_SHAPE": "[5, 7, 9]",
        "BROWNOUT_STOCK_RESULT": str(result),
    }
    runner.test(test_module="bench_axiram", test_dir=tmp_path, extra_env=variables, **design)
    assert json.loads(result.read_text())["cycles"] > 0
