"""Random GEMM commands of any shape and place, for tests that look at time and not at results."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import CHANNEL_RECORD_BYTES, GemmCommand, GemmFlag
from brownout.hw.config import AcceleratorConfig, MemoryConfig

FLAGS = (GemmFlag(0), GemmFlag.CHANNEL, GemmFlag.CHANNEL | GemmFlag.REQUANT)


def place_command(
    config: AcceleratorConfig,
    m: int,
    n: int,
    k: int,
    *,
    batch: int = 1,
    flags: int = 0,
    base: int = 0,
    padding: int = 0,
) -> GemmCommand:
    """A command whose operands follow each other from `base` on; `padding` bus words more than needed between rows."""
    bus = config.bus_bytes

    def row_bytes(count: int) -> int:
        return (-(-count // bus) + padding) * bus

    lda, ldw, ldy = row_bytes(k), row_bytes(n), row_bytes(n * (1 if flags & GemmFlag.REQUANT else 4))
    w_addr = base + batch * m * lda
    table = w_addr + batch * k * ldw
    y_addr = table + -(-CHANNEL_RECORD_BYTES * n // bus) * bus
    return GemmCommand(
        **{"m": m, "n": n, "k": k, "batch": batch, "flags": int(flags)},
        **{"a_addr": base, "w_addr": w_addr, "y_addr": y_addr, "channel_addr": table if flags else 0},
        **{"lda": lda, "ldw": ldw, "ldy": ldy},
        a_batch_stride=m * lda if batch > 1 else 0,
        w_batch_stride=k * ldw if batch > 1 else 0,
        y_batch_stride=m * ldy if batch > 1 else 0,
        **{"read_base": base, "read_limit": y_addr, "write_base": y_addr, "write_limit": y_addr + batch * m * ldy},
    )


def random_command(
    rng: random.Random, config: AcceleratorConfig, *, longest: int, most_passes: int, base: int = 0
) -> GemmCommand:
    """Extents up to `longest`, from one to many blocks and slabs, cut down to `most_passes` rows through the array."""
    m, n, k = (rng.choice([1, rng.randint(1, 20), rng.randint(1, longest // 2), longest]) for _ in range(3))
    batch = rng.choice([1, 1, 1, 2, 3, 30])
    while batch * m * -(-n // config.cols) * -(-k // config.rows) > most_passes:
        cut = rng.randrange(4)
        m, n, k, batch = (-(-value // 2) if cut == i else value for i, value in enumerate((m, n, k, batch)))
    return place_command(
        config, m, n, k, batch=batch, flags=rng.choice(FLAGS), base=base, padding=rng.choice([0, 0, 1, 3])
    )


def random_timing(rng: random.Random, bus_bytes: int) -> dict[str, int]:
    """Fields of `MemoryConfig`, from slow to never in the way."""
    return {
        "latency_cycles": rng.choice([1, 2, 3, rng.randint(1, 200)]),
        "bytes_per_cycle": rng.choice([3, 5, 8, 24, bus_bytes, bus_bytes, 2 * bus_bytes]),
        "read_queue": rng.choice([1, 2, 4, 64]),
        "write_queue": rng.choice([1, 2, 16]),
    }


def random_config(rng: random.Random) -> AcceleratorConfig:
    """Any configuration, however odd, with arrays small enough to be stepped through."""
    sizes = [(1, 1), (2, 2), (4, 4), (3, 5), (16, 4), (4, 16), (5, 3), (8, 8), (16, 16), (1, 7), (7, 1), (12, 20)]
    rows, cols = rng.choice(sizes)
    bus_bytes = rng.choice([4, 8, 16, 16, 16, 32, 64, 128])
    memory = MemoryConfig(
        size_bytes=1 << 34,
        banks=rng.choice([1, 2, 16, 64]),
        row_bytes=rng.choice([64, 256, 2048, 8192]),
        **random_timing(rng, bus_bytes),
    )
    return AcceleratorConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus_bytes,
        block_rows=rng.choice([1, 2, 5, 8, 16, 32, 128]),
        block_col_tiles=rng.choice([1, 2, 3, 4, 8]),
        slab_bytes=rng.choice([1, 8, 16, 32, 64]),
        drain_lanes=rng.choice([1, 2, 3, 4, 8, 16]),
        read_outstanding=rng.choice([1, 2, 4, 16, 64, 255]),
        write_outstanding=rng.choice([1, 2, 5, 16]),
        memory=memory,
    )


def with_timing(config: AcceleratorConfig, timing: dict[str, int]) -> AcceleratorConfig:
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, **timing))


def write_channel_table(memory: NDArray[np.uint8], command: GemmCommand) -> None:
    """Records that the hardware accepts: shift 1, everything else zero."""
    if command.flags & GemmFlag.CHANNEL:
        size = CHANNEL_RECORD_BYTES * command.n
        table = memory[command.channel_addr : command.channel_addr + size].reshape(-1, CHANNEL_RECORD_BYTES)
        table[:] = 0
        table[:, 8] = 1
