"""Runs the commands of one build, and says why one has failed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .descriptors import reserve_standard_descriptors
from .environment import build_environment
from .errors import BuildError, folder_errors, full_folder_error
from .logs import BUILDS, discard_old

_FULL = ("No space left on device", "Disk quota exceeded")

_SCARCE_BYTES = 1 << 16
"""What a program leaves free that has found no room for what it wanted to write."""


class Commands:
    """Runs the commands of one build and keeps their output in one log.

    Parameters
    ----------
    logs : Path
        Folder of the log file.
    name : str
        Name of what is built, in names of log files.
    """

    def __init__(self, logs: Path, name: str) -> None:
        self.log = logs / f"{BUILDS}{name}.log"
        reserve_standard_descriptors()
        with folder_errors(logs):
            logs.mkdir(parents=True, exist_ok=True)
            discard_old(logs, BUILDS)
            self.log.write_text("")

    def run(self, command: Sequence[str], *, cwd: Path, variables: Mapping[str, str] | None = None) -> None:
        """Run a command.

        Parameters
        ----------
        command : sequence of str
            Program to run, and its arguments.
        cwd : Path
            Folder to run it in, also for its temporary files.
        variables : mapping, optional
            Environment variables that it needs beside `build_environment`.

        Raises
        ------
        BuildError
            It failed, or cannot be run; names the log.
        BuildFolderError
            The disk is full.
        """
        program = Path(command[0]).name
        try:
            result = subprocess.run(
                command,
                cwd=cwd,
                env={**build_environment(cwd), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise BuildError(f"{program} cannot be run: {error.strerror}", self.log) from error
        with folder_errors(self.log.parent), open(self.log, "a") as file:
            file.write(f"$ {shlex.join(command)}\n{result.stdout}")
        if result.returncode != 0:
            if any(text in result.stdout for text in _FULL) or _free_bytes(cwd) < _SCARCE_BYTES:
                raise full_folder_error(cwd, self.log)
            lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
            errors = [line for line in lines if "error" in line.lower() and "collect2" not in line]
            reason = [*errors, *lines[-1:], f"exit status {result.returncode}"][0]
            raise BuildError(f"{program} failed: {reason}", self.log)
        # Not every program looks whether it could write all of its output.
        if _free_bytes(cwd) == 0:
            raise full_folder_error(cwd, self.log)

    def run_parallel(self, commands: Iterable[Sequence[str]], *, cwd: Path) -> None:
        """Run commands that do not depend on each other, as many at a time as there are cores; errors as for `run`."""
        with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)))) as pool:
            for future in [pool.submit(self.run, command, cwd=cwd) for command in commands]:
                future.result()


def write_headers(folder: Path, texts: Mapping[str, str]) -> None:
    """Write generated headers, `texts` by name, for the compiler to find in `folder`."""
    for name, text in texts.items():
        (folder / name).write_text(text)


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
