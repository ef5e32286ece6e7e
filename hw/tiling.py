"""How the hardware cuts a product into blocks and passes: the rule in Python, for the host and the tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache

from .config import AcceleratorConfig
from .dataflow import Block

BALANCED_PIECES = 4
"""So many last pieces of an extent are made equal."""


def split_extent(total: int, largest: int) -> Iterator[tuple[int, int]]:
    """Cut `total` into pieces of at most `largest`, the last few of equal size.

    Equal pieces instead of full ones and a small rest: a pass with few rows cannot hide the load of its weights, and
    a block of few column tiles has little use of its activations. As long as more than `BALANCED_PIECES` full pieces
    are left, a full one is taken; then ceil(left / ceil(left / largest)).

    Yields
    ------
    (int, int)
        Start and length of each piece.
    """
    start = 0
    while (left := total - start) > 0:
        pieces = -(-left // largest)
        size = largest if pieces > BALANCED_PIECES else -(-left // pieces)
        yield start, size
        start += size


@lru_cache(maxsize=256)
def with_block_rows(config: AcceleratorConfig, block_rows: int) -> AcceleratorConfig:
    """Configuration whose blocks are those of a GEMM command with that `block_rows`; 0 for its own."""
    return dataclasses.replace(config, block_rows=block_rows) if block_rows else config


def keeps(config: AcceleratorConfig, m: int, k: int, block_rows: int = 0) -> bool:
    """Whether the activations of a row of blocks can be kept: the rule by which the hardware refuses commands."""
    rows = min(m, block_rows or config.block_rows)
    return rows * -(-k // config.rows) <= config.activation_vectors


def blocks(config: AcceleratorConfig, m: int, n: int, batch: int = 1) -> Iterator[Block]:
    """All blocks of a product in the order in which the hardware computes them."""
    return config.dataflow.blocks(config, m, n, batch)


def attention_rows(config: AcceleratorConfig, queries: int, keys: int) -> int:
    """Queries of a block of ATTENTION: as many as have room for their scores in a bank, evened out; 0 if none has."""
    room = min(config.block_rows, config.block_rows * config.block_col_tiles // -(-keys // config.cols))
    return -(-queries // -(-queries // room)) if room else 0


def ideal_cycles(config: AcceleratorConfig, m: int, n: int, k: int, batch: int = 1) -> int:
    """Cycles of a product on an array that is never idle."""
    return config.dataflow.ideal_cycles(config, m, n, k, batch)


def slabs(config: AcceleratorConfig, k: int) -> Iterator[tuple[int, int]]:
    """First k-tile and number of k-tiles of each slab, the unit in which operands are fetched."""
    return config.dataflow.slabs(config, k)
