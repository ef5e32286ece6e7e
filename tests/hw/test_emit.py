import os
import re
import shutil
import subprocess

import pytest
from amaranth.hdl import Module

from brownout.cosim.build import build_verilog
from brownout.hw.__main__ import main
from brownout.hw.accelerator import AcceleratorTop
from brownout.hw.c_header import c_header_text
from brownout.hw.commands import GEMM_FIELDS
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.emit import rtlil_texts, verilog_text
from brownout.hw.names import default_name
from brownout.hw.registers import REGISTERS

from ..configurations import PAIRS


def modules(text):
    """Names of modules, without the mark of those that Verilog has to escape."""
    return re.findall(r"^module \\?([\w.]+)", text, re.MULTILINE)


def write(folder, *options, name=None):
    """Verilog and C header of a configuration by the command line."""
    named = [] if name is None else ["--name", name]
    verilog, header = folder / "accelerator.v", folder / "accelerator.h"
    assert main([*options, *named, "-o", str(verilog), "--c-header", str(header)]) == 0
    return verilog.read_text(), header.read_text()


def test_rtlil_has_the_top_and_then_each_kind_of_row():
    texts = rtlil_texts(PAIRS, "chip")
    tops = [re.findall(r"^module \\([\w.]+)", text, re.MULTILINE)[-1] for text in texts]
    assert len(texts) == 3
    assert tops[1:] == ["chip_array_row", "chip_check_row"]
    assert "module \\chip\n" in texts[0]
    assert "cell $memrd_v2" in texts[0]


def test_the_command_line_writes_verilog_with_the_pins_of_axi(tmp_path):
    size = ["--rows", "2", "--cols", "3", "--bus-bytes", "64", "--address-bits", "44"]
    text, _ = write(tmp_path, *size, name="array_a")
    assert re.search(r"^module array_a\(", text, re.MULTILINE)
    assert len(re.findall(r"^  array_a_array_row \S+ \(", text, re.MULTILINE)) == 2
    for name in ("clk", "rst", "irq", "m_axi_araddr", "m_axi_wstrb", "s_axil_awaddr"):
        assert re.search(rf"^  (input|output) .*\b{name}\b;", text, re.MULTILINE), name
    for name, value in {"lock": "1'h0", "cache": "4'h3", "prot": "3'h0", "qos": "4'h0"}.items():
        for channel in ("ar", "aw"):
            assert f"assign m_axi_{channel}{name} = {value};" in text
    assert "output [511:0] m_axi_wdata;" in text
    assert "output [43:0] m_axi_araddr;" in text


def test_all_modules_and_macros_begin_with_the_name(tmp_path):
    size = ["--rows", "1", "--cols", "2", "--checksum", "residue", "--bus-bytes", "4"]
    text, header = write(tmp_path, *size, "--aresetn", name="Left")
    assert {name for name in modules(text) if re.split(r"[._]", name)[0] != "Left"} == set()
    assert {"Left", "Left.read_port", "Left_array_row", "Left_check_row"} <= set(modules(text))
    macros = re.findall(r"^#(?:define|ifndef) (\w+)", header, re.MULTILINE)
    assert {macro for macro in macros if not macro.startswith("LEFT_")} == set()
    top = text[: text.index("endmodule")]
    assert sorted(re.findall(r"^  input (\w*(?:clk|rst|reset)\w*);", top, re.MULTILINE)) == ["aclk", "aresetn"]
    assert "output [31:0] m_axi_wdata;" in top


@pytest.mark.parametrize("name", ["", "9a", "_a", "a-b", "a.b", "ä"])
def test_a_name_that_is_none_is_refused(name, capsys):
    assert main(["--rows", "1", "--cols", "1", "--name", name]) == 2
    wanted = f"error: a name must be a letter followed by letters, digits and underscores, not {name!r}\n"
    assert capsys.readouterr().err == wanted


@pytest.fixture
def hollow(monkeypatch):
    """The top module has its pins and nothing inside, whose conversion takes seconds."""

    class Hollow(AcceleratorTop):
        def elaborate(self, platform):
            return Module()

    monkeypatch.setattr("brownout.hw.emit.AcceleratorTop", Hollow)


def test_a_word_of_the_language_is_refused_as_a_name(capsys, hollow):
    assert main(["--rows", "1", "--cols", "1", "--name", "logic"]) == 2
    wanted = "error: a name must not be a word of Verilog or SystemVerilog, as 'logic' is\n"
    assert capsys.readouterr().err == wanted


def test_a_program_can_include_the_headers_of_two_configurations(tmp_path):
    configs = [AcceleratorConfig(rows=2, cols=3), AcceleratorConfig(rows=3, cols=2, checksum=ChecksumConfig())]
    lines = []
    for index, config in enumerate(configs):
        (tmp_path / f"{index}.h").write_text(c_header_text(config))
        prefix = default_name(config).upper()
        lines += [f'#include "{index}.h"', f'_Static_assert({prefix}_ROWS == {config.rows}, "");']
        lines += [f'_Static_assert({prefix}_REG_{r.name} == {r.offset}, "");' for r in REGISTERS]
        lines += [f'_Static_assert({prefix}_GEMM_{f.name.upper()} == {f.offset}, "");' for f in GEMM_FIELDS]
    source = tmp_path / "check.c"
    source.write_text("\n".join(lines) + "\n")
    compiler = shutil.which("gcc") or shutil.which("cc")
    subprocess.run([compiler, "-fsyntax-only", "-Wall", "-Werror", str(source)], check=True)


def test_each_segment_has_a_locator_of_pairs_if_pairs_are_asked_for():
    text = build_verilog(PAIRS).read_text()  # that of a simulator of other tests
    assert re.findall(r"pairs_\d(?= \($)", text, re.MULTILINE) == ["pairs_0", "pairs_1"]


def test_options_of_the_checksum_are_its_fields(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("brownout.hw.__main__.verilog_text", lambda config, *_, **__: asked.append(config) or "")
    size = ["--rows", "1", "--cols", "5", "--checksum", "residue", "--checksum-segment-cols", "4"]
    write(tmp_path, *size, "--no-checksum-column-checks", "--checksum-pairs")
    checksum = ChecksumConfig(scheme="residue", segment_cols=4, column_checks=False, pairs=True)
    assert asked == [AcceleratorConfig(rows=1, cols=5, checksum=checksum)]


def test_a_bad_option_is_an_error_with_its_value(capsys):
    assert main(["--rows", "0"]) == 2
    assert capsys.readouterr().err == "error: AcceleratorConfig.rows must be an integer in 1..128, not 0\n"


def test_the_default_name_is_that_of_the_configuration(hollow):
    config = AcceleratorConfig(rows=1, cols=2)
    text = verilog_text(config)
    assert modules(text)[0] == default_name(config) == f"brownout_{config.hash_word:08x}"


def test_the_same_configuration_gives_the_same_verilog_whatever_yosys_there_is(tmp_path, monkeypatch, hollow):
    config = AcceleratorConfig(rows=2, cols=2)
    text = verilog_text(config)
    other = tmp_path / "yosys"
    other.write_text("#!/bin/sh\necho Yosys 0.99\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert verilog_text(config) == text
