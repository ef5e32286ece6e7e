"""Files and modules that pages, docstrings and comments name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOPS = ("hw", "rtl", "cosim", "host", "tests", "benchmarks")

FILE = re.compile(rf"(?<![\w./])(?:{'|'.join(TOPS)})/[\w./]*\w(?![\w*])")
MODULE = re.compile(r"\bbrownout\.(?:hw|cosim|host)(?:\.\w+)+")

TEXTS = [
    path
    for pattern in (
        "README.md",
        "docs/*.md",
        *(f"{top}/**/*{end}" for top in TOPS[:4] for end in (".py", ".cpp", ".h")),
    )
    for path in sorted(ROOT.glob(pattern))
]


def names_something(dotted):
    """Whether a dotted name is a module, or something in one: a class and its member at most."""
    parts = dotted.split(".")[1:]
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        if place.with_suffix(".py").is_file() or place.is_dir():
            return len(parts) - length <= 2
    return False


def missing(text):
    """Files and modules that a text names and that are not there."""
    files = {name for name in FILE.findall(text) if not (ROOT / name).exists()}
    return sorted(files | {name for name in MODULE.findall(text) if not names_something(name)})


def test_what_is_missing_is_found():
    assert missing("see host/nowhere.py and `brownout.host.nowhere.at.all.now`, not host/errors.py") == [
        "brownout.host.nowhere.at.all.now",
        "host/nowhere.py",
    ]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_text_names_is_there(path):
    assert missing(path.read_text()) == []
