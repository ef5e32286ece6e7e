"""The memories of an accelerator: of which size and width each is, and what its bytes take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from brownout.hw.config import ACC_BITS, AcceleratorConfig
from brownout.hw.load.receiver import activation_depth, weight_depth

from .sram import Sram, cacti

WIDEST_PORT = 128
"""Bytes of the widest memory of CACTI's table; wider ones are several side by side."""


@dataclass(frozen=True)
class Memory:
    """A memory that reads a word and writes another in each cycle.

    Attributes
    ----------
    name : str
    words : int
    word_bytes : int
    copies : int
        How many of it there are.
    """

    name: str
    words: int
    word_bytes: int
    copies: int = 1

    @property
    def bytes(self) -> int:
        """Capacity of all copies."""
        return self.copies * self.words * self.word_bytes

    def made_of(self, cells: str) -> Sram:
        """Energy constants by CACTI.

        Raises
        ------
        ValueError
            CACTI's table has no memory of this size.
        """
        parts = -(-self.word_bytes // WIDEST_PORT)
        port = self.word_bytes / parts
        try:
            return cacti(self.words * port, max(port, 8), cells, "1r1w")
        except ValueError as error:
            raise ValueError(
                f"{self.name} of {self.words} words of {self.word_bytes} bytes have no price in CACTI's table: "
                f"{error}; choose a larger accelerator, or leave EnergyModel.sram_cells out"
            ) from error


@lru_cache(maxsize=64)
def memories(config: AcceleratorConfig) -> tuple[Memory, Memory, Memory]:
    """Accumulators, activations, weights. Accumulators have two banks, of which one drains while the other adds."""
    accumulators = config.block_rows * config.block_col_tiles
    return (
        Memory("accumulators", accumulators, config.cols * ACC_BITS // 8, copies=2),
        Memory("activations", activation_depth(config), config.rows),
        Memory("weights", weight_depth(config), config.cols),
    )


def sram_bytes(config: AcceleratorConfig) -> int:
    """Bytes of scratchpads and accumulators."""
    return sum(memory.bytes for memory in memories(config))


@dataclass(frozen=True)
class SramPrices:
    """What bytes of accumulators and of scratchpads take, in joules, and what all of them leak, in watts.

    Activations and weights are counted together; their bytes are priced as those of activations, whose memory is the
    larger one.
    """

    accumulators: Sram
    scratchpads: Sram
    leakage_w: float

    @classmethod
    def by_cacti(cls, config: AcceleratorConfig, cells: str) -> SramPrices:
        """Of an accelerator, each memory by its size and width."""
        kinds = memories(config)
        made = [kind.made_of(cells) for kind in kinds]
        leakage_w = sum(kind.bytes * each.leakage_w_per_byte for kind, each in zip(kinds, made, strict=True))
        return cls(accumulators=made[0], scratchpads=made[1], leakage_w=leakage_w)

    @classmethod
    def uniform(cls, config: AcceleratorConfig, byte_j: float, leakage_w_per_byte: float) -> SramPrices:
        """The same for every byte."""
        sram = Sram(name="uniform", read_byte_j=byte_j, write_byte_j=byte_j, leakage_w_per_byte=leakage_w_per_byte)
        return cls(accumulators=sram, scratchpads=sram, leakage_w=sram_bytes(config) * leakage_w_per_byte)
