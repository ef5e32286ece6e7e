"""Layout of a record in the syndrome log: one table, from which the C header and the documentation derive."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LogWord:
    """A 32-bit word of a record, little-endian."""

    name: str
    offset: int
    doc: str


LOG_WORDS = (
    LogWord("row", 0, "row of the output, as in draws: `first_row` + product of the batch * M + row"),
    LogWord("col", 4, "column of the segment's first column, as in draws: `first_col` + column"),
    LogWord("syndrome", 8, "plain syndrome r_0, low 32 bits"),
    LogWord("word", 12, "the bits below"),
)


@dataclass(frozen=True)
class LogBits:
    """Bits of the last word: the lowest one, how many, and what they mean."""

    name: str
    low: int
    bits: int
    doc: str


LOG_BITS = (
    LogBits("count", 0, 8, "number of marked elements"),
    LogBits("place", 8, 8, "column that the evidence points to, counted from the segment's first; 0 without one"),
    LogBits("outcome", 16, 2, "what happened: 0 IGNORED, 1 CORRECTED, 2 MARKED_FIT (that column), 3 MARKED"),
    LogBits("other_place", 18, 8, "of a corrected double error the second column, 255 for the plain check"),
    LogBits("pair", 26, 1, "a double error was corrected"),
    LogBits("negative", 31, 1, "r_0 < 0: bit 32 of it"),
)

LOG_OUTCOMES = ("IGNORED", "CORRECTED", "MARKED_FIT", "MARKED")

LOG_MASK_OFFSET = 16
LOG_MASK_BYTES = 16
"""With column checks a record goes on with a bit for each column of the segment: it is marked."""
