"""A stand-in for the simulator: executes GEMM commands in numpy, with 64-bit arithmetic of its own."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from brownout.cosim.reference import reference_gemm
from brownout.cosim.reference.golden import ChannelTable
from brownout.hw.commands import COMMAND_BYTES, COMMAND_FIELDS, GemmFlag, Opcode, output_item_bytes
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState, check_columns
from brownout.hw.registers import COUNTERS

CHECK_COUNTERS = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")

RING_BYTES = 4096


class FakeDiedError(Exception):
    """The fake was told to die."""


def golden_gemm(a, w, bias=None, mult=None, shift=None, bits=8):
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
    limit = 2 ** (bits - 1)
    return np.clip(np.array(scaled, dtype=object), -limit, limit - 1).astype(f"int{bits}").reshape(total.shape)


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
        if self.config.checksum is not None:
            self._counts |= dict.fromkeys(CHECK_COUNTERS, 0)
        if self.config.razor:
            self._counts["dropped"] = 0
        self.errors = ErrorState()
        self.memory_settings: dict[str, int] = {}

    def restart(self) -> None:
        # Fails while the host still holds the old mapping, as a real unmapping would.
        self.memory.close()
        self.dead = False
        self._start()

    def close(self) -> None:
        self.memory.close()
        self.closed = True

    def counters(self, names: Collection[str] | None = None) -> dict[str, int]:
        return {name: value for name, value in self._counts.items() if names is None or name in names}

    def set_memory(self, settings: Mapping[str, int]) -> None:
        self.memory_settings |= settings

    def run(self, commands: Sequence[bytes], *, deadline_s: float | None = None) -> None:
        for command in commands:
            if self.dead:
                raise FakeDiedError("killed")
            assert len(command) == COMMAND_BYTES
            specs = COMMAND_FIELDS[Opcode(command[0])]
            f = {f.name: int.from_bytes(command[f.offset : f.offset + f.bits // 8], "little") for f in specs}
            {
                Opcode.GEMM: self._gemm,
                Opcode.COPY: self._copy,
                Opcode.SET_ERRORS: self._set_errors,
                Opcode.SET_POINT: self._set_point,
            }[Opcode(command[0])](f)

    def _set_errors(self, f: dict[str, int]) -> None:
        assert self.config.timing_model == "flip"
        rates = tuple(f[f"rate_{i}"] for i in range(8))
        assert not any(rates[self.config.operating_points :])
        self.errors.seed, self.errors.rates = f["seed"], rates
        self.errors.bits = tuple(f[f"bit_{i}"] for i in range(30))

    def _set_point(self, f: dict[str, int]) -> None:
        assert f["domain"] < self.config.voltage_domains + (self.config.checksum is not None)
        assert f["point"] < self.config.operating_points
        lengths = None
        if self.config.timing_model == "carry":
            window = (f["read_base"], f["read_limit"])
            columns = self.config.cols + check_columns(self.config)
            table = self._matrix("u1", f["lengths_addr"], self.config.rows, columns, f["lengths_stride"], window)
            lengths = table.copy()
        else:
            assert not f["lengths_addr"]
        self.errors.move(self.config, f["domain"], f["point"], lengths)

    def _matrix(self, dtype, address, rows, columns, stride, window, *, aligned=True):
        size = np.dtype(dtype).itemsize
        assert address % self.config.bus_bytes == 0
        assert stride % self.config.bus_bytes == 0 or not aligned
        assert window[0] <= address
        assert address + (rows - 1) * stride + columns * size <= window[1]
        return np.ndarray((rows, columns), dtype, self.memory, address, (stride, size))

    def _copy(self, f: dict[str, int]) -> None:
        assert self.config.checksum is not None
        assert f["source_addr"] % 4096 == f["target_addr"] % 4096 == 0
        read, write = (f["read_base"], f["read_limit"]), (f["write_base"], f["write_limit"])
        assert read[1] <= write[0]
        assert write[1] <= self.usable_bytes
        assert read[0] <= f["source_addr"] <= f["source_addr"] + f["size"] <= f["list_addr"]
        assert write[0] == f["target_addr"]
        assert f["target_addr"] + f["size"] <= write[1]
        for offset, length in self._matrix("<u4", f["list_addr"], f["runs"], 2, 8, read, aligned=False).tolist():
            assert length
            assert offset + length <= f["size"]
            source, target = f["source_addr"] + offset, f["target_addr"] + offset
            self.memory[target : target + length] = self.memory[source : source + length]
        self._counts["commands"] += 1

    def _gemm(self, f: dict[str, int]) -> None:
        self.commands.append(f)
        read, write = (f["read_base"], f["read_limit"]), (f["write_base"], f["write_limit"])
        assert write[1] <= self.usable_bytes
        assert read[1] <= write[0], "the windows must not overlap"
        rows = f["batch"] * f["m"]
        log = -(-f["log_bytes"] // self.config.bus_bytes) * self.config.bus_bytes
        assert write[1] - write[0] == rows * f["ldy"] + log, "the write window is log and output buffer and no more"
        assert f["log_addr"] == (write[0] if log else 0)
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
            y = self._matrix(f"<i{output_item_bytes(f['flags'])}", y_addr, f["m"], f["n"], f["ldy"], write)
            if self.config.timing_model != "none" or f["flags"] & GemmFlag.CHECK:
                self._protected(f, a, w, y, records, index)
                continue
            y[:] = golden_gemm(
                a,
                w,
                None if records is None else records[:, 0],
                records[:, 1] if requant else None,
                records[:, 2] if requant else None,
                16 if f["flags"] & GemmFlag.INT16 else 8,
            )
        self._counts["commands"] += 1
        self._counts["macs"] += rows * f["n"] * f["k"]
        self._counts["cycles"] += 1000

    def _protected(self, f, a, w, y, records, index):
        """One product of a batch, by the reference; the log goes on where that of the product before ended."""
        at, room = (f["log_addr"], f["log_bytes"]) if index == 0 else self._log_left
        channels = None
        if records is not None:
            channels = ChannelTable(records[:, 0], records[:, 1].astype(np.int64), records[:, 2].astype(np.int64))
        result = reference_gemm(
            self.config,
            a,
            w,
            options=CommandOptions(
                flags=GemmFlag(f["flags"]),
                error_key=f["error_key"],
                first_row=(f["first_row"] + index * f["m"]) % (1 << 32),
                first_col=f["first_col"],
                theta=f["theta"],
                log_bytes=room,
            ),
            errors=self.errors,
            channels=channels,
            requantise=bool(f["flags"] & GemmFlag.REQUANT),
            bits=16 if f["flags"] & GemmFlag.INT16 else 8,
            previous=y[None].copy(),
        )
        y[:] = result.output[0]
        self.memory[at : at + len(result.log)] = result.log
        assert len(result.log) % self.config.log_record_bytes == 0
        self._log_left = at + len(result.log), room - len(result.log)
        for name in result.counters.keys() & self._counts.keys():
            self._counts[name] += result.counters[name]
