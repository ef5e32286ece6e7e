"""Exceptions of the co-simulation: what can go wrong, each with the log file that tells more."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from brownout.hw.commands import ERROR_MEANING, ErrorCause


class SimulatorError(Exception):
    """Base of everything that a simulator can do wrong.

    Parameters
    ----------
    message : str
        Text that says what happened.
    log : Path, optional
        Log file of the simulator or of its build; named in the text.

    Attributes
    ----------
    log : Path or None
        Log file, as given.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message if log is None else f"{message} (log: {log})")
        self.log = log


class BuildError(SimulatorError):
    """A simulator could not be built: no usable Verilator or compiler, or one of them failed."""


class MissingToolError(BuildError):
    """There is no usable Verilator or no C++ compiler, and what was asked for has not been built before."""


class MissingPackageError(BuildError):
    """A library is missing that only some simulators need.

    Attributes
    ----------
    package : str
        Debian's package with it.
    """

    def __init__(self, message: str, package: str) -> None:
        super().__init__(message)
        self.package = package


class BuildFolderError(BuildError):
    """A folder in which something has to be written cannot be used; the text has the cause and what can be done."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_TAKEN = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


def folder_error(folder: Path, error: OSError) -> BuildFolderError:
    """`error`, met while `folder` was written, with a remedy."""
    if error.errno in _FULL:
        remedy = "free space there, or set BROWNOUT_BUILD to a folder on another disk"
    elif error.errno in _FORBIDDEN:
        remedy = "set BROWNOUT_BUILD to a folder that can be written"
    elif error.errno in _TAKEN:
        remedy = "a file is in the place of a folder; set BROWNOUT_BUILD to a folder, or remove the file"
    else:
        remedy = "set BROWNOUT_BUILD to another folder"
    place = folder if error.filename is None else error.filename
    return BuildFolderError(f"cannot use {place}: {error.strerror or error}; {remedy}")


def full_folder_error(folder: Path, log: Path | None = None) -> BuildFolderError:
    """A program has found the disk of `folder` full."""
    found = folder_error(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return BuildFolderError(str(found), log)


@contextlib.contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """What the system refuses inside, of files in `folder` or of no named file, becomes a `BuildFolderError`."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if isinstance(name, (str, bytes, os.PathLike)) and not _below(Path(os.fsdecode(name)), folder):
            raise
        raise folder_error(folder, error) from error


def _below(path: Path, folder: Path) -> bool:
    """Whether `path` is in `folder`, or one of the folders that it is in."""
    return path.is_relative_to(folder) or folder.is_relative_to(path)


class SimulatorDied(SimulatorError):  # noqa: N818
    """The simulator process ended, or had ended before the call. `Simulator.restart` starts another one."""


class SimulatorTimeout(SimulatorError):  # noqa: N818
    """The simulator did not answer within the deadline and was killed. `Simulator.restart` starts another one."""


class ProtocolError(SimulatorError):
    """The simulator answered nonsense, or it is not the device that the configuration describes."""


class AxiViolation(SimulatorError):  # noqa: N818
    """The accelerator broke a rule of AXI4 or reached outside memory."""


class CommandError(SimulatorError):
    """The accelerator refused a command or could not finish it; the ring has been cleared and can be used again.

    Attributes
    ----------
    cause : ErrorCause
        Value of the ERROR_CAUSE register.
    index : int
        Position of the command among those given to `Simulator.run`.
    """

    def __init__(self, cause: ErrorCause, index: int, log: Path | None = None) -> None:
        super().__init__(f"command {index} failed: {ERROR_MEANING[cause]} ({cause.name})", log)
        self.cause = cause
        self.index = index


class ForkedProcessError(RuntimeError):
    """Something that a process has opened was used in a child that was forked from it.

    Parameters
    ----------
    what : str
        Object that was used, for the text.
    opened_in, used_in : int
        Identifiers of the process that opened it and of the one that used it.
    remedy : str
        What to do instead.

    Attributes
    ----------
    opened_in, used_in : int
        Identifiers of both processes, as given.
    """

    def __init__(self, what: str, opened_in: int, used_in: int, remedy: str) -> None:
        super().__init__(
            f"{what} was opened in process {opened_in} and cannot be used in process {used_in}, which was forked from "
            f"it; {remedy}"
        )
        self.opened_in, self.used_in = opened_in, used_in
        self._arguments = (what, opened_in, used_in, remedy)

    def __reduce__(self) -> tuple[type[ForkedProcessError], tuple[str, int, int, str]]:
        # Children tell their parents of it.
        return type(self), self._arguments
