"""A worker in a process of its own: ``python -m brownout.host.stadi.runtime.child FD NAME=FD ...``.

The first number is the descriptor of the connection to the coordinator, the others are those to other workers. When the
coordinator is gone, so is this process.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from .executor import Answer, Command, Done, Failed, serve
from .post import Letter, Post
from .worker import Recipe, Worker

INTERRUPT, STOP = "interrupt", "stop"
"""What the coordinator sends beside commands."""


class Wire:
    """A connection that is written to by a thread: whoever sends does not wait for the receiver."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._letters: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while True:
            letter = self._letters.get()
            try:
                self.connection.send_bytes(pickle.dumps(letter))
            except OSError:
                # The other end is gone; whoever waits for it has a deadline.
                return

    def send(self, letter: Any) -> None:
        """Hand over."""
        self._letters.put(letter)


def _read_letters(connection: Connection, post: Post) -> None:
    while True:
        try:
            letter: Letter = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        post.deliver(letter)


def _read_commands(connection: Connection, post: Post, commands: queue.SimpleQueue[Command]) -> None:
    while True:
        try:
            command = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            command = STOP
        if command == STOP:
            # At once, whatever is being evaluated; simulators end when their host does.
            os._exit(0)
        if command == INTERRUPT:
            post.interrupt()
        else:
            commands.put(command)


def main(arguments: Sequence[str]) -> None:
    """Run a worker until the coordinator is gone."""
    home = Connection(int(arguments[0]))
    peers = {}
    for argument in arguments[1:]:
        name, _, descriptor = argument.rpartition("=")
        peers[name] = Connection(int(descriptor))
    recipe: Recipe = pickle.loads(home.recv_bytes())
    torch.set_num_threads(recipe.threads)
    wires = {name: Wire(connection) for name, connection in peers.items()}
    answers = Wire(home)

    def carry(receiver: str, letter: Letter) -> None:
        if receiver in wires:
            wires[receiver].send(letter)

    def reply(answer: Answer) -> None:
        answers.send(answer)

    post = Post(recipe.device.name, carry, recipe.patience_s)
    commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
    for connection in peers.values():
        threading.Thread(target=_read_letters, args=(connection, post), daemon=True).start()
    threading.Thread(target=_read_commands, args=(home, post, commands), daemon=True).start()
    try:
        worker = Worker(recipe, post)
    except Exception as error:
        reply(Failed(f"{type(error).__name__}: {error}"))
    else:
        reply(Done(None))
        while True:
            serve(worker, commands.get(), reply)
    # Until the coordinator has read why, and leaves.
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
