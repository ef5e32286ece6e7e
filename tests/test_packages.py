"""What is installed is what is there."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_folder_with_code_is_a_package_that_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    there = set()
    for name, folder in settings["package-dir"].items():
        for file in (ROOT / folder).rglob("*.py"):
            there.add(".".join((name, *file.relative_to(ROOT / folder).parts[:-1])))
    assert there == set(settings["packages"])
