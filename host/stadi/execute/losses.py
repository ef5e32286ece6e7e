"""When devices are lost: the same moment of a run in simulations whose times differ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..simulate.interval import Failure
from ..simulate.timeline import Segment, Timeline


@dataclass(frozen=True)
class Moment:
    """Place in a device's work.

    Attributes
    ----------
    step : int
        Step of its evaluation.
    share : float
        Share of the evaluation's time that has passed, 0..1.
    """

    step: int
    share: float


def _work(timeline: Timeline, device: str, start: int) -> list[Segment]:
    """What a device computes from a sync point on; not empty if it has a part in the plan."""
    own = (each for each in timeline.segments if each.device == device and each.kind == "compute")
    return [each for each in own if each.step >= start]


def _span(segments: Iterable[Segment], step: int) -> tuple[float, float]:
    of_step = [each for each in segments if each.step == step]
    return min(each.start_s for each in of_step), max(each.end_s for each in of_step)


def moment_of(timeline: Timeline, failure: Failure, start: int) -> Moment:
    """Where a failure hits a device that does not fail in `timeline`, in the interval that begins at a step."""
    work = _work(timeline, failure.device, start)
    begun = [each.step for each in work if each.start_s <= failure.time_s]
    step = max(begun) if begun else work[0].step
    first, last = _span(work, step)
    return Moment(step, min(1.0, max(0.0, (failure.time_s - first) / (last - first))))


def time_of(timeline: Timeline, device: str, start: int, moment: Moment) -> float:
    """Inverse of `moment_of`, in any timeline of the same plans; before the sync point that ends the interval."""
    first, last = _span(_work(timeline, device, start), moment.step)
    # The sync point may be at the very end of an evaluation, and is not reached.
    return max(first, min(first + moment.share * (last - first), math.nextafter(last, 0.0)))


def last_heard(timeline: Timeline, device: str, start: int, done: int | None) -> float:
    """Simulated time at which a device had done an evaluation; None: at which it began the interval."""
    if done is None:
        return _work(timeline, device, start)[0].start_s
    return time_of(timeline, device, start, Moment(done, 1.0))
