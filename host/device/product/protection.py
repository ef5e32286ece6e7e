"""What a product asks of the checksum units, and what they report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions
from brownout.hw.log_record import Outcome as Outcome
from brownout.hw.log_record import parse_log_table

from ...storage.packable import packable

ON_UNCORRECTABLE = ("suppress", "reload", "zero", "keep")

THETA_LIMIT = 63

_NO_FLAGS = GemmFlag(0)

_FLAGS = {
    "suppress": GemmFlag.SUPPRESS,
    "reload": GemmFlag.SUPPRESS,
    "zero": GemmFlag.ZERO,
    "keep": GemmFlag(0),
}


_IN_FILES = {"on_uncorrectable": "on_mark"}


@packable("protection.Protection", _IN_FILES)
@dataclass(frozen=True, kw_only=True)
class Protection:
    """Use of the checksum units in a product.

    Attributes
    ----------
    check : bool
        Run the checks at all.
    correct : bool
        Correct errors that are located; otherwise these elements count as uncorrectable.
    on_uncorrectable : {"suppress", "reload", "zero", "keep"}
        What becomes of uncorrectable elements, all of which may be wrong: not written, so that `out` keeps
        its old value there; not written, and then copied from a checkpoint as far as the log names them; zero; or
        written as they are.
    theta : int
        Syndromes below 2^theta in magnitude are let pass; 0 to 63.
    log_records : int
        Room for syndrome records in `Accelerator.last_log`; further ones are counted only.
    """

    check: bool = True
    correct: bool = True
    on_uncorrectable: str = "keep"
    theta: int = 0
    log_records: int = 1024

    def __post_init__(self) -> None:
        if self.on_uncorrectable not in ON_UNCORRECTABLE:
            choices = ", ".join(map(repr, ON_UNCORRECTABLE))
            raise ValueError(f"Protection.on_uncorrectable must be one of {choices}, not {self.on_uncorrectable!r}")
        for name, limit in (("theta", THETA_LIMIT), ("log_records", 1 << 24)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limit:
                raise ValueError(f"Protection.{name} must be an integer in 0..{limit}, not {value!r}")
        for name in ("check", "correct"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Protection.{name} must be a bool, not {getattr(self, name)!r}")
        if self.on_uncorrectable == "reload" and not self.log_records:
            raise ValueError(
                "Protection.log_records must not be 0 with on_uncorrectable='reload', which finds elements in the log"
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON, by the names that files have."""
        return {_IN_FILES.get(name, name): value for name, value in asdict(self).items()}

    @cached_property
    def flags(self) -> GemmFlag:
        """Flags of the GEMM command."""
        if not self.check:
            return GemmFlag(0)
        flags = GemmFlag.CHECK | (GemmFlag.CORRECT if self.correct else GemmFlag(0))
        return flags | _FLAGS[self.on_uncorrectable]


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
        if chosen.on_uncorrectable in ("suppress", "reload") and out is None:
            raise ValueError(
                f"on_uncorrectable={chosen.on_uncorrectable!r} needs out=, whose old values suppressed elements keep; "
                "make a tensor with new_slot, or choose on_uncorrectable='zero' or 'keep'"
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
        What was done about the segment.
    uncorrectable : tuple of int
        Columns of the uncorrectable elements, counted from `col`.
    position : int
        Column of the located element, counted from `col`; 0 without.
    other : int or None
        Place of the other one of a corrected double error, counted likewise, 255 for the plain check itself.
    """

    row: int
    col: int
    syndrome: int
    outcome: Outcome
    uncorrectable: tuple[int, ...]
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
            uncorrectable = tuple(mask.nonzero()[0].tolist())
        else:
            # It is one element that was located, or all of the segment.
            first = position if outcome is Outcome.LOCATED else 0
            uncorrectable = tuple(range(first, first + values["count"]))
        other = values["other_place"] if values["pair"] else None
        records.append(LogRecord(values["row"], values["col"], syndrome, outcome, uncorrectable, position, other))
    return records
