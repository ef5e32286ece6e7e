"""Records of the syndrome log: one table of their fields, from which derive RTL, readers, headers and documentation."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WORD_BITS = 32
"""Records are little-endian words of so many bits."""

LOG_PLAIN_CHECK = 255
"""The plain check itself, as the other place of a double error; no segment has so many columns."""

LOG_RECORDS_PER_BLOCK = 64
"""Records that the hardware keeps of one block of the output; further ones are counted and dropped."""


class Outcome(enum.IntEnum):
    """What happened to a flagged segment of a row."""

    IGNORED = 0
    """A check itself had erred."""
    CORRECTED = 1
    LOCATED = 2
    """One element was located, and not corrected for want of CORRECT."""
    UNCORRECTABLE = 3
    """The error could not be located."""


OUTCOME_MACROS = {
    Outcome.IGNORED: "IGNORED",
    Outcome.CORRECTED: "CORRECTED",
    Outcome.LOCATED: "MARKED_FIT",
    Outcome.UNCORRECTABLE: "MARKED",
}
"""How drivers in C know them: names of macros, which stay."""


@dataclass(frozen=True)
class LogField:
    """An unsigned field of a record.

    Attributes
    ----------
    name : str
    word : int
        Word that it lies in.
    low : int
        Its lowest bit there.
    width : int
        Bits; all lie in `word`.
    doc : str
        Meaning, for the generated headers and docs/reference.md.
    """

    name: str
    word: int
    low: int
    width: int
    doc: str

    @property
    def offset(self) -> int:
        """Byte of the record that its word begins with."""
        return self.word * WORD_BITS // 8

    @property
    def is_word(self) -> bool:
        """Whether it is all of its word."""
        return self.width == WORD_BITS


LOG_FIELDS = (
    LogField("row", 0, 0, 32, "row of the output, as in draws: `first_row` + product of the batch * M + row"),
    LogField("col", 1, 0, 32, "column of the segment's first column, as in draws: `first_col` + column"),
    LogField("syndrome", 2, 0, 32, "plain syndrome r_0, low 32 bits"),
    LogField("count", 3, 0, 8, "number of marked elements"),
    LogField("place", 3, 8, 8, "column that the evidence points to, counted from the segment's first; 0 without one"),
    LogField(
        *("outcome", 3, 16, 2),
        "what happened: "
        + ", ".join(
            f"{int(outcome)} {macro}" + (" (that column)" if outcome is Outcome.LOCATED else "")
            for outcome, macro in OUTCOME_MACROS.items()
        ),
    ),
    LogField("other_place", 3, 18, 8, "of a corrected double error the second column, 255 for the plain check"),
    LogField("pair", 3, 26, 1, "a double error was corrected"),
    LogField("negative", 3, 31, 1, "r_0 < 0: bit 32 of it"),
)
"""In the order of their bits. Bits between them are zero."""

LOG_BITS_WORD = 3
"""The word of the fields that are less than a word."""

LOG_BITS_DOC = "the bits below"

LOG_MASK_WORD = 4
"""With column checks a record goes on with a bit for each column of the segment: it is marked."""

LOG_MASK_WORDS = 4

LOG_MASK_BITS = LOG_MASK_WORDS * WORD_BITS


def log_record_words(column_checks: bool) -> int:
    """Words of a record, with or without `column_checks`."""
    return LOG_MASK_WORD + (LOG_MASK_WORDS if column_checks else 0)


def pack_log_record(values: Mapping[str, int], mask: int | None = None) -> bytes:
    """Bytes of a record.

    Parameters
    ----------
    values : mapping of str to int
        Value of each of `LOG_FIELDS`; fields that are not named are 0.
    mask : int, optional
        Bit i: column i of the segment is marked as uncorrectable. None without column checks.

    Raises
    ------
    ValueError
        There is no such field, or a value does not fit it.
    """
    fields = {field.name: field for field in LOG_FIELDS}
    words = [0] * log_record_words(mask is not None)
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"a log record has no field {name!r}; its fields are {', '.join(fields)}")
        field = fields[name]
        if not 0 <= value < 1 << field.width:
            raise ValueError(f"field {name} of a log record must fit {field.width} unsigned bits, not {value}")
        words[field.word] |= int(value) << field.low
    if mask is not None:
        if not 0 <= mask < 1 << LOG_MASK_BITS:
            raise ValueError(f"mask of a log record must fit {LOG_MASK_BITS} unsigned bits, not {mask}")
        for i in range(LOG_MASK_WORDS):
            words[LOG_MASK_WORD + i] = mask >> WORD_BITS * i & (1 << WORD_BITS) - 1
    return b"".join(word.to_bytes(WORD_BITS // 8, "little") for word in words)


@dataclass(frozen=True)
class LogTable:
    """The records of a log, field by field.

    Attributes
    ----------
    fields : dict of str to uint32 array (records,)
        Values of each of `LOG_FIELDS`.
    masks : uint8 array (records, LOG_MASK_BITS), or (records, 0) without column checks
        Whether each column of the segment is marked, 0 or 1.
    """

    fields: dict[str, NDArray[np.uint32]]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.masks)


def parse_log_table(log: bytes, record_bytes: int) -> LogTable:
    """Fields of the records of a syndrome log.

    Parameters
    ----------
    log : bytes
        Whole records, without gaps.
    record_bytes : int
        Length of a record in bytes (`AcceleratorConfig.log_record_bytes`).

    Raises
    ------
    ValueError
        `log` is no whole number of records.
    """
    import numpy as np  # not where each simulator starts

    if len(log) % record_bytes:
        raise ValueError(f"a log must hold whole records of {record_bytes} bytes, not {len(log)} bytes")
    words = np.frombuffer(log, "<u4").reshape(-1, record_bytes * 8 // WORD_BITS)
    fields = {
        field.name: (words[:, field.word] >> np.uint32(field.low) & np.uint32((1 << field.width) - 1)).astype(np.uint32)
        for field in LOG_FIELDS
    }
    mask_bytes = np.ascontiguousarray(words[:, LOG_MASK_WORD:]).view(np.uint8)
    return LogTable(fields, np.unpackbits(mask_bytes, axis=1, bitorder="little"))


def _check_fields() -> None:
    """Fields lie one after the other, none in two words, those of less than a word in `LOG_BITS_WORD`."""
    end = 0
    for field in LOG_FIELDS:
        start = field.word * WORD_BITS + field.low
        assert start >= end, f"log field {field.name} overlaps the one before"
        assert field.low + field.width <= WORD_BITS, f"log field {field.name} must lie in one word"
        assert field.is_word or field.word == LOG_BITS_WORD, f"log field {field.name} must lie in LOG_BITS_WORD"
        end = start + field.width
    assert end <= LOG_MASK_WORD * WORD_BITS, "log fields must end before the mask"


_check_fields()
