"""Workers as threads of this process: what is simplest to debug."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from .executor import Answer, Command, Done, Executor, Failed, Lost, serve
from .mailbox import Envelope, Mailbox
from .worker import Worker, WorkerConfig

END_S = 30.0
"""Seconds that all workers may take to end: as long as an evaluation of a small model."""

NEVER = 1 << 62
"""Epoch that no interval reaches."""

Commands = queue.Queue[tuple[int, Command] | None]


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A model with modules of its own, which a worker replaces, and the weights of another."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


class InlineExecutor(Executor):
    """Workers as threads; envelopes are handed over directly.

    A thread cannot be ended from outside: one that hangs is left behind when it is given up.
    """

    def __init__(self) -> None:
        super().__init__()
        self._mailboxes: dict[str, Mailbox] = {}
        self._commands: dict[str, Commands] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, worker_configs: Sequence[WorkerConfig]) -> None:
        for worker_config in worker_configs:
            name = worker_config.device.name
            self._mailboxes[name] = Mailbox(name, self._carry, worker_config.patience_s)
            self._commands[name] = queue.Queue()
        for worker_config in worker_configs:
            name = worker_config.device.name
            own = replace(worker_config, denoiser=_sharing_copy(worker_config.denoiser))
            arguments = (own, self._mailboxes[name], self._commands[name])
            self._threads[name] = threading.Thread(
                target=self._work, args=arguments, name=f"worker {name}", daemon=True
            )
            self._threads[name].start()

    def _carry(self, receiver: str, envelope: Envelope) -> None:
        mailbox = self._mailboxes.get(receiver)
        if mailbox is not None:
            mailbox.deliver(envelope)

    def _work(self, worker_config: WorkerConfig, mailbox: Mailbox, commands: Commands) -> None:
        name = worker_config.device.name
        try:
            worker = Worker(worker_config, mailbox)
        except Exception as error:
            self.answers.put((name, 0, Failed(f"{type(error).__name__}: {error}")))
            return
        self.answers.put((name, 0, Done(None)))
        try:
            while (told := commands.get()) is not None:
                number, command = told

                def reply(answer: Answer, number: int = number) -> None:
                    self.answers.put((name, number, answer))

                serve(worker, command, reply)
        finally:
            worker.close()

    def tell(self, device: str, number: int, command: Command) -> None:
        if device not in self._mailboxes:
            self.answers.put((device, None, Lost("its worker was ended")))
        else:
            self._commands[device].put((number, command))

    def interrupt(self, device: str, epoch: int) -> None:
        mailbox = self._mailboxes.get(device)
        if mailbox is not None:
            mailbox.interrupt(epoch)

    def kill(self, device: str) -> None:
        # Nobody hears of it any more, and it ends after its evaluation.
        mailbox = self._mailboxes.pop(device, None)
        if mailbox is not None:
            mailbox.interrupt(NEVER)
            self._commands[device].put(None)

    def close(self) -> None:
        for device in list(self._mailboxes):
            self.kill(device)
        deadline = time.monotonic() + END_S
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))
