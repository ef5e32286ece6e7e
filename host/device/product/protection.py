"""What a product asks of the checksum units, and what they report."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions
from brownout.hw.log_record import Outcome as Outcome
from brownout.hw.log_record import parse_log_table

from ...storage.packable import packable

ON_MARK = ("suppress", "reload", "zero", "keep")

THETA_LIMIT = 63

_NO_FLAGS = GemmFlag(0)

_MARK_FLAGS = {
    "suppress": GemmFlag.SUPPRESS,
    "reload": GemmFlag.SUPPRESS,
    "zero": GemmFlag.ZERO,
    "keep": GemmFlag(0),
}


@packable("protection.Protection")
@dataclass(frozen=True, kw_only=True)
class Protection:
    """Use of the checksum units in a product.

    Attributes
    ----------
    check : bool
        Run the checks at all.
    correct : bool
        Correct errors that are located; otherwise these elements are marked.
    on_mark : {"suppress", "reload", "zero", "keep"}
        What becomes of marked elements, which may be wrong and cannot be corrected: not written, so that `out` keeps
        its old value there; not written, and then copied from a checkpoint as far as the log names them; zero; or
        written as they are.
    theta : int
        Syndromes below 2^theta in magnitude are let pass; 0 to 63.
    log_records : int
        Room for syndrome records in `Accelerator.last_log`; further ones are counted only.
    """

    check: bool = True
    correct: bool = True
    on_mark: str = "keep"
    theta: int = 0
    log_records: int = 1024

    def __post_init__(self) -> None:
        if self.on_mark not in ON_MARK:
            raise ValueError(f"Protection.on_mark must be one of {', '.join(map(repr, ON_MARK))}, not {self.on_mark!r}")
        for name, limit in (("theta", THETA_LIMIT), ("log_records", 1 << 24)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
                raise ValueError(f"Protection.{name} must be an integer in 0..{limit}, not {value!r}")
        for name in ("check", "correct"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Protection.{name} must be a bool, not {getattr(self, name)!r}")
        if self.on_mark == "reload" and not self.log_records:
            raise ValueError("Protection.log_records must not be 0 with on_mark='reload', which finds marks in the log")

    @cached_property
    def flags(self) -> GemmFlag:
        """Flags of the GEMM command."""
        if not self.check:
            return GemmFlag(0)
        flags = GemmFlag.CHECK | (GemmFlag.CORRECT if self.correct else GemmFlag(0))
        return flags | _MARK_FLAGS[self.on_mark]


def check_protection(config: AcceleratorConfig, protection: Protection | None) -> None:
    """Refuse checks that an accelerator does not have; raises `ValueError`."""
    if protection is not None and protection.check and config.checksum is None:
        raise ValueError(
            "protection needs checksum units, but the accelerator has none; "
            "give AcceleratorConfig a ChecksumConfig, or pass Protection(check=False)"
        )


def command_options(
    config: AcceleratorConfig,
    chosen: Protection | None,
    out: torch.Tensor | None,
    error_key: int,
    first_row: int,
    first_col: int,
) -> CommandOptions:
    """Fields of the command that concern errors and checks, from arguments of `gemm`."""
    check_protection(config, chosen)
    for name, value in (("error_key", error_key), ("first_row", first_row), ("first_col", first_col)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise ValueError(f"{name} must be an integer in 0..{(1 << 32) - 1}, not {value!r}")
    flags, theta, log_bytes = _NO_FLAGS, 0, 0
    if chosen is not None and chosen.check:
        if chosen.on_mark in ("suppress", "reload") and out is None:
            raise ValueError(
                f"on_mark={chosen.on_mark!r} needs out=, whose old values suppressed elements keep; "
                "make a tensor with new_slot, or choose on_mark='zero' or 'keep'"
            )
        flags, theta = chosen.flags, chosen.theta
        log_bytes = chosen.log_records * config.log_record_bytes
    return CommandOptions(
        flags=flags,
        error_key=error_key,
        first_row=first_row,
        first_col=first_col,
        theta=theta,
        log_bytes=log_bytes,
    )


UNCHECKED = Protection(check=False)
"""Protection of a product without checks."""


@dataclass(frozen=True)
class LogRecord:
    """One flagged segment of a row.

    Attributes
    ----------
    row, col : int
        Global row, and global column of the segment's first column.
    syndrome : int
        r_0: the sum of all errors in the segment.
    outcome : Outcome
        What was done.
    marked : tuple of int
        Columns of the elements marked, counted from `col`.
    position : int
        Column of the located element, counted from `col`; 0 without.
    other : int or None
        Of a corrected pair of errors the place of the other one, counted likewise, 255 for the plain check itself.
    """

    row: int
    col: int
    syndrome: int
    outcome: Outcome
    marked: tuple[int, ...]
    position: int
    other: int | None = None


def parse_log(log: bytes, record_bytes: int) -> list[LogRecord]:
    """Records of a syndrome log of `AcceleratorConfig.log_record_bytes` each; docs/protection.md has the layout.

    Raises
    ------
    ValueError
        `log` is no whole number of records.
    """
    table = parse_log_table(log, record_bytes)
    columns = {name: values.tolist() for name, values in table.fields.items()}
    records = []
    for i, mask in enumerate(table.masks):
        values = {name: column[i] for name, column in columns.items()}
        syndrome = values["syndrome"] - (values["negative"] << 32)
        outcome, position = Outcome(values["outcome"]), values["place"]
        if len(mask):
            marked = tuple(mask.nonzero()[0].tolist())
        else:
            # It is one element that was located, or all of the segment.
            first = position if outcome is Outcome.MARKED_BY_FIT else 0
            marked = tuple(range(first, first + values["count"]))
        other = values["other_place"] if values["pair"] else None
        records.append(LogRecord(values["row"], values["col"], syndrome, outcome, marked, position, other))
    return records
