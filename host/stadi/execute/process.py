"""Workers as processes of this machine, connected by sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from socket import socket, socketpair

from brownout.cosim.descriptors import reserve_standard_descriptors

from .executor import Command, Executor, Lost
from .wire import HomeWire, TornError
from .worker import WorkerConfig

END_S = 10.0
"""Seconds until a process that was killed, or has closed its connection, has ended."""


class ProcessExecutor(Executor):
    """Each worker a process, connected to the coordinator and to every other one.

    A process ends when the coordinator does, however that ends.
    """

    def __init__(self) -> None:
        super().__init__()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._wires: dict[str, HomeWire] = {}
        self._readers: dict[str, threading.Thread] = {}
        self._gone: dict[str, str] = {}

    def start(self, worker_configs: Sequence[WorkerConfig]) -> None:
        names = [worker_config.device.name for worker_config in worker_configs]
        ends: dict[str, dict[str, socket]] = {name: {} for name in names}
        reserve_standard_descriptors()
        try:
            for index, first in enumerate(names):
                for second in names[index + 1 :]:
                    ends[first][second], ends[second][first] = socketpair()
            for name in names:
                self._start(name, ends[name])
        finally:
            # Only the processes may hold their ends: else nobody would notice that one is gone.
            for mine in ends.values():
                for end in mine.values():
                    end.close()
        for worker_config in worker_configs:
            self._wires[worker_config.device.name].send_worker_config(worker_config)

    def _start(self, name: str, ends: dict[str, socket]) -> None:
        here, there = socketpair()
        with there:
            self._wires[name] = wire = HomeWire(here, name)
            command = [sys.executable, "-m", "brownout.host.stadi.execute.child", str(there.fileno())]
            command += [f"{other}={end.fileno()}" for other, end in ends.items()]
            self._processes[name] = subprocess.Popen(
                command,
                pass_fds=[end.fileno() for end in (there, *ends.values())],
                stdin=subprocess.DEVNULL,
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
                # Interrupts from the keyboard are the coordinator's.
                start_new_session=True,
            )
        self._readers[name] = threading.Thread(target=self._read, args=(name, wire), name=f"reader {name}", daemon=True)
        self._readers[name].start()

    def _read(self, name: str, wire: HomeWire) -> None:
        while True:
            try:
                number, answer = wire.receive()
            except ConnectionError as error:
                how = str(error) if isinstance(error, TornError) else self._end_of(name)
                # First, so that commands after this answer are answered too.
                self._gone[name] = f"its process {how}"
                self.answers.put((name, None, Lost(self._gone[name])))
                return
            self.answers.put((name, number, answer))

    def _end_of(self, name: str) -> str:
        try:
            code = self._processes[name].wait(END_S)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        return f"ended with status {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def tell(self, device: str, number: int, command: Command) -> None:
        if device in self._gone:
            self.answers.put((device, None, Lost(self._gone[device])))
        self._wires[device].send((number, command))

    def interrupt(self, device: str, epoch: int) -> None:
        self._wires[device].send((epoch, None))

    def kill(self, device: str) -> None:
        self._processes[device].kill()
        self._wires[device].shut()

    def pid(self, device: str) -> int:
        """Process of a worker."""
        return self._processes[device].pid

    def close(self) -> None:
        for process in self._processes.values():
            # It has nothing to tidy up: simulators and their memory end with it.
            process.kill()
        for process in self._processes.values():
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                # In the hands of the system; it cannot run on.
                continue
        for name, wire in self._wires.items():
            wire.shut()
            if name in self._readers:
                self._readers[name].join(END_S)
            wire.close()
        self._processes.clear()
        self._wires.clear()
        self._readers.clear()
