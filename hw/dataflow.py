"""Dataflows: what stays in the array while the rest moves through it, and what follows from that."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .registry import Registry

if TYPE_CHECKING:
    from amaranth.lib import wiring


@dataclass(frozen=True)
class Block:
    """One block of the output: `rows` rows from `first_row`, `col_tiles` column tiles from `first_col_tile`."""

    batch: int
    first_row: int
    rows: int
    first_col_tile: int
    col_tiles: int


class Dataflow(abc.ABC):
    """How products are walked and where their sums live.

    The walk is one rule that loader, sequencer, drain, cycle model, twin and tests follow; the units are those that
    are between loader and drain. The cycle model of another dataflow is C++ of its own (docs/extending.md).
    """

    name: ClassVar[str]
    """Name for messages and tables."""

    sums_in_accumulators: ClassVar[bool]
    """Whether partial sums leave the array after each k-tile, and row checks sum them up beside the accumulators."""

    @abc.abstractmethod
    def blocks(self, config: Any, m: int, n: int, batch: int = 1) -> Iterator[Block]:
        """All blocks of a product (M, N) in the order in which the hardware computes them."""

    @abc.abstractmethod
    def slabs(self, config: Any, k: int) -> Iterator[tuple[int, int]]:
        """First k-tile and number of k-tiles of each unit of K in which operands are fetched."""

    @abc.abstractmethod
    def ideal_cycles(self, config: Any, m: int, n: int, k: int, batch: int = 1) -> int:
        """Cycles of a product on an array that is never idle."""

    @abc.abstractmethod
    def array(self, config: Any, name: str) -> wiring.Component:
        """The array; `name` is that of the top module, with which those of its rows begin."""

    @abc.abstractmethod
    def accumulator(self, config: Any) -> wiring.Component:
        """What sums leave the array for."""

    @abc.abstractmethod
    def sequencer(self, config: Any) -> wiring.Component:
        """What walks the passes of a product."""


DATAFLOWS: Registry[Dataflow] = Registry(
    "dataflow", "brownout.dataflows", {"weight-stationary": "brownout.hw.array.weight_stationary"}
)

WEIGHT_STATIONARY = "weight-stationary"
"""The dataflow of all accelerators so far."""
