"""Where workers live: what a coordinator tells them and hears of them."""

from __future__ import annotations

import abc
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ExchangeError
from ...storage.packable import packable
from .mailbox import Interrupted
from .worker import Job, Task, Worker, WorkerConfig, WorkerState


@packable("stadi.runtime.executor.Begin")
@dataclass(frozen=True)
class Begin:
    """Another image."""

    job: Job


@packable("stadi.runtime.executor.Held")
@dataclass(frozen=True)
class Held:
    """Tell what is held at the sync point at a step; answered by `Done`."""

    step: int


@packable("stadi.runtime.executor.Adopt")
@dataclass(frozen=True)
class Adopt:
    """Hold what another device holds at a sync point."""

    held: Any
    step: int


@packable("stadi.runtime.executor.Keep")
@dataclass(frozen=True)
class Keep:
    """Tell all that the interval after a sync point depends on; answered by `Done` with `WorkerState`.

    Attributes
    ----------
    step : int
        Step of the sync point, which must be the last one.
    with_held : bool
        Whether also what is held of others.
    """

    step: int
    with_held: bool


@packable("stadi.runtime.executor.Restore")
@dataclass(frozen=True)
class Restore:
    """Take up what `Keep` told, here or elsewhere; the next task has this epoch."""

    kept: WorkerState
    step: int
    epoch: int


Command = Begin | Held | Adopt | Keep | Restore | Task


@packable("stadi.runtime.executor.Done")
@dataclass(frozen=True)
class Done:
    """A command was carried out."""

    value: Any


@packable("stadi.runtime.executor.Progress")
@dataclass(frozen=True)
class Progress:
    """The evaluation at a step is done."""

    step: int


@packable("stadi.runtime.executor.Stopped")
@dataclass(frozen=True)
class Stopped:
    """The interval was given up, as the coordinator wanted."""


@packable("stadi.runtime.executor.Failed")
@dataclass(frozen=True)
class Failed:
    """A command failed.

    Attributes
    ----------
    reason : str
        What happened.
    culprit : str or None
        Another device that did not send, or sent what was damaged.
    asked_wrongly : bool
        The fault is that of the arguments: other devices would fail too.
    detail : str
        Traceback.
    """

    reason: str
    culprit: str | None = None
    asked_wrongly: bool = False
    detail: str = ""


@dataclass(frozen=True)
class Lost:
    """The worker is gone."""

    reason: str


Answer = Done | Progress | Stopped | Failed | Lost


Said = tuple[str, int | None, Answer]
"""Who says what, and on which command; None if it is about no command: the worker is gone."""


def serve(worker: Worker, command: Command, reply: Callable[[Answer], None]) -> None:
    """Carry out a command and answer."""
    try:
        value: Any = None
        if isinstance(command, Begin):
            worker.begin(command.job)
        elif isinstance(command, Held):
            value = worker.held(command.step)
        elif isinstance(command, Adopt):
            worker.adopt(command.held, command.step)
        elif isinstance(command, Keep):
            value = worker.keep(command.step, command.with_held)
        elif isinstance(command, Restore):
            worker.restore(command.kept, command.step, command.epoch)
        else:
            value = worker.run(command, lambda step: reply(Progress(step)))
    except Interrupted:
        reply(Stopped())
    except ExchangeError as error:
        reply(Failed(str(error), culprit=error.sender, detail=traceback.format_exc()))
    except Exception as error:
        asked_wrongly = isinstance(error, TypeError | ValueError | LookupError)
        reply(Failed(f"{type(error).__name__}: {error}", asked_wrongly=asked_wrongly, detail=traceback.format_exc()))
    else:
        reply(Done(value))


class Executor(abc.ABC):
    """Workers of a fleet.

    Attributes
    ----------
    answers : queue.Queue of (str, int or None, Answer)
        What each worker says, by its device's name, with the number of the command; 0 is that of its start.
    """

    def __init__(self) -> None:
        self.answers: queue.Queue[Said] = queue.Queue()

    @abc.abstractmethod
    def start(self, worker_configs: Sequence[WorkerConfig]) -> None:
        """Make the workers; each answers `Done` when it is ready."""

    @abc.abstractmethod
    def tell(self, device: str, number: int, command: Command) -> None:
        """Send a command and do not wait; a worker that is gone answers `Lost`."""

    @abc.abstractmethod
    def interrupt(self, device: str, epoch: int) -> None:
        """Let a worker give up intervals of this epoch and of all before.

        It answers `Stopped`, or `Done` if it was faster.
        """

    @abc.abstractmethod
    def kill(self, device: str) -> None:
        """End a worker at once."""

    @abc.abstractmethod
    def close(self) -> None:
        """End all workers, and all that they started, in bounded time."""
