"""What static timing makes of OpenSTA's reports."""

from __future__ import annotations

import pytest

from brownout.cosim.errors import MissingToolError

# OpenSTA 2.0.17 printed this form, with its greeting before it.
REPORT = """\
License GPLv3: GNU GPL version 3 <http://gnu.org/licenses/gpl.html>

Warning: analysis.tcl, 5 set_input_delay relative to a clock defined on the same port/pin not allowed.
Startpoint                                Endpoint                                       Slack
----------------------------------------------------------------------------------------------

drain/requantiser/mult_0[3]_DFF_P_Q/Q (DFFPOSX1) drain/requantiser/product_0[63]_DFF_P_Q/D (DFFPOSX1)   -1.5000
array/row_3/active_7[0]_DFF_P_Q/Q (DFFPOSX1) array/row_3/psum_7[31]_DFF_P_Q/D (DFFPOSX1)        5.0000
array/row_0/active_1[0]_DFF_P_Q/Q (DFFPOSX1) array/row_0/psum_1[31]_DFF_P_Q/D (DFFPOSX1)        5.2500
accumulator/bank_0.macro_out[1]/Q (DFFPOSX1) accumulator/bank_0.macro_in[1]/D (DFFPOSX1)        4.0000
m_axi_rdata[0] (input)                    receiver/a_unpacker/held[0]_DFF_P_Q/D (DFFPOSX1)        9.8008
registers/irq_DFF_P_Q/Q (chip)            irq (output)                                       9.8402
"""


@pytest.fixture
def timing(benchmark_module):
    return benchmark_module("static_timing")


def test_a_report_gives_the_least_period_of_each_endpoint(timing):
    paths = timing.parse_paths(REPORT, 10.0)
    assert [path.period_ns for path in paths] == [11.5, 5.0, 4.75, 6.0, 0.1992, 0.1598]
    assert paths[0] == timing.TimedPath(
        "drain/requantiser/mult_0[3]_DFF_P_Q/Q", "drain/requantiser/product_0[63]_DFF_P_Q/D", 11.5
    )
    assert paths[-1] == timing.TimedPath("registers/irq_DFF_P_Q/Q", "irq", 0.1598)


def test_a_report_without_paths_is_refused(timing):
    with pytest.raises(ValueError, match=r"^OpenSTA reported no path$"):
        timing.parse_paths("No paths found.\n", 10.0)


@pytest.mark.parametrize(
    ("point", "block"),
    [
        ("array/row_7/psum_0[0]_DFF_P_Q/D", "array"),
        ("array/check_row_7/psum_1[0]_DFF_P_Q/D", "check_row"),
        ("array/y_skew_0_d1[2]_DFF_P_Q/D", "array_skew"),
        ("drain/corrector/pairs_0/found_DFF_P_Q/D", "double_error_locator"),
        ("drain/corrector/valid_DFF_P_Q/D", "corrector"),
        ("drain/begin_DFF_P_Q/D", "drain"),
        ("write_port/lengths/level_DFF_P_Q/D", "bus_ports"),
        ("m_axi_awvalid", "outputs"),
    ],
)
def test_a_pin_belongs_to_the_block_of_its_instance(timing, point, block):
    assert timing.block_of(point) == block


def test_blocks_have_the_longest_path_that_ends_in_them(timing):
    worst = timing.worst_paths(timing.parse_paths(REPORT, 10.0))
    assert {block: path.period_ns for block, path in worst.items()} == {
        "requantiser": 11.5,
        "accumulator": 6.0,
        "array": 5.0,
        "unpacker": 0.1992,
        "outputs": 0.1598,
    }
    assert next(iter(worst)) == "requantiser"


def test_what_checks_guard_does_not_hold_the_clock_back(timing):
    worst = timing.worst_paths(timing.parse_paths(REPORT, 10.0))
    metrics = timing.metrics_of(worst, {"shifted": timing.TimedPath("held", "kept", 2.5)})
    assert metrics["array_path_ns"] == 5.0
    assert metrics["slack_ratio_requantiser"] == pytest.approx(2.3)
    assert metrics["slack_ratio_array"] == 1
    assert metrics["blocks_slower_than_array"] == 2
    assert metrics["follow_speedup"] == pytest.approx(5.0 / 11.5)
    assert metrics["follow_speedup_guarded"] == pytest.approx(1.116 * 5.0 / 11.5)
    assert metrics["stage_ratio_shifted"] == 0.5


def test_missing_tools_are_named_with_their_packages(timing, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        MissingToolError,
        match=r"^static timing needs yosys, opensta, qflow-tech-osu018: "
        r"apt-get install yosys opensta qflow-tech-osu018$",
    ):
        timing.require_tools(tmp_path / "cells.lib")
