"""Products on the simulated RTL: operands in its DRAM, one GEMM command each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.cycle_model import Found, Runs
from brownout.hw.commands import CHANNEL_RECORD_BYTES, GemmCommand, SetPointCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.matrix_layout import MatrixLayout, row_major
from brownout.hw.tiling import ideal_cycles

from ...storage.state import State
from ..product.attention import Attended, Attention
from ..product.operands import OUTPUT_DTYPES, Product, ResidentWeights
from ..product.reload import Places
from ..twin.findings import COUNTERS, TRUTH
from .base import Backend, device_lock
from .layout import Layout
from .settings import DeviceSettings
from .twin import TwinBackend

if TYPE_CHECKING:
    from brownout.cosim.dram import MemoryTiming
    from brownout.cosim.simulator import Simulator

UNWRITTEN = 0xFF
"""Bytes of a syndrome log before a product."""

SLOWEST_CYCLES_PER_S = 5_000
"""Simulation speed below which a command counts as hung; tens of times below the slowest seen with waves on."""


ATTENTION_CYCLES = 64
"""Cycles of attention for one of an array that is never idle, at most: its passes wait for each other, and blocks of
one query use a row of the array's time for each tile of weights."""


class RtlBackend(Backend):
    """Runs each product as one command on a simulator process.

    Which of the results are wrong is not the hardware's to know: where sums can err, the twin computes every product
    too, and its counts of errors are reported beside the hardware's counters. It also follows the commands, to know
    which rows of the memory are open.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator that `start` simulates.
    start : callable
        Function that starts a simulator.
    deadline_s : float
        Wall-clock seconds that a command may take beside its share for simulated cycles.
    layout : {"row-major", "tiled"}
        How matrices lie in memory.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed.
    """

    name = "rtl"
    attends = True

    def __init__(
        self,
        config: AcceleratorConfig,
        start: Callable[[], Simulator],
        *,
        deadline_s: float,
        layout: str = "row-major",
        loop_order: str = "searched",
    ) -> None:
        self.config = config
        self.deadline_s = deadline_s
        # A product's operands, its entry in the ring, its result and its log belong together.
        self._lock = device_lock()
        self._simulator = start()
        self._layout = Layout(config, self._simulator.usable_bytes, layout, loop_order)
        self._settings = DeviceSettings(config)
        # It finds the same orders, on which depends what is found in which block.
        self._twin = TwinBackend(config, layout=layout, loop_order=loop_order)
        self._map()

    def _map(self) -> None:
        # Written to in inference mode and outside of it.
        with torch.inference_mode(False):
            self._bytes = torch.frombuffer(self._simulator.memory, dtype=torch.int8)
            self._words = self._bytes.view(torch.int32)
            self._memory = {dtype: self._bytes.view(dtype) for dtype in OUTPUT_DTYPES}

    def check_device(self, name: str, device: torch.device) -> None:
        if device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU for backend='rtl', not on {device}; move it with .cpu()")

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        values = w.detach().clone(memory_format=torch.contiguous_format)
        batch = values if values.ndim == 3 else values.unsqueeze(0)
        weights = ResidentWeights(self, batch, tuple(w.shape))
        with self._lock:
            self._store(batch, self._layout.place_weights(weights), self._layout.weights(*batch.shape[1:]))
        return weights

    def gemm(self, product: Product) -> bytes:
        with self._lock:
            log, command = self._execute(product)
            self._twin.follow(command, self._count_truth(product) if self.config.error_model.errs else None)
            return log

    def blocks_of(self, product: Product) -> AcceleratorConfig:
        with self._lock:
            return self._layout.blocks_of(product)

    def execute(self, product: Product) -> bytes:
        """As `gemm`, but without counting which results are wrong, and unseen by `state`."""
        with self._lock:
            return self._execute(product)[0]

    def _execute(self, product: Product) -> tuple[bytes, GemmCommand]:
        shape, options = product.shape, product.options
        with self._layout.place_product(product) as command:
            layout, order = self._layout, self._layout.order_of(product)
            self._store(product.a, command.a_addr, layout.activations(shape.m, shape.k, order))
            if not isinstance(product.w, ResidentWeights):
                self._store(product.w, command.w_addr, layout.weights(shape.k, shape.n))
            if command.channel_addr:
                self._store_channels(product, command.channel_addr)
            matrix = layout.output(shape.m, shape.n, product.out.element_size(), order)
            if options.suppress:
                self._store(product.out, command.y_addr, matrix)
            log = slice(command.log_addr, command.log_addr + command.log_bytes)
            self._simulator.memory[log] = bytes([UNWRITTEN]) * command.log_bytes
            cycles = ideal_cycles(self.config, shape.m, shape.n, shape.k, shape.batch)
            began = self._simulator.counters(("cycles",))["cycles"] if product.tally is not None else 0
            self._simulator.run([command.encode()], deadline_s=self.deadline_s + cycles / SLOWEST_CYCLES_PER_S)
            if product.tally is not None:
                product.tally.cycles += self._simulator.counters(("cycles",))["cycles"] - began
            self._load(product.out, command.y_addr, matrix)
            return self._written(self._simulator.memory[log]), command

    def attention(self, attention: Attention) -> Attended:
        with self._lock, self._layout.place_attention(attention) as command:
            heads, queries, columns = attention.out.shape
            for values, address, stride in (
                (attention.q, command.a_addr, command.lda),
                (attention.k.mT, command.w_addr, command.ldw),
                (attention.v, command.v_addr, command.ldv),
            ):
                self._store(values, address, row_major(values.shape[1], values.shape[2], stride, 1))
            matrix = row_major(queries, columns, command.ldy, 1)
            if attention.values.suppress:
                self._store(attention.out, command.y_addr, matrix)
            log = slice(command.log_addr, command.log_addr + command.log_bytes)
            self._simulator.memory[log] = bytes([UNWRITTEN]) * command.log_bytes
            cycles = sum(
                ideal_cycles(self.config, shape.m, shape.n, shape.k, heads)
                for shape in (attention.score_shape, attention.value_shape)
            )
            began = self._simulator.counters(("cycles",))["cycles"] if attention.tally is not None else 0
            deadline = self.deadline_s + ATTENTION_CYCLES * cycles / SLOWEST_CYCLES_PER_S
            self._simulator.run([command.encode()], deadline_s=deadline)
            if attention.tally is not None:
                attention.tally.cycles += self._simulator.counters(("cycles",))["cycles"] - began
            found = None
            if self.config.error_model.errs:
                # Into a copy, because it keeps suppressed elements too.
                found = self._twin.find_attention(dataclasses.replace(attention, out=attention.out.clone()))
            self._twin.follow(command, found)
            self._load(attention.out, command.y_addr, matrix)
            return Attended(self._written(self._simulator.memory[log]), 0 if found is None else len(found.suppressed))

    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        with self._lock, self._layout.place_copy(source, places) as (command, runs):
            matrix = self._layout.output(source.shape[1], source.shape[2], source.element_size())
            self._store(source, command.source_addr, matrix)
            self._store(target, command.target_addr, matrix)
            table = torch.from_numpy(runs.view(np.int8))
            self._bytes[command.list_addr : command.list_addr + table.numel()] = table.flatten()
            memory = self.config.memory
            slowest = len(runs) * (2 * memory.latency_cycles + 8) + 2 * int(runs[:, 1].sum(dtype=np.uint64))
            deadline = self.deadline_s + slowest / memory.bytes_per_cycle / SLOWEST_CYCLES_PER_S
            self._simulator.run([command.encode()], deadline_s=deadline)
            self._load(target, command.target_addr, matrix)
            self._twin.follow(command, Runs(runs))

    def _written(self, log: bytes) -> bytes:
        """The records that the hardware wrote: none has all bits of its fourth word set."""
        records = np.frombuffer(log, np.uint8).reshape(-1, self.config.log_record_bytes)
        unwritten = (records[:, 12:16] == UNWRITTEN).all(axis=1)
        return records[: int(unwritten.argmax()) if unwritten.any() else len(records)].tobytes()

    def _count_truth(self, product: Product) -> Found | None:
        """Let the twin count which errors there were; into a copy, because it keeps suppressed elements too."""
        w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
        return self._twin.find(dataclasses.replace(product, w=w, out=product.out.clone()))

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        with self._lock:
            self._settings.set_errors(seed, rates, bits)
            self._twin.set_errors(seed, rates, bits)
            self._send_errors()

    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        with self._lock:
            self._settings.move(domain, point, transition_cycles, lengths)
            self._twin.set_point(domain, point, transition_cycles=transition_cycles, lengths=lengths)
            self._send_point(domain)

    def set_memory_timing(self, timing: MemoryTiming) -> None:
        with self._lock:
            self._simulator.set_memory(timing.settings())
            self._settings.memory_timing = timing
            self._twin.set_memory_timing(timing)

    def _send_errors(self) -> None:
        self._simulator.run([self._settings.errors_command.encode()], deadline_s=self.deadline_s)

    def _send_point(self, domain: int) -> None:
        point, transition_cycles, lengths = self._settings.moves[domain]
        deadline = self.deadline_s + transition_cycles / SLOWEST_CYCLES_PER_S
        if lengths is None:
            command = SetPointCommand(domain=domain, point=point, transition_cycles=transition_cycles)
            self._simulator.run([command.encode()], deadline_s=deadline)
            return
        with self._layout.place_lengths(domain, point, transition_cycles, *lengths.shape) as command:
            rows, columns = lengths.shape
            table = row_major(rows, columns, command.lengths_stride)
            self._store(torch.from_numpy(lengths.view(np.int8))[None], command.lengths_addr, table)
            self._simulator.run([command.encode()], deadline_s=deadline)

    def counters(self) -> Mapping[str, int]:
        with self._lock:
            counts = dict(self._simulator.counters())
            known = self._twin.counters() if self.config.error_model.errs else None
        counts["dram_bytes"] = counts["dram_read_bytes"] + counts["dram_write_bytes"]
        if known is not None:
            counts |= {name: known[name] for name in TRUTH}
        return counts

    def check_counts(self) -> Mapping[str, int]:
        with self._lock:
            return self._simulator.counters(COUNTERS) if self.config.checksum is not None else {}

    def state(self) -> State:
        with self._lock:
            return self._settings.state(*self._twin.place())

    def load_state(self, state: State) -> None:
        with self._lock:
            self._settings = DeviceSettings.load(self.config, state)
            self._twin.load_settings(state)
            self.restart()
            self._simulator.resume_at(state.values["ring_index"], state.values["open_rows"])
            self._twin.load_place(state)

    def restart(self) -> None:
        with self._lock:
            self._restart()

    def _restart(self) -> None:
        # A mapping with exported buffers cannot be closed, should the simulator want a fresh one.
        self._bytes = self._words = torch.empty(0)
        self._memory = {}
        self._simulator.restart()
        self._map()
        for weights, address in list(self._layout.resident.items()):
            self._store(weights.values, address, self._layout.weights(*weights.values.shape[1:]))
        self._twin.restart()
        if self._settings.memory_timing is not None:
            self._simulator.set_memory(self._settings.memory_timing.settings())
        if self._settings.errors_set:
            self._send_errors()
        for domain in self._settings.moves:
            self._send_point(domain)

    def close(self) -> None:
        self._lock.close(self._free, self.interrupt)

    def interrupt(self) -> None:
        """Let a product of another thread fail at once."""
        self._simulator.interrupt()

    def _free(self) -> None:
        self._bytes = self._words = torch.empty(0)
        self._memory = {}
        self._simulator.close()

    def _tiles(
        self, values: torch.Tensor, address: int, layout: MatrixLayout
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Of matrices (B, rows, columns) in memory, one behind the other: each tile of `values`, and its memory."""
        size = values.element_size()
        memory = self._memory[values.dtype]
        for tile in layout.tiles():
            rows = slice(tile.first_row, tile.first_row + tile.rows)
            part = values[:, rows, tile.first_col : tile.first_col + tile.cols]
            strides = (layout.size_bytes // size, tile.row_bytes // size, 1)
            yield part, memory.as_strided(part.shape, strides, (address + tile.offset) // size)

    def _store(self, values: torch.Tensor, address: int, layout: MatrixLayout) -> None:
        for part, memory in self._tiles(values, address, layout):
            memory.copy_(part)

    def _load(self, values: torch.Tensor, address: int, layout: MatrixLayout) -> None:
        for part, memory in self._tiles(values, address, layout):
            part.copy_(memory)

    def _store_channels(self, product: Product, address: int) -> None:
        # As 32-bit words, little-endian: bias, mult, shift in the lowest byte, zero.
        words = CHANNEL_RECORD_BYTES // 4
        table = self._words[address // 4 :][: product.shape.n * words].view(-1, words)
        table.zero_()
        if product.bias is not None:
            table[:, 0] = product.bias
        if product.requant is not None:
            table[:, 1] = product.requant.mult
            table[:, 2] = product.requant.shift
        else:
            # The hardware checks every record, used or not.
            table[:, 2] = 1
