"""A stand-in for the simulator: executes GEMM commands in numpy, with 64-bit arithmetic of its own."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np

from brownout.hw.commands import COMMAND_BYTES, GEMM_FIELDS, GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.registers import COUNTERS

RING_BYTES = 4096


class FakeDiedError(Exception):
    """The fake was told to die."""


def golden_gemm(a, w, bias=None, mult=None, shift=None):
    """int64 reference: wrap to 32 bits, then the published rounding rule, written out with floor division."""
    total = a.astype(np.int64) @ w.astype(np.int64)
    if bias is not None:
        total = total + bias.astype(np.int64)
    total = (total + 2**31) % 2**32 - 2**31
    if mult is None:
        return total.astype(np.int32)
    scaled = [
        [(int(value) * int(m) + 2 ** (int(s) - 1)) // 2 ** int(s) for value, m, s in zip(row, mult, shift, strict=True)]
        for row in total.reshape(-1, total.shape[-1])
    ]
    return np.clip(np.array(scaled, dtype=object), -128, 127).astype(np.int8).reshape(total.shape)


class FakeSimulator:
    """The part of `brownout.cosim.simulator.Simulator` that the RTL backend uses.

    Memory starts full of 0xAA, and everything outside a command's windows is checked to stay out of use.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.commands: list[dict[str, int]] = []
        self.dead = False
        self.closed = False
        self._start()

    def _start(self) -> None:
        self.memory = mmap.mmap(-1, self.config.memory.size_bytes)
        self.memory[:] = b"\xaa" * len(self.memory)
        self.usable_bytes = self.config.memory.size_bytes - RING_BYTES
        self._counts = dict.fromkeys([counter.name for counter in COUNTERS], 0)

    def restart(self) -> None:
        # Fails while the host still holds the old mapping, as a real unmapping would.
        self.memory.close()
        self.dead = False
        self._start()

    def close(self) -> None:
        self.memory.close()
        self.closed = True

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    def run(self, commands: Sequence[bytes], *, deadline_s: float | None = None) -> None:
        for command in commands:
            if self.dead:
                raise FakeDiedError("killed")
            assert len(command) == COMMAND_BYTES
            self._gemm(
                {f.name: int.from_bytes(command[f.offset : f.offset + f.bits // 8], "little") for f in GEMM_FIELDS}
            )

    def _matrix(self, dtype, address, rows, columns, stride, window):
        size = np.dtype(dtype).itemsize
        assert address % self.config.bus_bytes == 0
        assert stride % self.config.bus_bytes == 0
        assert window[0] <= address
        assert address + (rows - 1) * stride + columns * size <= window[1]
        return np.ndarray((rows, columns), dtype, self.memory, address, (stride, size))

    def _gemm(self, f: dict[str, int]) -> None:
        self.commands.append(f)
        read, write = (f["read_base"], f["read_limit"]), (f["write_base"], f["write_limit"])
        assert write[1] <= self.usable_bytes
        assert read[1] <= write[0], "the windows must not overlap"
        rows = f["batch"] * f["m"]
        assert write[1] - write[0] == rows * f["ldy"], "the write window is the output buffer and no more"
        records = None
        if f["flags"] & GemmFlag.CHANNEL:
            records = self._matrix("<i4", f["channel_addr"], f["n"], 4, 16, read).copy()
            assert ((records[:, 2] >= 1) & (records[:, 2] <= 62)).all()
            assert not records[:, 3].any()
        requant = bool(f["flags"] & GemmFlag.REQUANT)
        for index in range(f["batch"]):
            a = self._matrix("i1", f["a_addr"] + index * f["a_batch_stride"], f["m"], f["k"], f["lda"], read)
            w = self._matrix("i1", f["w_addr"] + index * f["w_batch_stride"], f["k"], f["n"], f["ldw"], read)
            y_addr = f["y_addr"] + index * f["y_batch_stride"]
            y = self._matrix("i1" if requant else "<i4", y_addr, f["m"], f["n"], f["ldy"], write)
            y[:] = golden_gemm(
                a,
                w,
                None if records is None else records[:, 0],
                records[:, 1] if requant else None,
                records[:, 2] if requant else None,
            )
        self._counts["commands"] += 1
        self._counts["macs"] += rows * f["n"] * f["k"]
        self._counts["cycles"] += 1000
