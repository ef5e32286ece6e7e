"""A driver in C, from docs/driver.md and the generated header, on the Verilated accelerator."""

from __future__ import annotations

from pathlib import Path

import pytest

from brownout.cosim.c_driver import run_driver
from brownout.cosim.errors import BuildError, SimulatorTimeout
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.registers import REGISTERS, SURVIVE_SOFT_RESET

from ..configurations import SMALL_MEMORY

pytestmark = pytest.mark.xdist_group("c_driver")

FOLDER = Path(__file__).parent / "driver"
CONFIG = AcceleratorConfig(
    rows=4,
    cols=4,
    checksum=ChecksumConfig(column_checks=False, segment_cols=4),
    timing_model="flip",
    memory=SMALL_MEMORY,
)
"""Small tiles and blocks, so that products of a few rows have several of them."""


def written(folder: Path, body: str) -> list[Path]:
    path = folder / "driver.c"
    path.write_text(f'#include "accelerator.h"\n#include "brownout_device.h"\n{body}')
    return [path]


def test_a_driver_written_from_the_documentation_works() -> None:
    result = run_driver(CONFIG, sorted(FOLDER.glob("*.c")))
    assert result.output.endswith("all right\n"), result.output
    assert result.status == 0


def test_resets_leave_in_every_register_what_the_reference_says(tmp_path: Path) -> None:
    """After a soft reset that follows writes to all settings and a command that failed."""
    readable = [register.name for register in REGISTERS if register.access != "wo"]
    writable = [register.name for register in REGISTERS if register.access == "rw"]
    settings = {name: 0x100 * (index + 1) for index, name in enumerate(writable)} | {"RING_TAIL": 3}
    kept = {name: settings.get(name, f"BROWNOUT_RESET_{name}") for name in SURVIVE_SOFT_RESET}

    def checks(values: dict[str, int | str]) -> str:
        return "".join(f'check("{name}", BROWNOUT_REG_{name}, {value});' for name, value in values.items())

    after_reset: dict[str, int | str] = {name: f"BROWNOUT_RESET_{name}" for name in readable}
    body = f"""
        #include <stdio.h>
        static void check(const char *name, uint32_t address, uint32_t wanted) {{
            uint32_t found = 0;
            if (brownout_device_read(address, &found) || found != wanted) printf("%s reads 0x%x\\n", name, found);
        }}
        int brownout_driver(void) {{
            {checks(after_reset)}
            {"".join(f"brownout_device_write(BROWNOUT_REG_{name}, {value});" for name, value in settings.items())}
            brownout_device_wait(1000);
            {checks({"IRQ": "BROWNOUT_IRQ_ERROR", "ERROR_CAUSE": "BROWNOUT_ERROR_RING_BASE"})}
            brownout_device_write(BROWNOUT_REG_CONTROL, BROWNOUT_CONTROL_SOFT_RESET);
            brownout_device_wait(1000);
            {checks(after_reset | kept)}
            return 0;
        }}"""
    result = run_driver(CONFIG, written(tmp_path, body))
    assert (result.status, result.output) == (0, "")


def test_what_a_driver_returns_and_prints_is_handed_on(tmp_path: Path) -> None:
    body = """
        #include <stdio.h>
        int brownout_driver(void) {
            uint32_t value = 0;
            const int response = brownout_device_read(BROWNOUT_REG_DIMENSIONS, &value);
            printf("%d %x\\n", response, value);
            return 7;
        }"""
    result = run_driver(CONFIG, written(tmp_path, body))
    assert (result.status, result.output) == (7, "0 40004\n")


def test_a_driver_that_does_not_compile_is_an_error_with_the_compilers_words(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"^the driver could not be compiled: (.|\n)*nonsense"):
        run_driver(CONFIG, written(tmp_path, "int brownout_driver(void) { return nonsense; }"))


def test_a_c_compiler_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(BuildError, match=r"^no C compiler: CC names 'no-such-compiler'$"):
        run_driver(CONFIG, written(tmp_path, "int brownout_driver(void) { return 0; }"))


def test_a_driver_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    body = "int brownout_driver(void) { for (;;) brownout_device_wait(1000); }"
    with pytest.raises(SimulatorTimeout, match=r"^the driver did not end within 1 s; it printed ''$"):
        run_driver(CONFIG, written(tmp_path, body), deadline_s=1)
