"""Workers as processes of this machine, connected by sockets."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe

from .child import INTERRUPT, STOP
from .executor import Answer, Command, Executor, Lost
from .worker import Recipe

END_S = 10.0
"""Seconds that a process may take to end by itself."""


class ProcessExecutor(Executor):
    """Each worker a process, connected to the coordinator and to every other one.

    A process ends when the coordinator does, however that ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._connections: dict[str, Connection] = {}
        self._readers: list[threading.Thread] = []

    def start(self, recipes: Sequence[Recipe]) -> None:
        names = [recipe.device.name for recipe in recipes]
        ends: dict[str, dict[str, Connection]] = {name: {} for name in names}
        for index, first in enumerate(names):
            for second in names[index + 1 :]:
                ends[first][second], ends[second][first] = Pipe()
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
        for recipe in recipes:
            name = recipe.device.name
            here, there = Pipe()
            self._connections[name] = here
            command = [sys.executable, "-m", "brownout.host.stadi.runtime.child", str(there.fileno())]
            command += [f"{other}={end.fileno()}" for other, end in ends[name].items()]
            kept = [there, *ends[name].values()]
            self._processes[name] = subprocess.Popen(
                command, pass_fds=[end.fileno() for end in kept], stdin=subprocess.DEVNULL, env=environment
            )
            # Only the process itself may hold its ends: else nobody would notice that it is gone.
            for end in kept:
                end.close()
            reader = threading.Thread(target=self._read, args=(name, here), name=f"reader {name}", daemon=True)
            self._readers.append(reader)
            reader.start()
        for recipe in recipes:
            self._send(recipe.device.name, recipe)

    def _read(self, name: str, connection: Connection) -> None:
        while True:
            try:
                answer: Answer = pickle.loads(connection.recv_bytes())
            except (EOFError, OSError):
                code = self._processes[name].poll()
                self.answers.put((name, Lost(f"its process ended{'' if code is None else f' with status {code}'}")))
                return
            self.answers.put((name, answer))

    def _send(self, device: str, message: object) -> None:
        try:
            self._connections[device].send_bytes(pickle.dumps(message))
        except (OSError, ValueError):
            self.answers.put((device, Lost("its process has ended")))

    def tell(self, device: str, command: Command) -> None:
        self._send(device, command)

    def interrupt(self, device: str) -> None:
        self._send(device, INTERRUPT)

    def kill(self, device: str) -> None:
        process = self._processes[device]
        process.kill()
        process.wait(END_S)

    def pid(self, device: str) -> int:
        """Process of a worker."""
        return self._processes[device].pid

    def close(self) -> None:
        for name in self._processes:
            self._send(name, STOP)
        for process in self._processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_S)
        # Readers end with the processes, whose ends were the last ones.
        for reader in self._readers:
            reader.join(END_S)
        for connection in self._connections.values():
            connection.close()
        self._processes.clear()
