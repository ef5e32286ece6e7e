"""Verilog by Yosys, as it is, is given a start at time 0."""

import re

import pytest

from brownout.hw.time_zero import run_at_time_zero

YOSYS = r"""
module a(b, c
, d);
  reg \$auto$verilog_backend.cc:2355:dump_module$1  = 0;
  reg e;
  always @(posedge c)
    d <= e;
  always @* begin
    if (\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end
    e = b;
  end
  always @*
    f[1:0] = 2'h0;
endmodule

module g(b);
  assign b = 1'h0;
endmodule
"""


def test_each_process_reads_what_changes_when_all_wait():
    text = run_at_time_zero(YOSYS)
    assert "verilog_backend" not in text
    assert len(re.findall(r"^  initial \\\$time_zero  <= 1'b0;$", text, re.MULTILINE)) == 1
    processes = re.findall(r"^  always @\* begin\n    if \((\S+) \) begin .*\n    (.*)\n  end$", text, re.MULTILINE)
    assert processes == [(r"\$time_zero", "e = b;"), (r"\$time_zero", "f[1:0] = 2'h0;")]


def test_what_has_no_processes_stays():
    text = run_at_time_zero(YOSYS)
    assert text[text.index("module g") :] == YOSYS[YOSYS.index("module g") :]


@pytest.mark.parametrize("process", ["always @* if (b) e = b;", "always @(*)\n    e = b;"])
def test_a_form_that_is_not_known_is_an_error(process):
    with pytest.raises(RuntimeError, match="another form"):
        run_at_time_zero(f"module a(b);\n  {process}\nendmodule\n")
