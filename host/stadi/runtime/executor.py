"""Where workers live: what a coordinator tells them and hears of them."""

from __future__ import annotations

import abc
import queue
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ExchangeError
from .post import Interrupted
from .worker import Job, Recipe, Report, Task, Worker


@dataclass(frozen=True)
class Begin:
    """Another image."""

    job: Job


@dataclass(frozen=True)
class Held:
    """Tell what is held; answered by `Done`."""


@dataclass(frozen=True)
class Adopt:
    """Hold what another device held."""

    held: Any


Command = Begin | Held | Adopt | Task


@dataclass(frozen=True)
class Done:
    """A command was carried out."""

    value: Report | Any


@dataclass(frozen=True)
class Progress:
    """The evaluation at a step is done."""

    step: int


@dataclass(frozen=True)
class Stopped:
    """The interval was given up, as the coordinator wanted."""


@dataclass(frozen=True)
class Failed:
    """A command failed.

    Attributes
    ----------
    reason : str
        What happened.
    culprit : str or None
        Another device that did not send, or sent what was damaged.
    detail : str
        Traceback.
    """

    reason: str
    culprit: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Lost:
    """The worker is gone."""

    reason: str


Answer = Done | Progress | Stopped | Failed | Lost


def serve(worker: Worker, command: Command, reply: Callable[[Answer], None]) -> None:
    """Carry out a command and answer."""
    try:
        value: Any = None
        if isinstance(command, Begin):
            worker.begin(command.job)
        elif isinstance(command, Held):
            value = worker.held()
        elif isinstance(command, Adopt):
            worker.adopt(command.held)
        else:
            value = worker.run(command, lambda step: reply(Progress(step)))
    except Interrupted:
        reply(Stopped())
    except ExchangeError as error:
        reply(Failed(str(error), error.sender, traceback.format_exc()))
    except Exception as error:
        reply(Failed(f"{type(error).__name__}: {error}", None, traceback.format_exc()))
    else:
        reply(Done(value))


class Executor(abc.ABC):
    """Workers of a fleet.

    Attributes
    ----------
    answers : queue.Queue of (str, Answer)
        What each worker says, by its device's name.
    """

    def __init__(self) -> None:
        self.answers: queue.Queue[tuple[str, Answer]] = queue.Queue()

    @abc.abstractmethod
    def start(self, recipes: Sequence[Recipe]) -> None:
        """Make the workers; each answers `Done` when it is ready."""

    @abc.abstractmethod
    def tell(self, device: str, command: Command) -> None:
        """Send a command; a worker that is gone answers `Lost`."""

    @abc.abstractmethod
    def interrupt(self, device: str) -> None:
        """Let a worker give up its interval; it answers `Stopped`, or `Done` if it was faster."""

    @abc.abstractmethod
    def kill(self, device: str) -> None:
        """End a worker at once."""

    @abc.abstractmethod
    def close(self) -> None:
        """End all workers, and all that they started."""
