"""Products on the simulated RTL: operands in its DRAM, one GEMM command each."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.commands import (
    CHANNEL_RECORD_BYTES,
    LOG_RECORD_BYTES,
    GemmCommand,
    GemmFlag,
    SetErrorsCommand,
    SetPointCommand,
)
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import ideal_cycles

from ..operands import GemmShape, Product, ResidentWeights
from ..twin.geometry import geometry
from ..twin.protect import TRUTH
from .arena import Arena, round_up
from .base import Backend
from .twin import TwinBackend

if TYPE_CHECKING:
    from brownout.cosim.simulator import Simulator

SLOWEST_CYCLES_PER_S = 5_000
"""Simulation speed below which a command counts as hung; tens of times below the slowest seen with waves on."""

STRIDE_LIMIT = (1 << 32) - 1


class RtlBackend(Backend):
    """Runs each product as one command on a simulator process.

    Which of the results are wrong is not the hardware's to know: where sums can err, the twin computes every product
    too, and its counts of errors are reported beside the hardware's counters.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator that `start` simulates.
    start : callable
        Makes the simulator.
    deadline_s : float
        Wall-clock seconds that a command may take beside its share for simulated cycles.
    """

    name = "rtl"

    def __init__(self, config: AcceleratorConfig, start: Callable[[], Simulator], *, deadline_s: float) -> None:
        self.config = config
        self.deadline_s = deadline_s
        self._simulator = start()
        self._arena = Arena(self._simulator.usable_bytes)
        self._resident: weakref.WeakKeyDictionary[ResidentWeights, int] = weakref.WeakKeyDictionary()
        self._twin = TwinBackend(config)
        self._errors_set = False
        self._moves: dict[int, tuple[int, int, NDArray[np.uint8] | None]] = {}
        self._map()

    def _map(self) -> None:
        self._bytes = torch.frombuffer(self._simulator.memory, dtype=torch.int8)
        self._words = self._bytes.view(torch.int32)

    def check_device(self, name: str, device: torch.device) -> None:
        if device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU for backend='rtl', not on {device}; move it with .cpu()")

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        values = w.detach().clone(memory_format=torch.contiguous_format)
        batch = values if values.ndim == 3 else values.unsqueeze(0)
        region = self._arena.allocate(batch.shape[0] * batch.shape[1] * self._row_bytes(batch.shape[2]))
        weights = ResidentWeights(self, batch, tuple(w.shape))
        weakref.finalize(weights, self._arena.free, region).atexit = False
        self._resident[weights] = region[0]
        self._store(batch, region[0])
        return weights

    def gemm(self, product: Product) -> bytes:
        shape, options = product.shape, product.options
        bus = self.config.bus_bytes
        lda, ldw = self._row_bytes(shape.k), self._row_bytes(shape.n)
        ldy = self._row_bytes(shape.n * product.out.element_size())
        self._check_strides(shape, lda, ldw, ldy)
        channels = product.bias is not None or product.requant is not None
        resident = isinstance(product.w, ResidentWeights)

        # One region, cut into A, W unless resident, channel table, log, Y: what is written comes last, so that the read
        # window never overlaps the write window.
        a_bytes = shape.batch * shape.m * lda
        w_bytes = 0 if resident else shape.batch * shape.k * ldw
        channel_bytes = round_up(shape.n * CHANNEL_RECORD_BYTES, bus) if channels else 0
        y_bytes = shape.batch * shape.m * ldy
        log_bytes = self._log_bytes(product)
        log_room = round_up(log_bytes, bus)
        region = self._arena.allocate(a_bytes + w_bytes + channel_bytes + log_room + y_bytes, from_top=True)
        try:
            a_addr = region[0]
            self._store(product.a, a_addr)
            if isinstance(product.w, ResidentWeights):
                w_addr = self._resident[product.w]
            else:
                w_addr = a_addr + a_bytes
                self._store(product.w, w_addr)
            channel_addr = a_addr + a_bytes + w_bytes
            if channels:
                self._store_channels(product, channel_addr)
            log_addr = channel_addr + channel_bytes
            y_addr = log_addr + log_room
            result = self._view(y_addr, (shape.batch, shape.m, shape.n), ldy, product.out.dtype)
            if options.suppress:
                result.copy_(product.out)
            resident_end = w_addr + shape.batch * shape.k * ldw
            flags = (GemmFlag.CHANNEL if channels else 0) | (GemmFlag.REQUANT if product.requant is not None else 0)
            batched = shape.batch > 1
            command = GemmCommand(
                m=shape.m,
                n=shape.n,
                k=shape.k,
                batch=shape.batch,
                flags=int(flags | options.flags),
                a_addr=a_addr,
                w_addr=w_addr,
                y_addr=y_addr,
                channel_addr=channel_addr if channels else 0,
                lda=lda,
                ldw=ldw,
                ldy=ldy,
                a_batch_stride=shape.m * lda if batched else 0,
                w_batch_stride=shape.k * ldw if batched else 0,
                y_batch_stride=shape.m * ldy if batched else 0,
                read_base=min(a_addr, w_addr),
                read_limit=max(log_addr, resident_end),
                write_base=log_addr,
                write_limit=y_addr + y_bytes,
                error_key=options.error_key,
                first_row=options.first_row,
                first_col=options.first_col,
                theta=options.theta,
                log_addr=log_addr if log_bytes else 0,
                log_bytes=log_bytes,
            )
            before = self._records() if log_bytes else 0
            cycles = ideal_cycles(self.config, shape.m, shape.n, shape.k, shape.batch)
            self._simulator.run([command.encode()], deadline_s=self.deadline_s + cycles / SLOWEST_CYCLES_PER_S)
            if self.config.timing_model != "none":
                self._count_truth(product)
            product.out.copy_(result)
            written = (self._records() - before) * LOG_RECORD_BYTES if log_bytes else 0
            return bytes(self._simulator.memory[log_addr : log_addr + written])
        finally:
            self._arena.free(region)

    def _log_bytes(self, product: Product) -> int:
        """Room for the log: what was asked for, but no more than there can be segments."""
        if not product.options.check:
            return 0
        shape = product.shape
        segments = shape.batch * shape.m * geometry(self.config, shape.m, shape.n).segments
        return min(product.options.log_bytes, segments * LOG_RECORD_BYTES)

    def _records(self) -> int:
        """Log records written so far."""
        return self._simulator.counters().get("log_records", 0)

    def _count_truth(self, product: Product) -> None:
        """Let the twin count which errors there were; into a copy, because it keeps suppressed elements too."""
        w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
        self._twin.gemm(dataclasses.replace(product, w=w, out=product.out.clone()))

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        self._twin.set_errors(seed, rates, bits)
        self._errors_set = True
        self._send_errors()

    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        self._twin.set_point(domain, point, lengths=lengths)
        self._moves[domain] = (point, transition_cycles, lengths)
        self._send_point(domain)

    def _send_errors(self) -> None:
        errors = self._twin.errors
        command = SetErrorsCommand(seed=errors.seed, rates=errors.rates, bits=errors.bits)
        self._simulator.run([command.encode()], deadline_s=self.deadline_s)

    def _send_point(self, domain: int) -> None:
        point, transition_cycles, lengths = self._moves[domain]
        deadline = self.deadline_s + transition_cycles / SLOWEST_CYCLES_PER_S
        if lengths is None:
            command = SetPointCommand(domain=domain, point=point, transition_cycles=transition_cycles)
            self._simulator.run([command.encode()], deadline_s=deadline)
            return
        stride = self._row_bytes(lengths.shape[1])
        region = self._arena.allocate(lengths.shape[0] * stride, from_top=True)
        try:
            self._store(torch.from_numpy(lengths.view(np.int8))[None], region[0])
            command = SetPointCommand(
                domain=domain,
                point=point,
                transition_cycles=transition_cycles,
                lengths_addr=region[0],
                lengths_stride=stride,
                read_base=region[0],
                read_limit=region[0] + lengths.shape[0] * stride,
            )
            self._simulator.run([command.encode()], deadline_s=deadline)
        finally:
            self._arena.free(region)

    def counters(self) -> Mapping[str, int]:
        counts = dict(self._simulator.counters())
        counts["dram_bytes"] = counts["dram_read_bytes"] + counts["dram_write_bytes"]
        if self.config.timing_model != "none":
            known = self._twin.counters()
            counts |= {name: known[name] for name in TRUTH}
        return counts

    def restart(self) -> None:
        # A mapping with exported buffers cannot be closed, should the simulator want a fresh one.
        del self._bytes, self._words
        self._simulator.restart()
        self._map()
        for weights, address in list(self._resident.items()):
            self._store(weights.values, address)
        self._twin.restart()
        if self._errors_set:
            self._send_errors()
        for domain in self._moves:
            self._send_point(domain)

    def close(self) -> None:
        self._bytes = self._words = torch.empty(0)
        self._simulator.close()

    def _row_bytes(self, length: int) -> int:
        return round_up(length, self.config.bus_bytes)

    def _check_strides(self, shape: GemmShape, lda: int, ldw: int, ldy: int) -> None:
        strides = {"lda": lda, "ldw": ldw, "ldy": ldy}
        if shape.batch > 1:
            strides |= {"a_batch_stride": shape.m * lda, "w_batch_stride": shape.k * ldw}
            strides |= {"y_batch_stride": shape.m * ldy}
        for name, value in strides.items():
            if value > STRIDE_LIMIT:
                raise ValueError(f"{name} must fit 32 bits, not {value}; split the product or its batch")

    def _view(self, address: int, shape: tuple[int, int, int], row_bytes: int, dtype: torch.dtype) -> torch.Tensor:
        memory = self._words if dtype == torch.int32 else self._bytes
        row = row_bytes // dtype.itemsize
        return memory.as_strided(shape, (shape[1] * row, row, 1), address // dtype.itemsize)

    def _store(self, values: torch.Tensor, address: int) -> None:
        batch, rows, columns = values.shape
        self._view(address, (batch, rows, columns), self._row_bytes(columns), torch.int8).copy_(values)

    def _store_channels(self, product: Product, address: int) -> None:
        # As 32-bit words, little-endian: bias, mult, shift in the lowest byte, zero.
        table = self._view(address, (1, product.shape.n, 4), CHANNEL_RECORD_BYTES, torch.int32)[0]
        table.zero_()
        if product.bias is not None:
            table[:, 0] = product.bias
        if product.requant is not None:
            table[:, 1] = product.requant.mult
            table[:, 2] = product.requant.shift
        else:
            # The hardware checks every record, used or not.
            table[:, 2] = 1
