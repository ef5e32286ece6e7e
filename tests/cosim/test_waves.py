"""Wave files in both formats, and what is said where one cannot be written."""

from __future__ import annotations

import re
import shutil
import struct
from pathlib import Path

import pytest

from brownout.cosim import CLOCK_PERIOD_PS, BuildError, Simulator, build
from brownout.cosim.errors import MissingPackageError
from brownout.cosim.toolchain import require_library
from brownout.cosim.waves import WAVE_FORMATS, Library, wave_name

from ..configurations import plain

needs_lz4 = pytest.mark.skipif(
    not Path("/usr/include/lz4.h").exists(), reason="Debian's liblz4-dev is not installed: no FST waves"
)


def test_the_format_follows_the_name() -> None:
    assert wave_name(Path("a/waves.fst")) == "fst"
    assert wave_name(Path("a.fst/waves.vcd")) == "vcd"


@pytest.mark.parametrize("name", ["waves", "waves.txt", "fst"])
def test_another_name_is_refused(name: str) -> None:
    message = f"a wave file must end in .vcd or .fst, not {name!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Simulator(plain(2, 2), waves=Path("folder") / name)


def test_a_missing_library_is_named_by_its_package() -> None:
    with pytest.raises(MissingPackageError, match=r"no none\.h: .* package libnone-dev") as caught:
        require_library(Library("none", "none.h", "libnone-dev"))
    assert caught.value.package == "libnone-dev"
    assert isinstance(caught.value, BuildError)


def test_fst_without_its_library_is_an_error_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is hidden by a compiler that does not look in the system's folders."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *-llz4*) set -- -nostdinc "$@";; esac\nexec {shutil.which("g++")} "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "build_verilog", lambda config, root: root / "rtl" / "accelerator.v")
    with pytest.raises(MissingPackageError, match="liblz4-dev"):
        Simulator(plain(2, 2), waves=tmp_path / "waves.fst", build_root=tmp_path)
    assert not list(tmp_path.glob("sim/[a-z]*"))


@needs_lz4
@pytest.mark.parametrize("library", WAVE_FORMATS["fst"].libraries, ids=lambda library: library.name)
def test_libraries_that_are_there_are_found(library: Library) -> None:
    require_library(library)


@needs_lz4
@pytest.mark.soak
def test_fst_shows_the_pins(tmp_path: Path) -> None:
    waves = tmp_path / "waves.fst"
    with Simulator(plain(2, 2), waves=waves, deadline_s=60) as simulator:
        simulator.read_register("ID")
    header = waves.read_bytes()[:74]
    block, _, start_ps, end_ps = struct.unpack_from(">BQQQ", header)
    scopes, variables = struct.unpack_from(">QQ", header, 41)
    assert (block, start_ps, header[73]) == (0, 0, 256 - 12)  # of the file's first block: units of 10^-12 s
    assert end_ps > 0
    assert end_ps % (CLOCK_PERIOD_PS // 2) == 0
    assert scopes > 1
    assert variables > 100
