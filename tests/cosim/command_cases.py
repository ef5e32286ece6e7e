"""Random commands of any shape and place, for tests that look at time and not at results."""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import (
    CHANNEL_RECORD_BYTES,
    GemmCommand,
    GemmFlag,
    Opcode,
    PlainCommand,
    SetErrorsCommand,
    SetPointCommand,
    output_item_bytes,
)
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.matrix_layout import tiled_activations, tiled_output, tiled_weights
from brownout.hw.registers import CHECK_COUNTERS

SCALED = GemmFlag.CHANNEL | GemmFlag.REQUANT

FLAGS = (GemmFlag(0), GemmFlag.CHANNEL, SCALED, SCALED | GemmFlag.INT16)
CHECK_FLAGS = (
    GemmFlag(0),
    GemmFlag.CHECK,
    GemmFlag.CHECK | GemmFlag.CORRECT,
    GemmFlag.CHECK | GemmFlag.CORRECT | GemmFlag.ZERO,
    GemmFlag.CHECK | GemmFlag.SUPPRESS,
)
ALL_TILED = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED
TILED_FLAGS = (GemmFlag(0), GemmFlag(0), ALL_TILED, ALL_TILED, GemmFlag.A_TILED, GemmFlag.W_TILED, GemmFlag.Y_TILED)


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
    log_bytes: int = 0,
) -> GemmCommand:
    """A command whose operands follow each other from `base` on.

    `padding`: bus words more than needed between rows that are not in tiles.
    """
    bus = config.bus_bytes

    def row_bytes(count: int) -> int:
        return (-(-count // bus) + padding) * bus

    item_bytes = output_item_bytes(flags)
    lda, ldw, ldy = row_bytes(k), row_bytes(n), row_bytes(n * item_bytes)
    if flags & GemmFlag.A_TILED:
        lda = tiled_activations(config, m, k).row_bytes
    if flags & GemmFlag.W_TILED:
        ldw = tiled_weights(config, k, n).row_bytes
    if flags & GemmFlag.Y_TILED:
        ldy = tiled_output(config, m, n, item_bytes).row_bytes
    w_addr = base + batch * m * lda
    table = w_addr + batch * k * ldw
    log_addr = table + -(-CHANNEL_RECORD_BYTES * n // bus) * bus
    y_addr = log_addr + -(-log_bytes // bus) * bus
    return GemmCommand(
        **{"m": m, "n": n, "k": k, "batch": batch, "flags": int(flags)},
        **{
            "a_addr": base,
            "w_addr": w_addr,
            "y_addr": y_addr,
            "channel_addr": table if flags & GemmFlag.CHANNEL else 0,
        },
        **{"lda": lda, "ldw": ldw, "ldy": ldy},
        a_batch_stride=m * lda if batch > 1 else 0,
        w_batch_stride=k * ldw if batch > 1 else 0,
        y_batch_stride=m * ldy if batch > 1 else 0,
        **{"read_base": base, "read_limit": log_addr, "write_base": log_addr, "write_limit": y_addr + batch * m * ldy},
        **{"log_addr": log_addr if log_bytes else 0, "log_bytes": log_bytes},
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
    flags, log_bytes = rng.choice(FLAGS) | rng.choice(TILED_FLAGS), 0
    padding = rng.choice([0, 0, 1, 3])
    if config.checksum is not None:
        flags |= rng.choice(CHECK_FLAGS)
        if flags & GemmFlag.CHECK:
            log_bytes = config.log_record_bytes * rng.choice([0, 1, rng.randint(1, 200), 2000])
    return place_command(config, m, n, k, batch=batch, flags=flags, base=base, padding=padding, log_bytes=log_bytes)


def random_setting(
    rng: random.Random, config: AcceleratorConfig, *, base: int = 0
) -> SetErrorsCommand | SetPointCommand | PlainCommand:
    """A command that is no product and leads to no timing error; its table, if it has one, begins at `base`."""
    kinds = ["fence", "snapshot"]
    if config.timing_model == "flip":
        kinds += ["errors", "point", "point"]
    if config.timing_model == "carry":
        kinds += ["point", "point", "point"]
    kind = rng.choice(kinds)
    if kind in ("fence", "snapshot"):
        return PlainCommand(opcode=Opcode.FENCE if kind == "fence" else Opcode.SNAPSHOT)
    if kind == "errors":
        return SetErrorsCommand(seed=rng.randrange(1 << 32), rates=())
    domain, point = rng.randrange(config.domains), rng.randrange(config.operating_points)
    transition = rng.choice([0, 1, 2, rng.randint(0, 1000)])
    if config.timing_model != "carry":
        return SetPointCommand(domain=domain, point=point, transition_cycles=transition)
    bus, columns = config.bus_bytes, config.cols + len(config.check_columns)
    stride = (-(-columns // bus) + rng.choice([0, 0, 1, 300])) * bus
    return SetPointCommand(
        domain=domain,
        point=point,
        transition_cycles=transition,
        lengths_addr=base,
        lengths_stride=stride,
        read_base=base,
        read_limit=base + config.rows * stride,
    )


def without_findings(counts: dict[str, int]) -> dict[str, int]:
    """Counters of the hardware less those of what checks find, which a model of cycles does not know."""
    hidden = {counter.name for counter in CHECK_COUNTERS}
    return {name: value for name, value in counts.items() if name not in hidden}


def write_lengths(memory: NDArray[np.uint8], command: SetPointCommand) -> None:
    """A table with which no carry is late."""
    memory[command.read_base : command.read_limit] = 63


def random_timing(rng: random.Random, bus_bytes: int) -> dict[str, int]:
    """Fields of `MemoryConfig`, from slow to never in the way."""
    return {
        "latency_cycles": rng.choice([1, 2, 3, rng.randint(1, 200)]),
        "bytes_per_cycle": rng.choice([3, 5, 8, 24, bus_bytes, bus_bytes, 2 * bus_bytes]),
        "read_queue": rng.choice([1, 2, 4, 64]),
        "write_queue": rng.choice([1, 2, 16]),
    }


def random_clock(rng: random.Random) -> Fraction:
    """Frequency over the nominal one: often the nominal, else a twentieth of it to three times as much."""
    odd = Fraction(rng.randrange(10**8, 6 * 10**9), 2 * 10**9)
    return rng.choice([Fraction(1), Fraction(5, 4), Fraction(23, 20), Fraction(1, 3), odd])


def random_checksum(rng: random.Random, block_rows: int, lanes: int) -> ChecksumConfig:
    scheme = rng.choice(["classic", "matched", "weighted", "residue"])
    column_checks = scheme in ("classic", "matched") or rng.random() < 0.6
    return ChecksumConfig(
        scheme=scheme,
        column_checks=column_checks,
        pairs=scheme == "residue" and not column_checks and rng.random() < 0.5,
        group_rows=rng.choice([rows for rows in range(1, block_rows + 1) if block_rows % rows == 0]),
        segment_cols=rng.choice([lanes, lanes + 1, 16]),
    )


def random_config(rng: random.Random, *, protected: bool = False) -> AcceleratorConfig:
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
    block_rows = rng.choice([1, 2, 5, 8, 16, 32, 128])
    lanes = rng.choice([1, 2, 3, 4, 8, 16])
    return AcceleratorConfig(
        rows=rows,
        cols=cols,
        bus_bytes=bus_bytes,
        block_rows=block_rows,
        checksum=random_checksum(rng, block_rows, min(lanes, cols)) if protected else None,
        block_col_tiles=rng.choice([1, 2, 3, 4, 8]),
        slab_bytes=rng.choice([1, 8, 16, 32, 64]),
        drain_lanes=lanes,
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
