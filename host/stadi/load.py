"""Background load of a device over time."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadTrace:
    """Share of a device's time that others take, piecewise constant.

    Attributes
    ----------
    starts_s : tuple of float
        When each piece begins, in seconds of simulated time; the first one at 0, the last one never ends.
    duties : tuple of float
        Share that is taken in each piece, 0 to 1. In the last piece it must be below 1, or work never ends.

    Raises
    ------
    ValueError
        Pieces are out of order, or a duty out of range.
    """

    starts_s: tuple[float, ...] = (0.0,)
    duties: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if len(self.starts_s) != len(self.duties) or not self.duties:
            raise ValueError(
                f"LoadTrace needs as many starts_s as duties, and at least one, not {len(self.starts_s)} "
                f"and {len(self.duties)}"
            )
        if self.starts_s[0] != 0:
            raise ValueError(f"LoadTrace.starts_s must begin with 0, not {self.starts_s[0]!r}")
        for before, after in zip(self.starts_s, self.starts_s[1:], strict=False):
            if not before < after < math.inf:
                raise ValueError(f"LoadTrace.starts_s must rise and be finite, but {after!r} follows {before!r}")
        for duty in self.duties:
            if not 0 <= duty <= 1:
                raise ValueError(f"LoadTrace.duties must be in 0..1, not {duty!r}")
        if self.duties[-1] == 1:
            raise ValueError("LoadTrace.duties must end below 1: a device that is never free again finishes nothing")

    @classmethod
    def constant(cls, duty: float) -> LoadTrace:
        """The same share at all times."""
        return cls((0.0,), (duty,))

    def availability(self, time_s: float) -> float:
        """Share of the device that is left at a time."""
        return 1 - self.duties[max(0, bisect_right(self.starts_s, time_s) - 1)]

    def _pieces(self, start_s: float) -> Iterator[tuple[float, float, float]]:
        """Begin, end and availability of each piece from a time on."""
        first = max(0, bisect_right(self.starts_s, start_s) - 1)
        ends = (*self.starts_s[1:], math.inf)
        for index in range(first, len(self.duties)):
            yield max(start_s, self.starts_s[index]), ends[index], 1 - self.duties[index]

    def finish(self, start_s: float, work_s: float) -> float:
        """When work is done that begins at `start_s` and would take `work_s` on the free device."""
        for begin, end, share in self._pieces(start_s):
            if work_s <= share * (end - begin) if end < math.inf else True:
                return begin + work_s / share if work_s else begin
            work_s -= share * (end - begin)
        raise AssertionError("the last piece never ends")

    def work(self, start_s: float, end_s: float) -> float:
        """Seconds of the free device between two times."""
        return sum(share * (min(end, end_s) - begin) for begin, end, share in self._pieces(start_s) if begin < end_s)
