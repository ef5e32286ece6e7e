"""Exact prediction of the hardware counters, without RTL: see ``docs/cycle-model.md``."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.attention.depths import exponential_latency, scale_latency
from brownout.hw.commands import (
    COMMAND_BYTES,
    AttentionCommand,
    CopyCommand,
    GemmCommand,
    GemmFlag,
    PlainCommand,
    SetErrorsCommand,
    SetPointCommand,
)
from brownout.hw.config import (
    BATCH_BITS,
    DIMENSION_BITS,
    K_LIMIT,
    MAX_OPERATING_POINTS,
    MAX_VOLTAGE_DOMAINS,
    AcceleratorConfig,
    MemoryConfig,
)
from brownout.hw.cpp_struct import layout_digest
from brownout.hw.depths import BURST_BOUNDARY_BYTES
from brownout.hw.registers import CHECK_COUNTERS, counters

from ..dram import MemoryTiming
from ..libraries import load_library
from ..simulator import ring_bytes
from .build import build_cycle_model
from .structs import STRUCTURES, CommandWords, ConfigWords, CounterWords, FoundWords

_NO_ROW = (1 << 64) - 1

_LIMITS = (
    ("batch", (1 << BATCH_BITS) - 1),
    ("m", (1 << DIMENSION_BITS) - 1),
    ("n", (1 << DIMENSION_BITS) - 1),
    ("k", K_LIMIT),
)
_ALIGNED = ("lda", "ldw", "ldy", "a_addr", "w_addr", "y_addr", "channel_addr")
_DOMAIN_POINTS = tuple((d, p) for d in range(MAX_VOLTAGE_DOMAINS + 1) for p in range(MAX_OPERATING_POINTS))
"""All that there can be, in the order in which the library keeps their cycles."""

_COMMAND_NAMES, _COUNTER_NAMES = CommandWords.names(), CounterWords.names()

Command = GemmCommand | AttentionCommand | CopyCommand | SetErrorsCommand | SetPointCommand | PlainCommand


@dataclass(frozen=True)
class Found:
    """What the checks found in a product, as far as time and open rows of memory depend on it.

    Attributes
    ----------
    records : uint64 array
        Flagged segments of each block, in the order in which blocks are drained (product, row of blocks, column of
        blocks); empty: none anywhere.
    suppressed : uint64 array
        Elements that SUPPRESS kept from being written, ``(product * M + row) * N + column``, in any order.
    """

    records: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    suppressed: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))


@dataclass(frozen=True)
class Runs:
    """The list of a COPY.

    Attributes
    ----------
    places : uint32 array (runs, 2)
        Offset in the region and number of bytes of each.
    """

    places: NDArray[np.uint32]


def block_count(config: AcceleratorConfig, command: GemmCommand | AttentionCommand) -> int:
    """Blocks of all products, or of all heads, of a command."""
    if isinstance(command, AttentionCommand):
        return command.batch * -(-command.m // command.block_rows)
    tiles = -(-command.n // config.cols)
    rows = command.block_rows or config.block_rows
    return command.batch * -(-command.m // rows) * -(-tiles // config.block_col_tiles)


@functools.cache
def _load(path: Path) -> ctypes.CDLL:
    """The C functions of ``cosim/cycle_model/interface.cpp``."""
    library = load_library(path, layout_digest(STRUCTURES))
    model, word, words = ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)
    commands, found, counts = map(ctypes.POINTER, (CommandWords, FoundWords, CounterWords))
    library.brownout_cycles_new.argtypes = (ctypes.POINTER(ConfigWords), ctypes.c_int)
    library.brownout_cycles_new.restype = model
    library.brownout_cycles_delete.argtypes = (model,)
    library.brownout_cycles_set_memory_timing.argtypes = (model, word, word)
    library.brownout_cycles_run.argtypes = (model, commands, found, word, word, word, word, counts)
    library.brownout_cycles_get_points.argtypes = (model, words)
    library.brownout_cycles_get_open_rows.argtypes = (model, words)
    library.brownout_cycles_set_open_rows.argtypes = (model, words)
    return library


def _config_words(config: AcceleratorConfig) -> ConfigWords:
    checksum = config.checksum
    derived = {
        "checksum": int(checksum is not None),
        "group_rows": 1 if checksum is None else checksum.group_rows,
        "digits": 0 if checksum is None else checksum.digits,
        "exponential_latency": exponential_latency(config),
        "scale_latency": scale_latency(config),
        "lengths_columns": config.cols + len(config.check_columns) if config.error_model.settles else 0,
        "bandwidth": MemoryTiming.at_clock(config.memory).bandwidth,
    }
    of_memory = {spec.name for spec in dataclasses.fields(MemoryConfig)}
    values = ConfigWords()
    for name in ConfigWords.names():
        value = derived[name] if name in derived else getattr(config.memory if name in of_memory else config, name)
        setattr(values, name, int(value))
    return values


def _words(values: Sequence[int]) -> ctypes.Array[ctypes.c_uint64]:
    return (ctypes.c_uint64 * len(values))(*values)


class CycleModel:
    """Counts what `brownout.cosim.Simulator` with the same configuration would count, thousands of times faster.

    The counters are exactly those of the RTL for commands that succeed, without back-pressure of a `StallConfig`. What
    the past leaves behind is carried from call to call: the position in the command ring, the open rows of the DRAM and
    the operating points. The counters of what checks find and Razor elements drop are left out (`CHECK_COUNTERS` and
    `RAZOR_COUNTERS` of `brownout.hw.registers`).

    Parameters
    ----------
    config : AcceleratorConfig
        What to predict; its memory's size says where the command ring is, as in `Simulator`.
    step : bool
        Simulate every cycle of every command instead of skipping repetitions and remembering outcomes: a few times
        slower for one command and the same result, for tests.
    build_root : Path or str, optional
        Folder for everything built; by default as `brownout.cosim.cache.build_root` finds it.

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
        self._functions = _load(build_cycle_model(build_root))
        # Cycles at operating points are kept by the library in a table of all that there can be.
        names = ["transition_cycles", *(f"domain_{d}_point_{p}_cycles" for d, p in _DOMAIN_POINTS)]
        here = {counter.name for counter in counters(config)} - {counter.name for counter in CHECK_COUNTERS}
        self._point_names = {name: index for index, name in enumerate(names) if name in here}
        self.names = (*CounterWords.names(), *self._point_names)
        self._handle: int | None = None
        # Calls into the library run without Python's global lock.
        self._lock = threading.Lock()
        self.reset()

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._functions.brownout_cycles_delete(self._handle)

    def reset(self) -> None:
        """Return to the state of a simulator that was just started.

        No row is open, the ring is at its start, counters are zero, the memory has its timing at the nominal clock.
        """
        with self._lock:
            if self._handle is not None:
                self._functions.brownout_cycles_delete(self._handle)
            self._handle = self._functions.brownout_cycles_new(_config_words(self.config), self._step)
            self.ring_index = 0
            self._points = [0] * len(self._point_names)
            self._counts = [0] * len(self.names)

    def set_memory_timing(self, timing: MemoryTiming) -> None:
        """Change latency and bandwidth of the memory for the commands to come, as `Simulator.set_memory` does."""
        with self._lock:
            self._functions.brownout_cycles_set_memory_timing(self._handle, timing.latency_cycles, timing.bandwidth)

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

    def run(self, commands: Sequence[Command], found: Sequence[Found | Runs | None] | None = None) -> dict[str, int]:
        """Count a list of commands, handed over with one doorbell per ring-full as `Simulator.run` does.

        Parameters
        ----------
        commands : sequence of Command
            Commands that the hardware accepts.
        found : sequence of Found, Runs or None, optional
            What the checks find in the product of each command; None: nothing. The list of each `CopyCommand`.

        Returns
        -------
        dict
            By the names of `Simulator.counters`, what these commands add: cycles, bytes, multiply-accumulates, row
            activations and commands.

        Raises
        ------
        ValueError
            An extent is out of range, or an address or stride is not bus-aligned. What else the hardware refuses
            (windows, reserved bits) is not looked at. Or `found` does not fit the commands.
        """
        if found is None:
            found = [None] * len(commands)
        if len(found) != len(commands):
            raise ValueError(f"found must have one entry per command, {len(commands)}, not {len(found)}")
        for command, entry in zip(commands, found, strict=True):
            self._check(command, entry)
        total = [0] * len(self.names)
        at_once = self.ring_entries - 1  # a full ring would look like an empty one
        with self._lock:
            for start in range(0, len(commands), at_once):
                counts = self._run_ring(commands[start : start + at_once], found[start : start + at_once])
                total = [a + b for a, b in zip(total, counts, strict=True)]
            self._counts = [a + b for a, b in zip(self._counts, total, strict=True)]
        return dict(zip(self.names, total, strict=True))

    def counters(self) -> dict[str, int]:
        """All counters since construction or `reset`: those of `Simulator.counters`, less what depends on errors."""
        return dict(zip(self.names, self._counts, strict=True))

    def _run_ring(self, commands: Sequence[Command], found: Sequence[Found | Runs | None]) -> list[int]:
        told = (CommandWords * len(commands))(
            *(CommandWords(*(getattr(command, name, 0) for name in _COMMAND_NAMES)) for command in commands)
        )
        counts = CounterWords()
        words = None
        arrays: list[NDArray[Any]] = []  # alive during the call
        if any(entry is not None for entry in found):
            words = (FoundWords * len(commands))()
            for target, entry in zip(words, found, strict=True):
                if entry is None:
                    continue
                if isinstance(entry, Runs):
                    places = np.ascontiguousarray(entry.places, np.uint32)
                    arrays.append(places)
                    target.runs = places.ctypes.data
                    continue
                records, suppressed = (np.ascontiguousarray(x, np.uint64) for x in (entry.records, entry.suppressed))
                arrays += [records, suppressed]
                target.records, target.blocks = records.ctypes.data, len(records)
                target.suppressed, target.suppressed_count = suppressed.ctypes.data, len(suppressed)
        ring = (self.ring_base, self.ring_entries, self.ring_index)
        self._functions.brownout_cycles_run(self._handle, told, words, len(commands), *ring, counts)
        self.ring_index = (self.ring_index + len(commands)) % self.ring_entries
        return [*(getattr(counts, name) for name in _COUNTER_NAMES), *self._new_points()]

    def _new_points(self) -> list[int]:
        """What the last commands add to the cycles in transition and at operating points."""
        if not self._point_names:
            return []
        table = (ctypes.c_uint64 * (1 + len(_DOMAIN_POINTS)))()
        self._functions.brownout_cycles_get_points(self._handle, table)
        before, self._points = self._points, [table[index] for index in self._point_names.values()]
        return [after - earlier for after, earlier in zip(self._points, before, strict=True)]

    def _check(self, command: Command, found: Found | Runs | None) -> None:
        if isinstance(command, SetPointCommand):
            self._check_point(command)
        if isinstance(command, CopyCommand):
            self._check_copy(command, found)
            return
        if not isinstance(command, GemmCommand | AttentionCommand):
            if found is not None:
                raise ValueError(f"found must be None for {type(command).__name__}, which checks nothing")
            return
        self._check_product(command)
        if isinstance(found, Runs):
            raise ValueError(f"found must be a Found or None for {type(command).__name__}, not Runs")
        if found is not None and len(found.records) not in (0, count := block_count(self.config, command)):
            raise ValueError(f"Found.records must have {count} entries, one per block, not {len(found.records)}")
        if found is not None and len(found.suppressed):
            elements = command.batch * command.m * command.n
            if (largest := int(found.suppressed.max())) >= elements:
                raise ValueError(f"Found.suppressed must be below {elements}, the number of elements, not {largest}")

    def _most_block_rows(self, keys: int) -> int:
        config = self.config
        return min(config.block_rows, config.block_rows * config.block_col_tiles // max(1, -(-keys // config.cols)))

    def _check_copy(self, command: CopyCommand, found: Found | Runs | None) -> None:
        if self.config.checksum is None:
            raise ValueError("CopyCommand needs an AcceleratorConfig with checksum units")
        if not isinstance(found, Runs) or found.places.shape != (command.runs, 2) or not command.runs:
            raise ValueError(f"found must be Runs with places of shape ({command.runs}, 2) for CopyCommand")
        for name in ("source_addr", "target_addr"):
            if (value := getattr(command, name)) % BURST_BOUNDARY_BYTES:
                raise ValueError(f"CopyCommand.{name} must be a multiple of {BURST_BOUNDARY_BYTES}, not {value}")
        offset, size = found.places[:, 0].astype(np.uint64), found.places[:, 1].astype(np.uint64)
        bad = np.nonzero((size == 0) | (offset + size > command.size))[0]
        if len(bad):
            run = found.places[bad[0]].tolist()
            raise ValueError(f"Runs.places[{bad[0]}] must be a run inside {command.size} bytes, not {run}")

    def _check_point(self, command: SetPointCommand) -> None:
        config = self.config
        limits = {"domain": config.domains, "point": config.operating_points}
        for name, limit in limits.items():
            if not 0 <= (value := getattr(command, name)) < limit:
                raise ValueError(f"SetPointCommand.{name} must be in 0..{limit - 1}, not {value}")

    def _check_blocks(self, command: GemmCommand) -> None:
        config, keep = self.config, bool(command.flags & GemmFlag.KEEP_ACTIVATIONS)
        if (keep or command.block_rows) and not config.keeps_activations:
            raise ValueError("KEEP_ACTIVATIONS and block_rows need an AcceleratorConfig with activation_vectors")
        if command.block_rows > config.block_rows:
            raise ValueError(f"GemmCommand.block_rows must be in 0..{config.block_rows}, not {command.block_rows}")
        rows = min(command.m, command.block_rows or config.block_rows)
        if keep and (vectors := rows * -(-command.k // config.rows)) > config.activation_vectors:
            raise ValueError(
                f"a row of blocks of GemmCommand must fit activation_vectors={config.activation_vectors}, not {vectors}"
            )

    def _check_product(self, command: GemmCommand | AttentionCommand) -> None:
        kind, limits, aligned = type(command).__name__, list(_LIMITS), list(_ALIGNED)
        if isinstance(command, AttentionCommand):
            if not self.config.attention:
                raise ValueError("AttentionCommand needs an AcceleratorConfig with attention=True")
            limits += [("keys", K_LIMIT), ("block_rows", self._most_block_rows(command.keys))]
            aligned = [*_ALIGNED[:-1], "v_addr", "ldv"]
        else:
            self._check_blocks(command)
        for name, most in limits:
            if not 1 <= (value := getattr(command, name)) <= most:
                raise ValueError(f"{kind}.{name} must be in 1..{most}, not {value}")
        for name in aligned:
            if (value := getattr(command, name)) % self.config.bus_bytes:
                raise ValueError(f"{kind}.{name} must be a multiple of bus_bytes={self.config.bus_bytes}, not {value}")
