"""What became of a plan: segments of every device, times, energy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..plan.plan import Plan


class Segment(NamedTuple):
    """Bar of a Gantt chart.

    Attributes
    ----------
    device : str
        Its row.
    kind : {"compute", "wait", "exchange", "lost"}
        Computing; waiting for other devices; waiting for a link, while nothing computes here; computed in vain, because
        a device was lost before the next sync point.
    start_s, end_s : float
        Simulated time.
    step : int
        Step of the evaluation, or of the sync point that it waits for.
    """

    device: str
    kind: str
    start_s: float
    end_s: float
    step: int


@dataclass
class Timeline:
    """What became of a plan.

    Attributes
    ----------
    latency_s : float
        Until the image is whole on every device, from its begin.
    segments : list of Segment
        Segments in order, per device.
    busy_s, free_s : dict of str to float
        Time of the free device that went into the image, and that there was, of each device of any plan.
    exposed_s : dict of str to float
        Time that a device waited for links.
    energy_j : float
        Evaluations, links, and leakage of all these devices over the free time.
    link_bytes : float
        Sent on all links.
    plans : list of Plan
        The first one and those that replaced it.
    """

    latency_s: float = 0.0
    segments: list[Segment] = field(default_factory=list)
    busy_s: dict[str, float] = field(default_factory=dict)
    free_s: dict[str, float] = field(default_factory=dict)
    exposed_s: dict[str, float] = field(default_factory=dict)
    energy_j: float = 0.0
    link_bytes: float = 0.0
    plans: list[Plan] = field(default_factory=list)

    @property
    def utilisation(self) -> dict[str, float]:
        """Share of its free time that each device computed."""
        return {name: busy / self.free_s[name] for name, busy in self.busy_s.items()}
