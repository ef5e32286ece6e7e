"""Workers as Ray actors, on whatever machines a Ray cluster has.

A device of R x C multipliers is placed on a node that has one of the resource ``brownout:RxC`` left. Nodes are started
with what they have, as ``ray start --address=... --resources='{"brownout:16x16": 2}'``. Without a cluster (neither
``ray.init`` was called nor is ``RAY_ADDRESS`` set) one is started on this machine with what the fleet needs, and ended
with it.

Actors are handed bytes, names and numbers alone: commands and answers as `packing.to_bytes` has them, with tensors as
safetensors. What is pickled is the skeleton of the model, once, for actors that this process starts.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Sequence
from typing import Any

import ray
import ray.cloudpickle
import torch

from brownout.hw.config import AcceleratorConfig

from ...errors import FleetError
from ...storage.packing import from_bytes, to_bytes
from .executor import Answer, Command, Done, Executor, Failed, Lost, serve
from .mailbox import Again, Envelope, Key, Mailbox, Message
from .worker import Worker, WorkerConfig
from .worker_configs import PackedWorkerConfig, pack_worker_config, unpack_worker_config
from .worker_group import START_S

END_S = 10.0
"""Seconds until everybody has heard that an actor was killed."""


def resource_of(config: AcceleratorConfig) -> str:
    """The resource that a node must have for a device."""
    return f"brownout:{config.rows}x{config.cols}"


class RayWorker:
    """What an actor runs: a worker in a thread of its own, so that envelopes and interruptions come meanwhile."""

    def __init__(self, packed: PackedWorkerConfig) -> None:
        worker_config = unpack_worker_config(packed)
        self._peers: dict[str, Any] = {}
        self._commands: queue.SimpleQueue[tuple[int, Command]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._mailbox = Mailbox(worker_config.device.name, self._carry, worker_config.patience_s)
        torch.set_num_threads(worker_config.threads)
        threading.Thread(target=self._work, args=(worker_config,), daemon=True).start()

    def _carry(self, receiver: str, envelope: Envelope) -> None:
        # Nobody waits for the result; an actor that is gone is found out by others.
        if isinstance(envelope, Again):
            self._peers[receiver].deliver_again.remote(tuple(envelope.key), envelope.receiver)
        else:
            self._peers[receiver].deliver.remote(tuple(envelope.key), envelope.data, envelope.checksum)

    def _work(self, worker_config: WorkerConfig) -> None:
        try:
            worker = Worker(worker_config, self._mailbox)
        except Exception as error:
            self._answers.put(to_bytes((0, Failed(f"{type(error).__name__}: {error}"))))
            return
        self._answers.put(to_bytes((0, Done(None))))
        while True:
            number, command = self._commands.get()

            def reply(answer: Answer, number: int = number) -> None:
                self._answers.put(to_bytes((number, answer)))

            serve(worker, command, reply)

    def meet(self, peers: dict[str, Any]) -> int:
        """Know the other actors; returns the number of this one's process."""
        self._peers = peers
        return os.getpid()

    def tell(self, data: bytes) -> None:
        """Take a command, with its number."""
        self._commands.put(from_bytes(data, "a command"))

    def interrupt(self, epoch: int) -> None:
        """As `Mailbox.interrupt`."""
        self._mailbox.interrupt(epoch)

    def deliver(self, key: tuple[int, str, int, str], data: bytes, checksum: int) -> None:
        """As `Mailbox.deliver`, of a message."""
        self._mailbox.deliver(Message(Key(*key), data, checksum))

    def deliver_again(self, key: tuple[int, str, int, str], receiver: str) -> None:
        """As `Mailbox.deliver`, of a request."""
        self._mailbox.deliver(Again(Key(*key), receiver))

    def answer(self) -> bytes:
        """Wait for the next answer, with the number of its command."""
        return self._answers.get()


