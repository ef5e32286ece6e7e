"""What decides about timing errors and checksums in one GEMM command, beside its operands: architectural state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from brownout.hw.commands import GemmFlag, SetErrorsCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.constants import NOMINAL_LENGTH

UNIFORM_BITS = SetErrorsCommand(seed=0, rates=()).bits
"""Thresholds with which every bit 0..30 is hit equally often."""


BITS = 31
"""Bits 0..30 can be hit; the sign is left alone, as in the DRIFT authors' code."""


def bit_thresholds(weights: Sequence[float] | None) -> tuple[int, ...]:
    """Thresholds of SET_ERRORS for relative frequencies of bits 0..30; None: all alike.

    Raises
    ------
    ValueError
        They are not 31, one is negative, or all are zero.
    """
    if weights is None:
        return UNIFORM_BITS
    values = [float(weight) for weight in weights]
    if len(values) != BITS or not all(value >= 0 for value in values) or not sum(values) > 0:
        raise ValueError(f"bit_weights must be {BITS} numbers, none negative and not all zero, not {values!r}")
    total = sum(values)
    reached = list(accumulate(values))[: BITS - 1]
    return tuple(min(round(value / total * 2**32), 2**32 - 1) for value in reached)


def check_columns(config: AcceleratorConfig) -> int:
    """Check columns at the right of the array: one for each check of each segment."""
    return 0 if config.checksum is None else len(config.segments) * config.checksum.checks


def column_domain(config: AcceleratorConfig, column: int) -> int:
    """Voltage domain of a column of the array or, after these, of a check column."""
    return config.domain_of_column(column) if column < config.cols else config.check_domain


@dataclass
class ErrorState:
    """What SET_ERRORS and SET_POINT commands have left in the hardware; see docs/protection.md.

    Attributes
    ----------
    seed : int
        uint32, of all draws (`flip`).
    rates : tuple of int
        Errors per 2^32 draws at operating points 0, 1, ..; missing ones are 0 (`flip`).
    bits : tuple of int
        30 increasing uint32 thresholds: chance per 2^32 that the inverted bit is at most bit 0, 1, .. 29 (`flip`).
    points : tuple of int
        Operating point of each voltage domain, that of the checksum units last; missing ones are at 0.
    lengths : uint8 array (rows, cols + check columns), optional
        Settled carry length of every processing element (`carry`), the array's columns first, then the check columns
        segment by segment; None: nothing is ever late.
    """

    seed: int = 0
    rates: tuple[int, ...] = ()
    bits: tuple[int, ...] = UNIFORM_BITS
    points: tuple[int, ...] = ()
    lengths: NDArray[np.uint8] | None = None

    def move(
        self, config: AcceleratorConfig, domain: int, point: int, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        """Move a voltage domain to an operating point, as SET_POINT does.

        Parameters
        ----------
        config : AcceleratorConfig
        domain, point : int
            Which domain, and where to.
        lengths : uint8 array (rows, cols + check columns), optional
            The command's table, of which the domain's columns are taken over.
        """
        points = [*self.points, *[0] * (config.check_domain + 1 - len(self.points))]
        points[domain] = point
        self.points = tuple(points)
        if lengths is None:
            return
        if self.lengths is None:
            self.lengths = np.full((config.rows, config.cols + check_columns(config)), NOMINAL_LENGTH, np.uint8)
        columns = [column for column in range(lengths.shape[1]) if column_domain(config, column) == domain]
        self.lengths[:, columns] = lengths[:, columns] & NOMINAL_LENGTH

    def rate_of(self, domain: int) -> int:
        """Errors per 2^32 draws in a voltage domain at its present operating point."""
        point = self.points[domain] if domain < len(self.points) else 0
        return self.rates[point] if point < len(self.rates) else 0


# Plain integers: operators of flags take a microsecond each, and every product asks a dozen times.
_CHECK, _SUPPRESS, _ZERO = (int(flag) for flag in (GemmFlag.CHECK, GemmFlag.SUPPRESS, GemmFlag.ZERO))


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Fields of a GEMM command that concern errors and checks.

    Attributes
    ----------
    flags : GemmFlag
        Any of CHECK, CORRECT, SUPPRESS and ZERO; what else is set is ignored.
    error_key, first_row, first_col, theta, log_bytes : int
        Fields of these names of `brownout.hw.commands.GemmCommand`.
    """

    flags: GemmFlag = field(default_factory=lambda: GemmFlag(0))
    error_key: int = 0
    first_row: int = 0
    first_col: int = 0
    theta: int = 0
    log_bytes: int = 0

    @property
    def check(self) -> bool:
        """Whether the checks run."""
        return bool(int(self.flags) & _CHECK)

    @property
    def suppress(self) -> bool:
        """Whether marked elements keep what memory held."""
        return bool(int(self.flags) & _SUPPRESS)

    @property
    def zero(self) -> bool:
        """Whether marked elements are written as zero."""
        return bool(int(self.flags) & _ZERO)
