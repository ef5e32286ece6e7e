"""What a checksum scheme is, and which there are."""

from __future__ import annotations

import abc
from typing import ClassVar

from ..registry import Registry, require_members

SYNDROME_BITS = 33
"""Width of the plain row check: one more than an output, so that the error of any single output is unambiguous."""


class CheckScheme(abc.ABC):
    """How errors in a segment of a row are found and located. Its plain row check is the sum of its outputs.

    An error is located either by `locators`, further row checks of weighted sums, or, where `matches`, by a column
    check that has the same value; otherwise it is only found.
    """

    name: ClassVar[str]
    """Value of `ChecksumConfig.scheme`."""

    locates: ClassVar[bool] = False
    """Whether there are locators."""

    matches: ClassVar[bool] = False
    """Whether values of row and column checks are compared."""

    locates_doubles: ClassVar[bool] = False
    """Whether two errors that are powers of two can be located too."""

    def __init_subclass__(cls) -> None:
        if cls.locates:
            require_members(cls, CheckScheme, "check_bits", "weights")

    @property
    def most_locators(self) -> int:
        """Largest number of locators."""
        return 2 if self.locates else 0

    def modulus(self, check: int) -> int:
        """Modulus of row check `check` (1 is the first locator); 0 where sums are whole."""
        return 0

    def check_bits(self, segment_cols: int, check: int) -> int:
        """Width of the sums of locator `check` over a segment of `segment_cols` columns."""
        raise NotImplementedError(f"{self.name!r} has no locators")

    def weights(self, segment_cols: int, check: int) -> tuple[int, ...]:
        """Weight of each of `segment_cols` columns in locator `check`; residues where there is a modulus."""
        raise NotImplementedError(f"{self.name!r} has no locators")


CHECK_SCHEMES: Registry[CheckScheme] = Registry(
    "checksum scheme",
    "brownout.check_schemes",
    {
        "classic": "brownout.hw.checks.classic",
        "matched": "brownout.hw.checks.matched",
        "weighted": "brownout.hw.checks.weighted",
        "residue": "brownout.hw.checks.residue",
    },
)

DEFAULT_SCHEME = "residue"
"""Scheme of `ChecksumConfig`: the cheapest that locates."""
