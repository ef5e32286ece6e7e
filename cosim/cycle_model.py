"""Exact prediction of the hardware counters, without RTL: see ``docs/cycle-model.md``."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

from brownout.hw.commands import COMMAND_BYTES, GemmCommand
from brownout.hw.config import BATCH_BITS, DIMENSION_BITS, K_LIMIT, AcceleratorConfig

from .build import build_cycle_model
from .simulator import ring_bytes

_NO_ROW = (1 << 64) - 1

_LIMITS = (
    ("batch", (1 << BATCH_BITS) - 1),
    ("m", (1 << DIMENSION_BITS) - 1),
    ("n", (1 << DIMENSION_BITS) - 1),
    ("k", K_LIMIT),
)
_ALIGNED = ("lda", "ldw", "ldy", "a_addr", "w_addr", "y_addr", "channel_addr")


class _Library:
    """The C functions of ``rtl/cycle_model/interface.cpp``, and readers of the attributes that they want."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        words = ctypes.POINTER(ctypes.c_uint64)
        library.brownout_cycles_fields.argtypes = (ctypes.c_char_p,)
        library.brownout_cycles_fields.restype = ctypes.c_char_p
        library.brownout_cycles_new.argtypes = (words, ctypes.c_int)
        library.brownout_cycles_new.restype = ctypes.c_void_p
        library.brownout_cycles_delete.argtypes = (ctypes.c_void_p,)
        word = ctypes.c_uint64
        library.brownout_cycles_run.argtypes = (ctypes.c_void_p, words, word, word, word, word, words)
        library.brownout_cycles_get_open_rows.argtypes = (ctypes.c_void_p, words)
        library.brownout_cycles_set_open_rows.argtypes = (ctypes.c_void_p, words)
        self.functions = library
        self.config_values = attrgetter(*self._fields("config"))
        self.command_values = attrgetter(*self._fields("command"))
        self.counter_names = self._fields("counters")

    def _fields(self, structure: str) -> tuple[str, ...]:
        names: bytes = self.functions.brownout_cycles_fields(structure.encode())
        return tuple(names.decode().split())


@functools.cache
def _load(path: Path) -> _Library:
    return _Library(path)


def _words(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(values))(*values)


class CycleModel:
    """Counts what `brownout.cosim.Simulator` with the same configuration would count, thousands of times faster.

    The counters are exactly those of the RTL for commands that succeed, without back-pressure of a `StallConfig`. What
    the past leaves behind is carried from call to call: the position in the command ring and the open rows of the DRAM.

    Parameters
    ----------
    config : AcceleratorConfig
        What to predict; its memory's size says where the command ring is, as in `Simulator`.
    step : bool
        Simulate every cycle of every command instead of skipping repetitions and remembering outcomes: a few times
        slower for one command and the same result, for tests.
    build_root : Path or str, optional
        See `brownout.cosim.cache.build_root`.

    Attributes
    ----------
    ring_base : int
        Address of the command ring.
    ring_entries : int
        Commands in it.
    ring_index : int
        Entry of the next command, ``0 .. ring_entries-1``; may be set.

    Raises
    ------
    BuildError
        There is no C++ compiler, or it failed.
    """

    def __init__(self, config: AcceleratorConfig, *, step: bool = False, build_root: Path | str | None = None) -> None:
        self.config = config
        size = config.memory.size_bytes
        self.ring_base = size - ring_bytes(size)
        self.ring_entries = ring_bytes(size) // COMMAND_BYTES
        self._step = step
        self._library = _load(build_cycle_model(build_root))
        self._functions = self._library.functions
        self._handle: int | None = None
        # Calls into the library run without Python's global lock.
        self._lock = threading.Lock()
        self.reset()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._functions.brownout_cycles_delete(self._handle)

    def reset(self) -> None:
        """Return to the state of a simulator that was just started: no row open, ring at its start, counters zero."""
        with self._lock:
            if self._handle is not None:
                self._functions.brownout_cycles_delete(self._handle)
            values = _words(self._library.config_values(self.config))
            self._handle = self._functions.brownout_cycles_new(values, self._step)
            self.ring_index = 0
            self._counts = [0] * len(self._library.counter_names)

    @property
    def open_rows(self) -> list[int | None]:
        """Row that is open in each bank of the DRAM (address divided by ``row_bytes``), None if none; may be set."""
        rows = (ctypes.c_uint64 * self.config.memory.banks)()
        self._functions.brownout_cycles_get_open_rows(self._handle, rows)
        return [None if row == _NO_ROW else row for row in rows]

    @open_rows.setter
    def open_rows(self, rows: Sequence[int | None]) -> None:
        if len(rows) != self.config.memory.banks:
            raise ValueError(f"open_rows must have {self.config.memory.banks} entries, one per bank, not {len(rows)}")
        words = _words([_NO_ROW if row is None else row for row in rows])
        self._functions.brownout_cycles_set_open_rows(self._handle, words)

    def run(self, commands: Sequence[GemmCommand]) -> dict[str, int]:
        """Count a list of commands, handed over with one doorbell per ring-full as `Simulator.run` does.

        Parameters
        ----------
        commands : sequence of GemmCommand
            Commands that the hardware accepts.

        Returns
        -------
        dict
            By the names of `Simulator.counters`, what these commands add: cycles, bytes, multiply-accumulates, row
            activations and commands.

        Raises
        ------
        ValueError
            An extent is out of range, or an address or stride is not bus-aligned. What else the hardware refuses
            (windows, reserved bits) is not looked at.
        """
        for command in commands:
            self._check(command)
        total = [0] * len(self._library.counter_names)
        at_once = self.ring_entries - 1  # a full ring would look like an empty one
        with self._lock:
            for start in range(0, len(commands), at_once):
                counts = self._run_ring(commands[start : start + at_once])
                total = [a + b for a, b in zip(total, counts, strict=True)]
            self._counts = [a + b for a, b in zip(self._counts, total, strict=True)]
        return dict(zip(self._library.counter_names, total, strict=True))

    def counters(self) -> dict[str, int]:
        """All counters since construction or `reset`; the names and values of `Simulator.counters`."""
        return dict(zip(self._library.counter_names, self._counts, strict=True))

    def _run_ring(self, commands: Sequence[GemmCommand]) -> list[int]:
        values = [value for command in commands for value in self._library.command_values(command)]
        counts = (ctypes.c_uint64 * len(self._library.counter_names))()
        self._functions.brownout_cycles_run(
            self._handle, _words(values), len(commands), self.ring_base, self.ring_entries, self.ring_index, counts
        )
        self.ring_index = (self.ring_index + len(commands)) % self.ring_entries
        return list(counts)

    def _check(self, command: GemmCommand) -> None:
        for name, most in _LIMITS:
            if not 1 <= (value := getattr(command, name)) <= most:
                raise ValueError(f"GemmCommand.{name} must be in 1..{most}, not {value}")
        for name in _ALIGNED:
            if (value := getattr(command, name)) % self.config.bus_bytes:
                raise ValueError(
                    f"GemmCommand.{name} must be a multiple of bus_bytes={self.config.bus_bytes}, not {value}"
                )
