"""Numbers in the models of timing errors; docs/protection.md has what is done with them.

RTL and the twin take them from here, `brownout.cosim.reference` has its own.
"""

from __future__ import annotations

MIX_FACTORS = (0x7FEB352D, 0x846CA68B)
"""Odd factors of the two multiplications of the hash."""

ROW_STEP = 0x9E3779B1
"""What a row adds to the key of its draws, for each row."""

DIGIT_STEP = 0x7F4A7C15
"""Of a digit row, likewise, for each digit."""

COLUMN_STEP = 0x85EBCA77
"""Of a column."""

CHECK_STEP = 0xC2B2AE3D
"""Of a row check."""

PICK_KEY = 0x27D4EB2F
"""What turns a draw into its second number, which picks the bit."""

BIT_THRESHOLDS = 30
"""Thresholds between the 31 bits that can be hit."""

LENGTH_BITS = 6
"""Width of settled carry lengths: of a byte of their table the lowest bits."""

NOMINAL_LENGTH = (1 << LENGTH_BITS) - 1
"""Settled carry length of every processing element after reset: no carry is ever late."""

SAFE_LENGTH = 31
"""No carry in 32 bits is late from this settled length on."""
