import re
import shutil
import subprocess

import pytest

from brownout.hw.__main__ import main
from brownout.hw.commands import GEMM_FIELDS
from brownout.hw.config import AcceleratorConfig
from brownout.hw.emit import TOP_NAME, verilog_text
from brownout.hw.registers import REGISTERS


def test_the_command_line_writes_verilog_and_a_c_header_that_compiles(tmp_path):
    verilog, header = tmp_path / "accelerator.v", tmp_path / "accelerator.h"
    assert main(["--rows", "2", "--cols", "3", "-o", str(verilog), "--c-header", str(header)]) == 0
    text = verilog.read_text()
    assert re.search(rf"^module {TOP_NAME}\(", text, re.MULTILINE)
    assert len(re.findall(r"^  brownout_array_row \S+ \(", text, re.MULTILINE)) == 2
    for name in ("clk", "rst", "irq", "m_axi_araddr", "m_axi_wstrb", "s_axil_awaddr"):
        assert re.search(rf"^  (input|output) .*\b{name}\b;", text, re.MULTILINE), name
    source = tmp_path / "check.c"
    lines = [f'_Static_assert(BROWNOUT_REG_{r.name} == {r.offset}, "");' for r in REGISTERS]
    lines += [f'_Static_assert(BROWNOUT_GEMM_{f.name.upper()} == {f.offset}, "");' for f in GEMM_FIELDS]
    source.write_text('#include "accelerator.h"\n' + "\n".join(lines) + "\n")
    compiler = shutil.which("gcc") or shutil.which("cc")
    subprocess.run([compiler, "-fsyntax-only", "-Wall", "-Werror", str(source)], check=True)


def test_each_segment_has_a_locator_of_pairs_if_pairs_are_asked_for(tmp_path):
    verilog = tmp_path / "accelerator.v"
    size = ["--rows", "1", "--cols", "5", "--checksum", "residue", "--checksum-segment-cols", "4"]
    assert main([*size, "--no-checksum-column-checks", "--checksum-pairs", "-o", str(verilog)]) == 0
    assert re.findall(r"pairs_\d(?= \($)", verilog.read_text(), re.MULTILINE) == ["pairs_0", "pairs_1"]


def test_a_bad_option_is_an_error_with_its_value(capsys):
    assert main(["--rows", "0"]) == 2
    assert capsys.readouterr().err == "error: AcceleratorConfig.rows must be an integer in 1..128, not 0\n"


@pytest.mark.parametrize("bus_bytes", [4, 64])
def test_widths_follow_the_configuration(bus_bytes):
    text = verilog_text(AcceleratorConfig(rows=1, cols=2, bus_bytes=bus_bytes, address_bits=44))
    assert f"output [{8 * bus_bytes - 1}:0] m_axi_wdata;" in text
    assert "output [43:0] m_axi_araddr;" in text


def test_the_same_configuration_gives_the_same_verilog():
    config = AcceleratorConfig(rows=2, cols=2)
    assert verilog_text(config) == verilog_text(config)
