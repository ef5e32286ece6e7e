"""Workers of a fleet in a process that was forked from the one that started them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from brownout.host import ForkedProcessError
from brownout.host.stadi.execute.executor import Done, Executor, Held
from brownout.host.stadi.execute.worker_group import WorkerGroup

from ....forks import in_a_child


class Noted(Executor):
    """Carries out everything at once, and notes it."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def start(self, worker_configs):
        for worker_config in worker_configs:
            self.answers.put((worker_config.device.name, 0, Done(None)))

    def tell(self, device, number, command):
        self.seen.append(command)
        self.answers.put((device, number, Done(command.step)))

    def interrupt(self, device, epoch):
        self.seen.append("interrupt")

    def kill(self, device):
        self.seen.append("kill")

    def close(self):
        self.seen.append("close")


def test_a_forked_process_neither_asks_nor_ends_the_workers_of_its_parent():
    executor = Noted()
    worker_configs = [SimpleNamespace(device=SimpleNamespace(name=name)) for name in ("one", "two")]
    workers = WorkerGroup(executor, worker_configs, patience_s=10)
    message = rf"^this fleet was opened in process {os.getpid()} .*; place the denoiser on a Fleet in this process$"

    def child():
        for call in (workers.check, lambda: workers.ask({"one": Held(3)})):
            with pytest.raises(ForkedProcessError, match=message):
                call()
        workers.close()
        return workers.alive, executor.seen

    assert in_a_child(child) == (["one", "two"], [])
    assert workers.ask({"one": Held(3), "two": Held(4)}) == {"one": Done(3), "two": Done(4)}
    workers.close()
    assert executor.seen[-1] == "close"
