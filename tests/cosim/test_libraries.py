"""Shared libraries that cannot be loaded are named."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from brownout.cosim.build import build_memory_library
from brownout.cosim.cycle_model import _load
from brownout.cosim.cycle_model.build import build_cycle_model
from brownout.cosim.cycle_model.structs import STRUCTURES
from brownout.cosim.errors import BuildFolderError
from brownout.cosim.libraries import load_library
from brownout.hw.cpp_struct import layout_digest


def test_a_library_is_loaded() -> None:
    assert load_library(build_cycle_model()).brownout_cycles_new


def test_a_library_of_other_declarations_is_refused() -> None:
    path = build_cycle_model()
    with pytest.raises(BuildFolderError) as caught:
        load_library(path, "0123456789abcdef")
    assert str(caught.value) == (
        f"{path} was built from other structures and constants ({layout_digest(STRUCTURES)}) than this Python has "
        f"loaded (0123456789abcdef); start Python again if its files have changed, or remove {path.parent} to have it "
        "built again"
    )


def test_a_library_that_tells_no_layout_is_refused() -> None:
    with pytest.raises(BuildFolderError, match=r"was built from other structures and constants \(none\) than"):
        load_library(build_memory_library(), "0123456789abcdef")


@pytest.mark.parametrize("load", [load_library, _load])
def test_a_damaged_library_is_named_with_the_remedy(load: Callable[[Path], object], tmp_path: Path) -> None:
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
