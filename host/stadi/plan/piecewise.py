"""Rates that are piecewise constant over time: when work is done, and how much."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise


def check_pieces(owner: str, values_name: str, starts_s: Sequence[float], values: Sequence[float]) -> None:
    """Refuse pieces that are out of order.

    Parameters
    ----------
    owner, values_name : str
        Class and field, for the message.
    starts_s, values : sequence of float
        When each piece begins, the first one at 0, and its value.
    """
    if len(starts_s) != len(values) or not values:
        raise ValueError(
            f"{owner} needs as many starts_s as {values_name}, and at least one, not {len(starts_s)} and {len(values)}"
        )
    if starts_s[0] != 0:
        raise ValueError(f"{owner}.starts_s must begin with 0, not {starts_s[0]!r}")
    for before, after in pairwise(starts_s):
        if not before < after < math.inf:
            raise ValueError(f"{owner}.starts_s must rise and be finite, but {after!r} follows {before!r}")


def value_at(starts_s: Sequence[float], values: Sequence[float], time_s: float) -> float:
    """Value of the piece at a time."""
    return values[max(0, bisect_right(starts_s, time_s) - 1)]


def _pieces(starts_s: Sequence[float], values: Sequence[float], start_s: float) -> Iterator[tuple[float, float, float]]:
    """Begin, end and value of each piece from a time on."""
    first = max(0, bisect_right(starts_s, start_s) - 1)
    ends = (*starts_s[1:], math.inf)
    for index in range(first, len(values)):
        yield max(start_s, starts_s[index]), ends[index], values[index]


def finish(starts_s: Sequence[float], rates: Sequence[float], start_s: float, work: float) -> float:
    """When work is done that begins at a time; infinite if the last rate is 0 and does not finish it."""
    if not work:
        return start_s
    for begin, end, rate in _pieces(starts_s, rates, start_s):
        if end == math.inf:
            return begin + work / rate if rate else math.inf
        if work <= rate * (end - begin):
            return begin + work / rate
        work -= rate * (end - begin)
    raise AssertionError("the last piece never ends")


def integral(starts_s: Sequence[float], rates: Sequence[float], start_s: float, end_s: float) -> float:
    """Work that is done between two times."""
    return sum(
        rate * (min(end, end_s) - begin) for begin, end, rate in _pieces(starts_s, rates, start_s) if begin < end_s
    )
