"""Workers as threads of this process: what is simplest to debug."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from .executor import Command, Done, Executor, Failed, Lost, serve
from .post import Letter, Post
from .worker import Recipe, Worker

END_S = 30.0
"""Seconds that a worker may take to end: as long as an evaluation of a small model."""


class InlineExecutor(Executor):
    """Workers as threads; letters are handed over directly."""

    def __init__(self) -> None:
        super().__init__()
        self._posts: dict[str, Post] = {}
        self._commands: dict[str, queue.Queue[Command | None]] = {}
        self._threads: dict[str, threading.Thread] = {}

    def start(self, recipes: Sequence[Recipe]) -> None:
        for recipe in recipes:
            name = recipe.device.name
            self._posts[name] = Post(name, self._carry, recipe.patience_s)
            self._commands[name] = queue.Queue()
        for recipe in recipes:
            name = recipe.device.name
            self._threads[name] = threading.Thread(
                target=self._work, args=(recipe,), name=f"worker {name}", daemon=True
            )
            self._threads[name].start()

    def _carry(self, receiver: str, letter: Letter) -> None:
        if receiver in self._posts:
            self._posts[receiver].deliver(letter)

    def _work(self, recipe: Recipe) -> None:
        name = recipe.device.name
        # Kept here: a worker that was killed in the meantime is not found in the tables any more.
        commands, post = self._commands[name], self._posts[name]
        try:
            worker = Worker(recipe, post)
        except Exception as error:
            self.answers.put((name, Failed(f"{type(error).__name__}: {error}")))
            return
        self.answers.put((name, Done(None)))
        try:
            while (command := commands.get()) is not None:
                serve(worker, command, lambda answer: self.answers.put((name, answer)))
        finally:
            worker.close()

    def tell(self, device: str, command: Command) -> None:
        if device not in self._posts:
            self.answers.put((device, Lost("its worker was ended")))
        else:
            self._commands[device].put(command)

    def interrupt(self, device: str) -> None:
        if device in self._posts:
            self._posts[device].interrupt()

    def kill(self, device: str) -> None:
        # A thread cannot be ended from outside: nobody hears of it any more, and it ends after its evaluation.
        if device in self._posts:
            self._posts.pop(device).interrupt()
            self._commands[device].put(None)

    def close(self) -> None:
        for device in list(self._posts):
            self.kill(device)
        for thread in self._threads.values():
            thread.join(END_S)
