"""Work in a forked child that tells its parent how it went."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable


def in_a_child(work: Callable[[], object], seconds: float = 120) -> object:
    """What `work` returns, or the exception that it raises, in a forked child that then ends as processes do."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        try:
            sender.send(work())
        except BaseException as error:
            sender.send(error)

    process = context.Process(target=child)
    process.start()
    try:
        assert receiver.poll(seconds), "the child hangs"
        found = receiver.recv()
        process.join(seconds)
        assert process.exitcode == 0
        return found
    finally:
        process.kill()
        process.join()
