"""Whether a C++ compiler takes a generated header."""

from __future__ import annotations

import shutil
import subprocess

from brownout.hw.cpp_header import HARDWARE_HEADER, hardware_header


def compiles(folder, text):
    """Whether it is C++17 without a warning, beside `HARDWARE_HEADER`, and what the compiler says."""
    (folder / HARDWARE_HEADER).write_text(hardware_header())
    (folder / "header.h").write_text(text)
    (folder / "main.cpp").write_text('#include "header.h"\n#include "header.h"\nint main() {}\n')
    compiler = shutil.which("c++")
    assert compiler, "needs c++"
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "main.cpp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.returncode == 0, done.stderr
