"""Runs of a fleet for `tests.host.checkpoints.nursery`: each child has its workers as threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from ...checkpoints.nursery import RUNS, Draw, main
from .tiny import plan
from .trouble import STEPS, Case


@contextmanager
def fleet() -> Iterator[Draw]:
    """A displaced image of four devices."""
    case = Case()

    def draw(kept):
        first = plan([2, 1, 2, 1], strides=[1, 2, 1, 2], steps=STEPS)
        with case.place() as placed:
            got = case.generate(placed, first, checkpoint=kept)
        return got.latents, SimpleNamespace(stats={})

    yield draw


if __name__ == "__main__":
    RUNS["fleet"] = fleet
    main()
