"""Simulators and memory shared by the tests of the co-simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from brownout.cosim import Simulator

from ..configurations import plain


def memory_array(simulator: Simulator) -> NDArray[np.uint8]:
    return np.frombuffer(simulator.memory, np.uint8)


@pytest.fixture(scope="module")
def open_simulator() -> Iterator[Callable[[int, int], Simulator]]:
    """Simulators by array size, each started once for a test module."""
    opened: dict[tuple[int, int], Simulator] = {}

    def get(rows: int, cols: int) -> Simulator:
        if (rows, cols) not in opened:
            opened[rows, cols] = Simulator(plain(rows, cols), deadline_s=60)
        return opened[rows, cols]

    yield get
    for simulator in opened.values():
        simulator.close()
