"""The memory model from Python: its settings, and its C interface inside a simulator process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

from brownout.hw.config import MemoryConfig

_PROBABILITY_ONE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class StallConfig:
    """Random back-pressure of the memory: the chance, per cycle, that a channel makes the accelerator wait.

    Attributes
    ----------
    seed : int
        Seed of the stalls; the same seed gives the same stalls.
    aw, w, ar : float
        Chance that the channel's ready is low in a cycle, 0..1 (below 1).
    b, r : float
        Chance that a response or a read beat that could be presented is held back for a cycle.
    """

    seed: int = 0
    aw: float = 0.0
    w: float = 0.0
    b: float = 0.0
    ar: float = 0.0
    r: float = 0.0

    def __post_init__(self) -> None:
        for name in ("aw", "w", "b", "ar", "r"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"StallConfig.{name} must be at least 0 and less than 1, not {value!r}")

    def settings(self) -> dict[str, int]:
        """As settings of the memory model."""
        stalls = {f"stall_{n}": round(getattr(self, n) * _PROBABILITY_ONE) for n in ("aw", "w", "b", "ar", "r")}
        return {"seed": self.seed, **stalls}


def timing_settings(memory: MemoryConfig) -> dict[str, int]:
    """Timing and geometry of `memory` as settings of the memory model."""
    names = ("latency_cycles", "bytes_per_cycle", "read_queue", "write_queue", "banks", "row_bytes")
    return {name: getattr(memory, name) for name in names}


def settings_text(settings: dict[str, int | str | Path]) -> str:
    """Value of the environment variable BROWNOUT_DRAM."""
    return ",".join(f"{name}={value}" for name, value in settings.items())


class DramModel:
    """The memory model of this process.

    Parameters
    ----------
    library : ctypes.CDLL, optional
        Where its C functions are; by default the executable that runs this Python, a simulator.
    """

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self._library = ctypes.CDLL(None) if library is None else library
        self._library.brownout_dram_set.argtypes = (ctypes.c_char_p, ctypes.c_ulonglong)
        self._library.brownout_dram_get.argtypes = (ctypes.c_char_p, ctypes.POINTER(ctypes.c_ulonglong))
        self._library.brownout_axi_violation.restype = ctypes.c_char_p
        self._library.brownout_dram_memory.restype = ctypes.POINTER(ctypes.c_uint8)

    def set(self, name: str, value: int) -> None:
        """Set a parameter or a test knob; names are those of ``Dram::set`` in ``dram.cpp``.

        Raises
        ------
        KeyError
            There is none of that name.
        """
        if self._library.brownout_dram_set(name.encode(), value):
            raise KeyError(f"the memory model has no setting {name!r}")

    def get(self, name: str) -> int:
        """Read a parameter, ``size_bytes`` or a statistic.

        Statistics are ``row_activations``, ``read_beats``, ``write_beats`` and ``violations``.

        Raises
        ------
        KeyError
            There is none of that name.
        """
        value = ctypes.c_ulonglong()
        if self._library.brownout_dram_get(name.encode(), ctypes.byref(value)):
            raise KeyError(f"the memory model has no value {name!r}")
        return value.value

    def buffer(self) -> ctypes.Array[ctypes.c_uint8]:
        """All of the memory, shared with the model; ``numpy.frombuffer`` makes an array of it."""
        pointer = self._library.brownout_dram_memory()
        return ctypes.cast(pointer, ctypes.POINTER(ctypes.c_uint8 * self.get("size_bytes"))).contents

    def violation(self) -> str:
        """Text of the first AXI violation since `clear_violations`; empty if there is none."""
        return bytes(self._library.brownout_axi_violation()).decode()

    def clear_violations(self) -> None:
        """Forget AXI violations."""
        self._library.brownout_axi_clear()
