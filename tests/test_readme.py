"""The Python of the README runs as it is printed, each block by itself: ``make readme``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from brownout.cosim.cache import build_root

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

pytestmark = [pytest.mark.readme, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_runs(number: int, tmp_path: Path) -> None:
    """As a program of its own, in an empty folder."""
    program = tmp_path / "block.py"
    program.write_text(BLOCKS[number])
    environment = {**os.environ, "BROWNOUT_BUILD": str(build_root())}
    command = [sys.executable, "-W", "error::UserWarning", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["block.py"]


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 3
