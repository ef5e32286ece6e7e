"""One product of a command on the twin."""

from __future__ import annotations

from dataclasses import dataclass

from brownout.hw.errors.state import CommandOptions, ErrorState


@dataclass(frozen=True)
class Call:
    """One product of a command on the twin.

    Attributes
    ----------
    options : CommandOptions
        Of the command.
    errors : ErrorState
        What earlier commands have set.
    first_row : int
        Global row of the product's first row, its place in the batch included; modulo 2^32.
    room : int
        Records that still fit into the log.
    threads : int
        Threads to use at most.
    """

    options: CommandOptions
    errors: ErrorState
    first_row: int = 0
    room: int = 0
    threads: int = 1
