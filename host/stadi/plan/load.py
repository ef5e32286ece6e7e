"""Background load of a device over time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ...storage.packable import packable
from .piecewise import check_pieces, finish, integral, value_at


@packable("stadi.load.LoadTrace")
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
        check_pieces("LoadTrace", "duties", self.starts_s, self.duties)
        for duty in self.duties:
            if not 0 <= duty <= 1:
                raise ValueError(f"LoadTrace.duties must be in 0..1, not {duty!r}")
        if self.duties[-1] == 1:
            raise ValueError("LoadTrace.duties must end below 1: a device that is never free again finishes nothing")

    @classmethod
    def constant(cls, duty: float) -> LoadTrace:
        """The same share at all times."""
        return cls((0.0,), (duty,))

    @cached_property
    def _shares(self) -> tuple[float, ...]:
        return tuple(1 - duty for duty in self.duties)

    def availability(self, time_s: float) -> float:
        """Share of the device that is left at a time."""
        return value_at(self.starts_s, self._shares, time_s)

    def finish(self, start_s: float, work_s: float) -> float:
        """When work is done that begins at `start_s` and would take `work_s` on the free device."""
        return finish(self.starts_s, self._shares, start_s, work_s)

    def work(self, start_s: float, end_s: float) -> float:
        """Seconds of the free device between two times."""
        return integral(self.starts_s, self._shares, start_s, end_s)
