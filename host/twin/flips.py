"""Errors of the `flip` model in one product, found without looking at the product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from .geometry import geometry
from .kernels import address, load_kernels
from .state import Call

WORD_MASK = 0xFFFFFFFF

ROW_FACTOR, COL_FACTOR = 0x9E3779B1, 0x85EBCA77
DIGIT_FACTOR, CHECK_FACTOR = 0x7F4A7C15, 0xC2B2AE3D
"""What row, column, digit and check are multiplied by in the keys of draws; docs/protection.md."""

Words = NDArray[np.uint32]


@dataclass(frozen=True)
class Hits:
    """Draws that are errors, in order of rows, then columns of the drawn rectangle.

    Attributes
    ----------
    rows, cols : int32 arrays
        Indices into the rectangle.
    draws : uint32 array
        What was drawn.
    """

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    draws: Words

    def __len__(self) -> int:
        return len(self.rows)


NO_HITS = Hits(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.uint32))


@dataclass(frozen=True)
class Flips:
    """All errors of one product.

    Attributes
    ----------
    outputs : Hits
        Rows m, columns n.
    digits : Hits
        Rows group * digits + digit, columns n.
    checks : Hits
        Rows m, columns segment * checks + check.
    """

    outputs: Hits
    digits: Hits
    checks: Hits

    @property
    def injected(self) -> int:
        """Number of errors."""
        return len(self.outputs) + len(self.digits) + len(self.checks)


def _mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & WORD_MASK
    x ^= x >> 15
    x = x * 0x846CA68B & WORD_MASK
    return x ^ x >> 16


def _words(values: NDArray[np.int64]) -> Words:
    """Integers modulo 2^32; numpy's 64-bit products wrap, which leaves the lower half right."""
    return (values & WORD_MASK).astype(np.uint32)


@lru_cache(maxsize=256)
def _output_columns(
    config: AcceleratorConfig, n: int, first_col: int, rates: tuple[int, ...]
) -> tuple[Words, Words, float]:
    """Terms and rates of the output's columns, and errors to be expected in a row."""
    found = geometry(config, 1, n)
    terms = _words((np.arange(n) + first_col) * COL_FACTOR)
    per_column = np.array(rates, np.uint32)[found.domains]
    return terms, per_column, float(per_column.sum(dtype=np.float64)) / 2**32


@lru_cache(maxsize=256)
def _check_columns(config: AcceleratorConfig, n: int, first_col: int, rate: int) -> tuple[Words, Words, float]:
    """The same for the row checks of all segments."""
    assert config.checksum is not None
    checks = config.checksum.checks
    starts = geometry(config, 1, n).segment_starts[:-1]
    terms = (starts[:, None] + first_col) * COL_FACTOR + (1 + np.arange(checks)) * CHECK_FACTOR
    return _words(terms.reshape(-1)), np.full(terms.size, rate, np.uint32), terms.size * rate / 2**32


@lru_cache(maxsize=256)
def _data_rows(m: int, first_row: int) -> Words:
    """Terms of the rows of data."""
    return _words((np.arange(m) + first_row) * ROW_FACTOR)


@lru_cache(maxsize=256)
def _digit_rows(config: AcceleratorConfig, m: int, first_row: int) -> Words:
    """Terms of the digit rows of all groups."""
    assert config.checksum is not None
    first = (geometry(config, m, 1).group_first.astype(np.int64)[:, None] + first_row) * ROW_FACTOR
    return _words((first + (1 + np.arange(config.checksum.digits)) * DIGIT_FACTOR).reshape(-1))


def _draw(base: int, row_terms: Words, columns: tuple[Words, Words, float], threads: int) -> Hits:
    col_terms, rates, per_row = columns
    expected = len(row_terms) * per_row
    if expected == 0:
        return NO_HITS
    capacity = int(expected + 8 * math.sqrt(expected)) + 16
    while True:
        found = np.empty((3, capacity), np.int32)
        rows, cols, draws = (address(found) + 4 * capacity * i for i in range(3))
        count = load_kernels().brownout_draw_hits(
            base,
            len(row_terms),
            address(row_terms),
            len(col_terms),
            address(col_terms),
            address(rates),
            threads,
            capacity,
            rows,
            cols,
            draws,
        )
        if count <= capacity:
            return Hits(found[0, :count], found[1, :count], found[2, :count].view(np.uint32))
        capacity = count


def draw_flips(config: AcceleratorConfig, m: int, n: int, call: Call) -> Flips:
    """Draw all errors of one product.

    Parameters
    ----------
    config : AcceleratorConfig
    m, n : int
        Extents of the product.
    call : Call
        Its command and place in it.
    """
    options, errors = call.options, call.errors
    base = _mix((errors.seed + _mix(options.error_key)) & WORD_MASK)
    rates = tuple(errors.rate_of(domain) for domain in range(config.voltage_domains))
    rows = _data_rows(m, call.first_row)
    columns = _output_columns(config, n, options.first_col, rates)
    outputs = _draw(base, rows, columns, call.threads)
    checksum = config.checksum
    if checksum is None or not options.check:
        return Flips(outputs, NO_HITS, NO_HITS)
    digits = NO_HITS
    if checksum.column_checks:
        digits = _draw(base, _digit_rows(config, m, call.first_row), columns, call.threads)
    checks = _check_columns(config, n, options.first_col, errors.rate_of(config.check_domain))
    return Flips(outputs, digits, _draw(base, rows, checks, call.threads))
