"""Cycles of a product that is bound by the array, in closed form: the formula of ``docs/cycle-model.md``."""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

import pytest

from brownout.cosim.cycle_model import CycleModel
from brownout.cosim.dram import MemoryTiming
from brownout.hw.commands import GemmFlag, output_item_bytes
from brownout.hw.config import AcceleratorConfig, MemoryConfig
from brownout.hw.tiling import blocks, ideal_cycles, slabs

from .command_cases import ALL_TILED, FLAGS, place_command, random_checksum

COMMAND_BYTES, RECORD_BYTES = 256, 16


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclasses.dataclass(frozen=True)
class Form:
    """Terms of the formula for one product, in the letters of the document."""

    config: AcceleratorConfig
    m: int
    n: int
    k: int
    batch: int
    table: bool
    element_bytes: int
    check: bool = False
    tiled: bool = False

    @property
    def fill(self) -> int:
        """From the first read request to the first weight tile on chip, beside latency."""
        c = self.config
        first = next(blocks(c, self.m, self.n))
        k0 = min(self.k, next(slabs(c, self.k))[1] * c.rows)
        n0 = min(self.n, first.col_tiles * c.cols)
        table = max(ceil_div(RECORD_BYTES * n0, c.bus_bytes), n0) if self.table else 0
        activations = first.rows * max(ceil_div(k0, c.bus_bytes), ceil_div(k0, c.rows))
        return table + activations + c.rows * max(ceil_div(n0, c.bus_bytes), ceil_div(n0, c.cols))

    def drain(self, first_col_tile: int, col_tiles: int) -> int:
        """Cycles per output row of a block."""
        c = self.config
        begin = first_col_tile * c.cols
        cols = min(self.n, begin + col_tiles * c.cols) - begin
        chunks = sum(ceil_div(min(c.cols, cols - at), c.lanes) for at in range(0, cols, c.cols))
        offset = 0 if self.tiled else begin * self.element_bytes % c.bus_bytes
        return max(chunks, ceil_div(offset + cols * self.element_bytes, c.bus_bytes))

    @property
    def digit_rows(self) -> int:
        """Rows through the array that carry digits of column sums."""
        c = self.config
        if not self.check or c.checksum is None:
            return 0
        per_k_tile = sum(
            ceil_div(block.rows, c.checksum.group_rows) * block.col_tiles
            for block in blocks(c, self.m, self.n, self.batch)
        )
        return c.checksum.digits * per_k_tile * ceil_div(self.k, c.rows)

    @property
    def stride_checks(self) -> int:
        """Cycles in which widths of tiles that are not whole beats are summed up."""
        c = self.config
        pieces = [len(list(slabs(c, self.k)))] if c.rows % c.bus_bytes else []
        if c.cols % c.bus_bytes:
            pieces.append(sum(block.first_row == block.batch == 0 for block in blocks(c, self.m, self.n)))
        return max(pieces) + 1 if self.tiled and pieces else 0

    @property
    def cycles(self) -> int:
        c = self.config
        *_, last = blocks(c, self.m, self.n)
        return (
            ideal_cycles(c, self.m, self.n, self.k, self.batch)
            + COMMAND_BYTES // c.bus_bytes
            + 3 * c.memory.latency_cycles
            + self.fill
            + c.rows
            + c.cols
            + last.rows * self.drain(last.first_col_tile, last.col_tiles)
            + self.digit_rows
            + self.stride_checks
            + (40 if self.table else 41)
            + (5 if c.checksum is not None else 0)
        )

    def drains_evenly(self) -> bool:
        """Chunks never straddle a beat: otherwise the last one of a row may take a cycle more."""
        c = self.config
        chunk_bytes = c.lanes * self.element_bytes
        return c.cols % c.lanes == 0 and (c.bus_bytes % chunk_bytes == 0 or chunk_bytes % c.bus_bytes == 0)

    def drains_in_time(self) -> bool:
        """Each block but the last is written out before the next is summed, and write responses do not limit."""
        c = self.config
        walk = list(blocks(c, self.m, self.n, self.batch))
        per_row = [self.drain(block.first_col_tile, block.col_tiles) for block in walk]
        passes = [block.rows * block.col_tiles * ceil_div(self.k, c.rows) for block in walk]
        slack = c.memory.latency_cycles + 16
        # Where reads and writes share the bus, writes are sure of every second beat.
        share = 1 if c.memory.bytes_per_cycle >= 2 * c.bus_bytes else 2
        hidden = all(share * walk[i].rows * per_row[i] + slack <= passes[i + 1] for i in range(len(walk) - 1))
        # A row may take two bursts, where it crosses a page.
        rows_in_flight = min(c.write_outstanding, c.memory.write_queue) // 2
        return hidden and min(per_row) * rows_in_flight >= slack


