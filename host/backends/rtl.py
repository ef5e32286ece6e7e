"""Products on the simulated RTL: operands in its DRAM, one GEMM command each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from brownout.hw.commands import CHANNEL_RECORD_BYTES
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import ideal_cycles

from ..operands import Product, ResidentWeights
from .base import Backend
from .layout import Layout

if TYPE_CHECKING:
    from brownout.cosim.simulator import Simulator

SLOWEST_CYCLES_PER_S = 5_000
"""Simulation speed below which a command counts as hung; tens of times below the slowest seen with waves on."""


class RtlBackend(Backend):
    """Runs each product as one command on a simulator process.

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
        self._layout = Layout(config, self._simulator.usable_bytes)
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
        weights = ResidentWeights(self, batch, tuple(w.shape))
        self._store(batch, self._layout.place_weights(weights))
        return weights

    def gemm(self, product: Product) -> None:
        shape = product.shape
        with self._layout.place_product(product) as command:
            self._store(product.a, command.a_addr)
            if not isinstance(product.w, ResidentWeights):
                self._store(product.w, command.w_addr)
            if command.channel_addr:
                self._store_channels(product, command.channel_addr)
            cycles = ideal_cycles(self.config, shape.m, shape.n, shape.k, shape.batch)
            self._simulator.run([command.encode()], deadline_s=self.deadline_s + cycles / SLOWEST_CYCLES_PER_S)
            result = self._view(command.y_addr, (shape.batch, shape.m, shape.n), command.ldy, product.out.dtype)
            product.out.copy_(result)

    def counters(self) -> Mapping[str, int]:
        counts = dict(self._simulator.counters())
        counts["dram_bytes"] = counts["dram_read_bytes"] + counts["dram_write_bytes"]
        return counts

    def restart(self) -> None:
        # A mapping with exported buffers cannot be closed, should the simulator want a fresh one.
        del self._bytes, self._words
        self._simulator.restart()
        self._map()
        for weights, address in list(self._layout.resident.items()):
            self._store(weights.values, address)

    def close(self) -> None:
        self._bytes = self._words = torch.empty(0)
        self._simulator.close()

    def _view(self, address: int, shape: tuple[int, int, int], row_bytes: int, dtype: torch.dtype) -> torch.Tensor:
        memory = self._words if dtype == torch.int32 else self._bytes
        row = row_bytes // dtype.itemsize
        return memory.as_strided(shape, (shape[1] * row, row, 1), address // dtype.itemsize)

    def _store(self, values: torch.Tensor, address: int) -> None:
        batch, rows, columns = values.shape
        self._view(address, (batch, rows, columns), self._layout.row_bytes(columns), torch.int8).copy_(values)

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
