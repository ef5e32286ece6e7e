"""The workers of a fleet that are left: asked together, and judged by what they answer or fail to answer."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence

from brownout.cosim.ownership import ProcessLock

from ...errors import FleetError
from .executor import Answer, Command, Done, Executor, Failed, Lost, Progress
from .worker import WorkerConfig

START_S = 900.0
"""Seconds that workers may take to start at least: simulators may have to be built."""


class WorkerGroup:
    """Workers, each told the same things at the same time.

    Parameters
    ----------
    executor : Executor
        Where they live.
    worker_configs : sequence of WorkerConfig
        What they are made of.
    patience_s : float
        Wall-clock seconds without any sign of life after which a worker is given up.

    Attributes
    ----------
    alive : list of str
        Devices whose workers have not been lost.
    lost : dict of str to str
        The others, and why.
    epoch : int
        Number of the present intervals. It never goes back, so that what was sent in an interval that was given up is
        never mistaken for what is sent later.

    Raises
    ------
    FleetError
        A worker could not be started.
    """

    def __init__(self, executor: Executor, worker_configs: Sequence[WorkerConfig], patience_s: float) -> None:
        self.alive = [worker_config.device.name for worker_config in worker_configs]
        self.lost: dict[str, str] = {}
        self.epoch = 0
        self._executor, self._patience_s = executor, patience_s
        self._number = 0
        self._owner = ProcessLock("this fleet", "place the denoiser on a Fleet in this process")
        try:
            executor.start(worker_configs)
            answers = self._wait(self._number, self.alive, max(START_S, patience_s))
            for device, answer in answers.items():
                if not isinstance(answer, Done):
                    raise FleetError(f"device {device} could not be started: {reason_of(answer)}")
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Refuse a forked process, which shares the connections of its parent.

        Raises
        ------
        ForkedProcessError
        """
        self._owner.check()

    def close(self) -> None:
        """End all workers; does nothing in a forked process."""
        if self._owner.foreign:
            return
        self.alive = []
        self._executor.close()

    def lose(self, device: str, reason: str) -> None:
        """Give a device up."""
        self.alive.remove(device)
        self.lost[device] = reason
        self._executor.kill(device)

    @property
    def reasons(self) -> str:
        """Why devices were lost, by their names: which of two is noticed first is a matter of chance."""
        return "; ".join(f"{device}: {reason}" for device, reason in sorted(self.lost.items()))

    def ask(
        self, commands: Mapping[str, Command], on_progress: Callable[[str, int], None] | None = None
    ) -> dict[str, Answer]:
        """Send commands and wait for the answers of all devices, in the order in which they came.

        As soon as one has failed the others are interrupted. An exception, as from the keyboard, interrupts all and
        leaves at once: answers that come later are not mistaken for those to other commands.

        Raises
        ------
        ForkedProcessError
            Another process has started them.
        """
        self.check()
        self._number += 1
        try:
            for device, command in commands.items():
                self._executor.tell(device, self._number, command)
            # Other workers notice first who keeps them waiting.
            return self._wait(self._number, list(commands), 1.5 * self._patience_s, on_progress)
        except BaseException:
            self._interrupt(commands)
            raise

    def _interrupt(self, devices: Sequence[str] | Mapping[str, object]) -> None:
        for device in devices:
            self._executor.interrupt(device, self.epoch)

    def _wait(
        self,
        number: int,
        devices: Sequence[str],
        patience_s: float,
        on_progress: Callable[[str, int], None] | None = None,
    ) -> dict[str, Answer]:
        waiting, found = list(devices), dict[str, Answer]()
        deadline = time.monotonic() + patience_s
        # Until when devices that others wait for in vain may still say why.
        suspects: dict[str, tuple[float, str]] = {}
        while waiting:
            now = time.monotonic()
            ends = {device: min(deadline, suspects.get(device, (math.inf, ""))[0]) for device in waiting}
            if silent := [device for device in waiting if ends[device] <= now]:
                for device in silent:
                    reason = f"no sign of life for {patience_s:g} s"
                    found[device] = Lost(suspects[device][1] if device in suspects else reason)
                    waiting.remove(device)
                self._interrupt(waiting)
                deadline = now + patience_s
                continue
            try:
                device, of, answer = self._executor.answers.get(timeout=min(ends.values()) - now)
            except queue.Empty:
                continue
            if device not in waiting or of not in (number, None):
                continue
            deadline = time.monotonic() + patience_s
            if isinstance(answer, Progress):
                if on_progress is not None:
                    on_progress(device, answer.step)
                continue
            found[device] = answer
            waiting.remove(device)
            if isinstance(answer, Failed | Lost):
                # Whoever needs that device would wait in vain.
                self._interrupt(waiting)
            if isinstance(answer, Failed) and answer.culprit is not None:
                suspects.setdefault(answer.culprit, (time.monotonic() + self._patience_s / 4, answer.reason))
        return found


def reason_of(answer: Answer) -> str:
    """What an answer other than `Done` means."""
    return answer.reason if isinstance(answer, Failed | Lost) else "it was interrupted"


def at_fault(answers: Mapping[str, Answer]) -> dict[str, str]:
    """Devices that have to be given up, and why.

    Parameters
    ----------
    answers : mapping of str to Answer
        Answers in the order in which they came.

    Raises
    ------
    FleetError
        It is the arguments' fault.
    """
    found: dict[str, str] = {}
    for device, answer in answers.items():
        if isinstance(answer, Failed) and answer.asked_wrongly:
            raise FleetError(f"device {device} cannot do what it was asked to: {answer.reason}")
        if isinstance(answer, Lost) or (isinstance(answer, Failed) and answer.culprit is None):
            found[device] = answer.reason
    for device, answer in answers.items():
        if isinstance(answer, Failed) and answer.culprit is not None:
            culprit, reason = _last_blamed(device, answers)
            found.setdefault(culprit, reason)
    return found


def _last_blamed(device: str, answers: Mapping[str, Answer]) -> tuple[str, str]:
    """Follow the blame: who waits for somebody who waits is not at fault.

    Of devices that blame each other in a circle it is the one that was blamed first.
    """
    path = [device]
    while True:
        answer = answers[path[-1]]
        assert isinstance(answer, Failed)
        assert answer.culprit is not None
        culprit = answer.culprit
        if culprit in path:
            order = list(answers)
            first = answers[min(path[path.index(culprit) :], key=order.index)]
            assert isinstance(first, Failed)
            assert first.culprit is not None
            return first.culprit, first.reason
        blamed = answers.get(culprit)
        if not isinstance(blamed, Failed) or blamed.culprit is None:
            return culprit, answer.reason
        path.append(culprit)