@pytest.mark.parametrize("protected", [False, True], ids=["plain", "checksum-units"])
def test_compute_bound_products_follow_the_closed_form(protected: bool) -> None:
    """Compute-bound: the array waits for the very first data and then never again, and draining keeps up."""
    seed = 3
    print(f"seed {seed}")
    rng = random.Random(seed)
    bound = 0
    for _ in range(500 if protected else 1500):
        rows, cols = rng.choice([(4, 4), (16, 16), (8, 16), (16, 8), (32, 32), (16, 4), (3, 8), (12, 24)])
        bus = rng.choice([8, 16, 32, 64])
        memory = MemoryConfig(
            size_bytes=1 << 30,
            latency_cycles=rng.choice([1, 5, 20, 64, 100]),
            bytes_per_cycle=rng.choice([bus, 2 * bus]),
        )
        config = AcceleratorConfig(
            rows=rows,
            cols=cols,
            bus_bytes=bus,
            drain_lanes=rng.choice([2, 4, 8]),
            block_rows=rng.choice([64, 128]),
            slab_bytes=rng.choice([16, 64]),
            memory=memory,
        )
        if protected:
            checksum = random_checksum(rng, config.block_rows, config.lanes)
            config = dataclasses.replace(config, checksum=checksum)
        # At least max(R, 3) rows in every block, one whole tile of K and N.
        m, n, k = rng.randint(64, 400), rng.randint(cols, 8 * cols), rng.randint(rows, 40 * rows)
        batch, flags = rng.choice([1, 1, 2]), rng.choice(FLAGS)
        check, tiled = protected and rng.random() < 0.7, rng.random() < 0.4
        all_flags = flags | (GemmFlag.CHECK if check else 0) | (ALL_TILED if tiled else 0)
        command = place_command(config, m, n, k, batch=batch, flags=all_flags)
        # At any clock at which the memory still gives a beat per cycle.
        clock = rng.choice([Fraction(1), Fraction(7, 10), Fraction(memory.bytes_per_cycle, bus)])
        model, timing = CycleModel(config), MemoryTiming.at_clock(memory, clock)
        model.set_memory_timing(timing)
        counts = model.run([command])
        memory = dataclasses.replace(
            memory, latency_cycles=timing.latency_cycles, bytes_per_cycle=timing.bandwidth >> 16
        )
        config = dataclasses.replace(config, memory=memory)
        form = Form(config, m, n, k, batch, bool(flags), output_item_bytes(flags), check, tiled)
        first_data = memory.latency_cycles + form.fill + (4 if flags else 5)
        stalls = [counts[f"stall_{cause}_cycles"] for cause in ("load", "weight", "drain")]
        if stalls == [first_data, 3, 0] and form.drains_evenly() and form.drains_in_time():
            bound += 1
            assert counts["cycles"] == form.cycles, (config, command)
    print(f"{bound} compute-bound products")
    assert bound > (100 if protected else 300)


def test_the_worked_example_of_the_document() -> None:
    config = AcceleratorConfig()
    counts = CycleModel(config).run([place_command(config, 512, 512, 512)])
    assert counts["cycles"] == Form(config, 512, 512, 512, 1, False, 4).cycles == 527_193
