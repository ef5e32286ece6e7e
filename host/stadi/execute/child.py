"""A worker in a process of its own: ``python -m brownout.host.stadi.execute.child FD NAME=FD ...``.

The first number is the descriptor of the connection to the coordinator, the others are those to other workers. When the
coordinator is gone, so is this process.
"""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
from collections.abc import Sequence

import torch

from .executor import Answer, Command, Done, Failed, serve
from .mailbox import Envelope, Mailbox
from .wire import HomeWire, PeerWire
from .worker import Worker


def _read_envelopes(sender: str, wire: PeerWire, mailbox: Mailbox) -> None:
    try:
        while True:
            mailbox.deliver(wire.receive())
    except ConnectionError as error:
        mailbox.cut(sender, str(error))


def _read_commands(home: HomeWire, mailbox: Mailbox, commands: queue.SimpleQueue[tuple[int, Command]]) -> None:
    while True:
        try:
            number, command = home.receive()
        except ConnectionError:
            # At once, whatever is being evaluated; simulators end when their host does.
            os._exit(0)
        if command is None:
            mailbox.interrupt(number)
        else:
            commands.put((number, command))


def main(arguments: Sequence[str]) -> None:
    """Run a worker until the coordinator is gone."""
    home = HomeWire(socket.socket(fileno=int(arguments[0])), "coordinator")
    try:
        worker_config = home.receive_worker_config()
    except ConnectionError:
        return
    wires = {}
    for argument in arguments[1:]:
        name, _, descriptor = argument.rpartition("=")
        wires[name] = PeerWire(socket.socket(fileno=int(descriptor)), name)
    torch.set_num_threads(worker_config.threads)

    def carry(receiver: str, envelope: Envelope) -> None:
        wires[receiver].send(envelope)

    mailbox = Mailbox(worker_config.device.name, carry, worker_config.patience_s)
    commands: queue.SimpleQueue[tuple[int, Command]] = queue.SimpleQueue()
    for name, wire in wires.items():
        threading.Thread(target=_read_envelopes, args=(name, wire, mailbox), daemon=True).start()
    threading.Thread(target=_read_commands, args=(home, mailbox, commands), daemon=True).start()
    try:
        worker = Worker(worker_config, mailbox)
    except Exception as error:
        home.send((0, Failed(f"{type(error).__name__}: {error}")))
        # Until the coordinator has read why, and leaves.
        threading.Event().wait()
    home.send((0, Done(None)))
    while True:
        number, command = commands.get()

        def reply(answer: Answer, number: int = number) -> None:
            home.send((number, answer))

        serve(worker, command, reply)


if __name__ == "__main__":
    main(sys.argv[1:])
