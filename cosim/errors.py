"""Exceptions of the co-simulation: what can go wrong, each with the log file that tells more."""

from __future__ import annotations

from pathlib import Path

from brownout.hw.commands import ERROR_MEANING, ErrorCause


class SimulatorError(Exception):
    """Base of everything that a simulator can do wrong.

    Parameters
    ----------
    message : str
        What happened.
    log : Path, optional
        Log file of the simulator or of its build; named in the text.

    Attributes
    ----------
    log : Path or None
        As given.
    """

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message if log is None else f"{message} (log: {log})")
        self.log = log


class BuildError(SimulatorError):
    """A simulator could not be built: no usable Verilator or compiler, or one of them failed."""


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
        What was used.
    opened_in, used_in : int
        Process identifiers.
    remedy : str
        What to do instead.

    Attributes
    ----------
    opened_in, used_in : int
        As given.
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
