"""An AXI master in Python on the pins of the memory model, and the model's timing rules written down once more."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from brownout.cosim.dram import DramModel, settings_text

BUS_BYTES = 16


@dataclass(frozen=True)
class Address:
    """What the master drives on AW or AR."""

    address: int
    beats: int
    size: int = BUS_BYTES.bit_length() - 1
    burst: int = 1
    attributes: int = 0

    def info(self) -> int:
        return self.beats - 1 | self.size << 8 | self.burst << 11 | self.attributes << 14


@dataclass(frozen=True)
class WriteBeat:
    """What the master drives on W."""

    data: bytes
    last: bool
    strobe: int = (1 << BUS_BYTES) - 1


@dataclass(frozen=True)
class Outputs:
    """What the memory drives after an edge."""

    awready: bool
    wready: bool
    bvalid: bool
    bresp: int
    arready: bool
    rvalid: bool
    rlast: bool
    rresp: int
    active: bool
    rdata: bytes


class MemoryPort:
    """The memory model behind its DPI functions, one rising edge at a time."""

    def __init__(self, library: Path, **settings: int) -> None:
        self._library = ctypes.CDLL(str(library))
        os.environ["BROWNOUT_DRAM"] = settings_text(dict(settings))
        self._library.dram_open(BUS_BYTES)
        del os.environ["BROWNOUT_DRAM"]
        self._library.dram_cycle.argtypes = (
            *(ctypes.c_uint, ctypes.c_ulonglong, ctypes.c_uint, ctypes.c_ulonglong, ctypes.c_uint),
            *(ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int),
        )
        self._library.dram_cycle.restype = ctypes.c_uint
        self._rdata = ctypes.create_string_buffer(BUS_BYTES)
        self.model = DramModel(self._library)
        self.out = self.edge()

    def edge(
        self,
        aw: Address | None = None,
        w: WriteBeat | None = None,
        ar: Address | None = None,
        *,
        bready: bool = True,
        rready: bool = True,
    ) -> Outputs:
        nothing = Address(0, 1)
        controls = (
            (aw is not None)
            | (w is not None) << 1
            | (w is not None and w.last) << 2
            | bready << 3
            | (ar is not None) << 4
            | rready << 5
        )
        bits = self._library.dram_cycle(
            controls,
            *((aw or nothing).address, (aw or nothing).info()),
            *((ar or nothing).address, (ar or nothing).info()),
            w.data if w is not None else bytes(BUS_BYTES),
            (w.strobe if w is not None else 0).to_bytes(16, "little"),
            self._rdata,
            BUS_BYTES,
        )
        self.out = Outputs(
            *(bool(bits & 1), bool(bits >> 1 & 1), bool(bits >> 2 & 1), bits >> 3 & 3, bool(bits >> 6 & 1)),
            *(bool(bits >> 7 & 1), bool(bits >> 8 & 1), bits >> 9 & 3, bool(bits >> 12 & 1), self._rdata.raw),
        )
        return self.out


@dataclass
class TimingRules:
    """The rules in ``dram.h`` for one burst list each way, counting beats only: when is what performed.

    Tokens are whole bytes where the bandwidth is, as ``dram.h`` says that they may be; else multiples of 2^-16 byte.
    """

    latency_cycles: int
    bytes_per_cycle: Fraction | int
    read_queue: int
    write_queue: int
    edge: int = -1
    tokens: Fraction | int = 0
    read_last: bool = False
    reads: deque[list[int]] = field(default_factory=deque)  # [ready at, beats left]
    writes: deque[int] = field(default_factory=deque)  # beats left
    responses: deque[int] = field(default_factory=deque)  # ready at
    buffered: int = 0
    r_full: bool = False
    b_full: bool = False
    arready: bool = False
    awready: bool = False
    wready: bool = False

    def step(self, aw_beats: int, wvalid: bool, ar_beats: int, bready: bool, rready: bool) -> None:
        self.edge += 1
        if ar_beats and self.arready:
            self.reads.append([self.edge + self.latency_cycles, ar_beats])
        if aw_beats and self.awready:
            self.writes.append(aw_beats)
        self.buffered += wvalid and self.wready
        self.r_full &= not rready
        self.b_full &= not bready
        unit = Fraction(1) if self.bytes_per_cycle == int(self.bytes_per_cycle) else Fraction(1, 1 << 16)
        self.tokens = min(self.tokens, BUS_BYTES - unit) + self.bytes_per_cycle
        for read in (True, False) if not self.read_last else (False, True):
            can_read = not self.r_full and self.reads and self.reads[0][0] <= self.edge
            can_write = self.buffered and self.writes
            if self.tokens >= BUS_BYTES and (can_read if read else can_write):
                self.tokens -= BUS_BYTES
                self.read_last = read
                self._perform(read)
        if not self.b_full and self.responses and self.responses[0] <= self.edge:
            self.responses.popleft()
            self.b_full = True
        self.arready = len(self.reads) < self.read_queue
        self.awready = len(self.writes) < self.write_queue
        self.wready = self.buffered < 16

    def _perform(self, read: bool) -> None:
        if read:
            self.r_full = True
            self.reads[0][1] -= 1
            if not self.reads[0][1]:
                self.reads.popleft()
        else:
            self.buffered -= 1
            self.writes[0] -= 1
            if not self.writes[0]:
                self.writes.popleft()
                self.responses.append(self.edge + self.latency_cycles)
