"""Simulators and memory shared by the tests of the co-simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from brownout.cosim import Simulator
from brownout.hw.config import AcceleratorConfig, MemoryConfig

SMALL_MEMORY = MemoryConfig(size_bytes=1 << 22)


BUS_BYTES = {(1, 1): 4, (3, 5): 64}
"""Arrays that are tested with another bus than the default one; each further configuration is a further build."""


def small_config(rows: int, cols: int) -> AcceleratorConfig:
    return AcceleratorConfig(rows=rows, cols=cols, bus_bytes=BUS_BYTES.get((rows, cols), 16), memory=SMALL_MEMORY)


def memory_array(simulator: Simulator) -> NDArray[np.uint8]:
    return np.frombuffer(simulator.memory, np.uint8)


@pytest.fixture(scope="module")
def open_simulator() -> Iterator[Callable[[int, int], Simulator]]:
    """Simulators by array size, each started once for a test module."""
    opened: dict[tuple[int, int], Simulator] = {}

    def get(rows: int, cols: int) -> Simulator:
        if (rows, cols) not in opened:
            opened[rows, cols] = Simulator(small_config(rows, cols), deadline_s=60)
        return opened[rows, cols]

    yield get
    for simulator in opened.values():
        simulator.close()
