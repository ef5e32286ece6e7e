"""The cocotb testbenches pass, and the runner does not take silence for success."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from brownout.cosim import SimulatorError
from brownout.cosim.run_tests import bench_names, main, run_benches

from ..configurations import plain

pytestmark = pytest.mark.xdist_group("benches")

BENCHES = Path(__file__).parent / "benches"
CONFIG = plain(2, 2)


def test_all_testbenches_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the user's shell, and not for these benches.
    monkeypatch.setenv("COCOTB_TEST_FILTER", "nothing")
    monkeypatch.setenv("GPI_EXTRA", "/nonexistent.so:foo")
    result = run_benches(CONFIG, benches=BENCHES)
    assert result.failed == 0
    assert result.passed >= 23


def test_one_testbench_or_one_test_can_be_chosen() -> None:
    assert bench_names(BENCHES) == ["bus", "gemm", "registers"]
    assert run_benches(CONFIG, "registers", benches=BENCHES).passed == 3
    assert run_benches(CONFIG, "identification", benches=BENCHES).passed == 1


def test_no_test_is_an_error() -> None:
    message = "no test ran: 'nonsense' is none of the testbenches bus, gemm, registers, nor a test in them"
    with pytest.raises(SimulatorError, match=f"^{re.escape(message)}$"):
        run_benches(CONFIG, "nonsense", benches=BENCHES)


def test_failing_test_is_counted(tmp_path: Path) -> None:
    (tmp_path / "bench_bad.py").write_text(
        "import cocotb\n\n@cocotb.test()\nasync def wrong(dut):\n    assert False\n\n"
        "@cocotb.test()\nasync def right(dut):\n    pass\n"
    )
    result = run_benches(CONFIG, benches=tmp_path)
    assert (result.passed, result.failed) == (1, 1)


def test_command_line_fails_without_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--test", "nonsense", "--rows", "2", "--cols", "2", "--benches", str(BENCHES)]) == 2
    assert "no test ran" in capsys.readouterr().err
