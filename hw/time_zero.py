"""Combinational processes that run at time 0 in every Verilog simulator."""

from __future__ import annotations

import re

# Yosys gives each module a variable with an initial value, read by each process, whose change from x is to start them.
# In SystemVerilog variables have their initial values before any process begins to wait, so nothing changes.
_VARIABLE = re.compile(r"^  reg (\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ) = 0;\n", re.MULTILINE)
_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
_HEADER_END = re.compile(r"\);\n")
_BARE_PROCESS = re.compile(r"^  always @\*\n    (.*;)\n", re.MULTILINE)
_PROCESS = re.compile(r"^  always @\* begin\n", re.MULTILINE)
_ANY_PROCESS = re.compile(r"always @\(?\*")

_NAME = r"\$time_zero "

# A non-blocking assignment takes effect when all processes of time 0 wait, by the rules of both languages.
_DECLARATION = f"""\
  /* verilator coverage_off */
  /* verilator lint_off INITIALDLY */
  reg {_NAME};
  initial {_NAME} <= 1'b0;
  /* verilator lint_on INITIALDLY */
  /* verilator coverage_on */
"""
_READ = f"    if ({_NAME}) begin /* verilator coverage_block_off */ end\n"


def _start_processes(match: re.Match[str]) -> str:
    text = match[0]
    if found := _VARIABLE.search(text):
        text = text.replace(found[0], "").replace(f"    if ({found[1]}) begin end\n", "")
    text = _BARE_PROCESS.sub(lambda process: f"  always @* begin\n    {process[1]}\n  end\n", text)
    text, processes = _PROCESS.subn(lambda process: process[0] + _READ, text)
    if len(_ANY_PROCESS.findall(text)) != processes or "verilog_backend" in text:
        raise RuntimeError("this Yosys writes processes in another form than is known here")
    return _HEADER_END.sub(lambda end: end[0] + _DECLARATION, text, count=1) if processes else text


def run_at_time_zero(text: str) -> str:
    """Verilog by Yosys with its combinational processes started at time 0.

    An ``always @*`` waits for a change of what it reads. Where that has its value from the beginning, because it
    depends on initial values of registers alone, the process would not run, and what it computes would stay x.

    Parameters
    ----------
    text : str
        Verilog, as ``write_verilog`` of Yosys gives it.
    """
    return _MODULE.sub(_start_processes, text)
