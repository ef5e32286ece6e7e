"""Shared libraries that cannot be loaded are named."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from brownout.cosim.build import build_cycle_model
from brownout.cosim.cycle_model import _Library
from brownout.cosim.errors import BuildFolderError
from brownout.cosim.libraries import load_library


def test_a_library_is_loaded() -> None:
    assert load_library(build_cycle_model()).brownout_cycles_new


@pytest.mark.parametrize("load", [load_library, _Library])
def test_a_damaged_library_is_named_with_the_remedy(load: type, tmp_path: Path) -> None:
    path = tmp_path / "library.so"
    path.write_text("no ELF")
    message = (
        rf"cannot load {re.escape(str(path))}: .*; set BROWNOUT_BUILD to .*, or remove {re.escape(str(tmp_path))} "
    )
    with pytest.raises(BuildFolderError, match=message):
        load(path)


def test_a_library_in_a_folder_without_exec_is_named_with_the_remedy(tmp_path: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,size=4m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        copied = tmp_path / "library.so"
        copied.write_bytes(build_cycle_model().read_bytes())
        with pytest.raises(BuildFolderError, match="set BROWNOUT_BUILD to a folder from which programs can be run"):
            load_library(copied)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