class RayExecutor(Executor):
    """Each worker an actor."""

    def __init__(self) -> None:
        super().__init__()
        self._actors: dict[str, Any] = {}
        self._readers: list[threading.Thread] = []
        self._gone: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        self._own_cluster = False

    def start(self, worker_configs: Sequence[WorkerConfig]) -> None:
        needed: dict[str, float] = {}
        for worker_config in worker_configs:
            name = resource_of(worker_config.device.config)
            needed[name] = needed.get(name, 0) + 1
        self._connect(needed)
        offered = ray.cluster_resources()
        for name, count in needed.items():
            if offered.get(name, 0) < count:
                raise FleetError(
                    f"the fleet needs {count:g} of the Ray resource {name!r}, but the cluster has "
                    f"{offered.get(name, 0):g}; start nodes with --resources='{{\"{name}\": {count:g}}}'"
                )
        for worker_config in worker_configs:
            # Answers are waited for, and envelopes must come meanwhile: each in threads of its own.
            actor = ray.remote(
                num_cpus=0,
                max_restarts=0,
                resources={resource_of(worker_config.device.config): 1},
                concurrency_groups={"answers": 1, "letters": 2},
            )(_grouped())
            self._actors[worker_config.device.name] = actor.remote(
                pack_worker_config(worker_config, ray.cloudpickle.CloudPickler)
            )
        pids = {name: actor.meet.remote(self._others(name)) for name, actor in self._actors.items()}
        try:
            self._pids = {name: ray.get(pid, timeout=START_S) for name, pid in pids.items()}
        except ray.exceptions.GetTimeoutError as error:
            raise FleetError(f"Ray started no actor within {START_S:g} s; its nodes may be in use by others") from error
        for name, actor in self._actors.items():
            self._readers.append(threading.Thread(target=self._read, args=(name, actor), daemon=True))
            self._readers[-1].start()

    def _connect(self, needed: dict[str, float]) -> None:
        if ray.is_initialized():
            return
        if "RAY_ADDRESS" in os.environ:
            ray.init(log_to_driver=False)
        else:
            # Actors find this package as this process does.
            environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
            ray.init(
                address="local",
                resources=needed,
                include_dashboard=False,
                log_to_driver=False,
                runtime_env=environment,
            )
        self._own_cluster = True

    def _others(self, name: str) -> dict[str, Any]:
        return {other: actor for other, actor in self._actors.items() if other != name}

    def _read(self, name: str, actor: Any) -> None:
        while True:
            try:
                number, answer = from_bytes(ray.get(actor.answer.remote()), "its answer")
            except Exception as error:
                self._gone[name] = f"its actor ended: {str(error).splitlines()[0]}"
                self.answers.put((name, None, Lost(self._gone[name])))
                return
            self.answers.put((name, number, answer))

    def tell(self, device: str, number: int, command: Command) -> None:
        if device in self._gone:
            self.answers.put((device, None, Lost(self._gone[device])))
        else:
            self._actors[device].tell.remote(to_bytes((number, command)))

    def interrupt(self, device: str, epoch: int) -> None:
        self._actors[device].interrupt.remote(epoch)

    def kill(self, device: str) -> None:
        ray.kill(self._actors[device])

    def pid(self, device: str) -> int:
        """Process of a worker, on its machine."""
        return self._pids[device]

    def close(self) -> None:
        for device in self._actors:
            self.kill(device)
        for reader in self._readers:
            reader.join(END_S)
        self._actors.clear()
        if self._own_cluster:
            ray.shutdown()
            self._own_cluster = False


def _grouped() -> type[RayWorker]:
    """The actor's class, with the groups of threads that run its methods."""
    groups = {"answer": "answers", "deliver": "letters", "deliver_again": "letters", "interrupt": "letters"}
    methods = {name: ray.method(concurrency_group=group)(getattr(RayWorker, name)) for name, group in groups.items()}
    return type("BrownoutWorker", (RayWorker,), methods)
