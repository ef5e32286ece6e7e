"""The memory model from Python: its settings, and its C interface inside a simulator process."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Self

from brownout.hw.config import MemoryConfig
from brownout.hw.depths import BANDWIDTH_FRACTION_BITS, STALL_PROBABILITY_BITS

_PROBABILITY_ONE = 1 << STALL_PROBABILITY_BITS

BANDWIDTH_ONE = 1 << BANDWIDTH_FRACTION_BITS
"""One byte per cycle, in the units of the memory model's bandwidth."""

MOST_BANDWIDTH = 1024 * BANDWIDTH_ONE
"""More than this is taken for this, four times what the widest bus can use: 128 bytes each way in every cycle."""

MOST_LATENCY_CYCLES = (1 << 31) - 1


@dataclass(frozen=True)
class MemoryTiming:
    """What the memory does in a cycle of the accelerator's clock; its nanoseconds do not depend on that clock.

    Attributes
    ----------
    latency_cycles : int
        Latency of a read in cycles (`MemoryConfig`), 1 to 2^31 - 1.
    bandwidth : int
        Bytes per cycle times 2^16, 1 to 2^26.
    """

    latency_cycles: int
    bandwidth: int

    def __post_init__(self) -> None:
        limits = {"latency_cycles": MOST_LATENCY_CYCLES, "bandwidth": MOST_BANDWIDTH}
        for name, most in limits.items():
            if not 1 <= (value := getattr(self, name)) <= most:
                raise ValueError(f"MemoryTiming.{name} must be in 1..{most}, not {value}")

    @classmethod
    def at_clock(cls, memory: MemoryConfig, clock: Fraction | int = 1) -> Self:
        """Timing of `memory` at a clock.

        The latency is rounded up to whole cycles, the bandwidth to the nearest 2^-16 byte per cycle (ties to even).

        Parameters
        ----------
        memory : MemoryConfig
            Timing at the nominal clock.
        clock : Fraction or int
            Frequency over the nominal one.

        Raises
        ------
        ValueError
            So little would be left of a cycle's bandwidth, or so many cycles of latency be needed, that it cannot be
            represented.
        """
        if not clock > 0:
            raise ValueError(f"clock must be positive, not {clock}; raise the frequency")
        latency = -(-memory.latency_cycles * clock // 1)
        bandwidth = min(round(memory.bytes_per_cycle * BANDWIDTH_ONE / Fraction(clock)), MOST_BANDWIDTH)
        if bandwidth < 1 or latency > MOST_LATENCY_CYCLES:
            raise ValueError(
                f"at {float(clock):g} times the nominal clock the memory would have a latency of {latency} cycles and "
                f"{float(memory.bytes_per_cycle / Fraction(clock)):g} bytes per cycle, but it must be at most "
                f"{MOST_LATENCY_CYCLES} cycles and at least 2^-16 bytes per cycle; lower the frequency"
            )
        return cls(int(latency), bandwidth)

    def settings(self) -> dict[str, int]:
        """As settings of the memory model."""
        return {"latency_cycles": self.latency_cycles, "bandwidth": self.bandwidth}


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
    """Timing at the nominal clock and geometry of `memory`, as settings of the memory model."""
    names = ("read_queue", "write_queue", "banks", "row_bytes")
    return {**MemoryTiming.at_clock(memory).settings(), **{name: getattr(memory, name) for name in names}}


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
