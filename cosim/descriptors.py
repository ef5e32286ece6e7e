"""Descriptors 0, 1 and 2, which belong to the standard streams even where these are closed."""

from __future__ import annotations

import os


def reserve_standard_descriptors() -> None:
    """Open the null device at each of 0, 1 and 2 that is closed, so that no other file gets that number.

    A process may be started with its standard streams closed. The next file that is opened then gets the number of one
    of them: a child has it replaced by its own stream, and what a C library prints in this process is written into it.
    """
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
