"""New plans in mid-run: when devices or links slow down, recover or are lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from ..plan.link import Pair
from ..plan.plan import Plan
from ..plan.planner import Planner
from ..plan.prediction import Predictor
from .simulation import Observation

NOTICED = 0.01
"""Change of a device's free share or a link's bandwidth, of its former value, that is worth planning for."""

_Key = TypeVar("_Key")


class Replanner:
    """Plans the rest of an image anew from a sync point; pass it to `Simulation.run`.

    A sync point is where every device has the latents of all rows, and keys and values are held by all, so that rows
    can change hands without more traffic. What a device or a link that is left out would do is taken from when it was
    last seen.

    Parameters
    ----------
    planner : Planner
        Makes the plans.
    method : str
        Method of the new plans, as `Planner.plan`.
    gain : float
        Share of the remaining time that a new plan must be predicted to save; or may cost, if it evaluates more often.
    availability : mapping of str to float, optional
        Free share of the devices that may be used, as the first plan was made for; by default the planner's.
    bandwidths : mapping of Pair to float, optional
        Bytes per second of each link, as the first plan was made for; by default at time 0.
    resynchronise : bool
        Whether new plans begin with a synchronous step, because rows of the model change hands only there.
    """

    def __init__(
        self,
        planner: Planner,
        method: str = "stadi",
        gain: float = 0.01,
        *,
        availability: Mapping[str, float] | None = None,
        bandwidths: Mapping[Pair, float] | None = None,
        resynchronise: bool = False,
    ) -> None:
        if not 0 <= gain < 1:
            raise ValueError(f"gain must be in 0..1 (exclusive), not {gain!r}")
        self.planner, self.method, self.gain, self.resynchronise = planner, method, gain, resynchronise
        self._known = planner.availability() if availability is None else dict(availability)
        self._links = planner.fleet.bandwidths(0.0) if bandwidths is None else dict(bandwidths)
        self._planned, self._planned_links = dict(self._known), dict(self._links)

    def __call__(self, seen: Observation) -> Plan:
        """Plan to go on with.

        Raises
        ------
        PlanError
            The devices that are left cannot finish the image.
        """
        self._known.update(seen.availability)
        self._links.update(seen.bandwidths)
        for name in seen.lost:
            self._known.pop(name, None)
        used = [share.device for share in seen.plan.shares]
        must = any(name in seen.lost for name in used)
        must |= any(not self._links[a, b] for a in used for b in used if a != b)
        changed = _differ(self._known, self._planned) or _differ(self._links, self._planned_links)
        if not must and not changed:
            return seen.plan
        if not must and seen.step < seen.plan.async_start:
            return seen.plan
        # After a loss in warm-up nothing has been exchanged yet that strides could build on.
        warmup = seen.plan.async_start - seen.step if seen.step < seen.plan.async_start else 0
        if self.resynchronise or len(used) == 1 or seen.plan.divides_batch or seen.lost.issuperset(used):
            # Nobody holds for others what they would use.
            warmup = max(1, warmup)
        found = self.planner.plan(
            self.method, availability=self._known, bandwidths=self._links, first_step=seen.step, warmup=warmup
        )
        if not must:
            predictor = Predictor(self.planner.fleet, self.planner.costs, self._known, self._links)
            present = predictor.predict(replace(seen.plan, first_step=seen.step, warmup=0)).latency_s
            # Strides that a faster device no longer needs are given up where that costs little.
            worth = 1 + self.gain if found.plan.fresh_share > seen.plan.fresh_share else 1 - self.gain
            if found.prediction.latency_s > worth * present:
                return seen.plan
        self._planned, self._planned_links = dict(self._known), dict(self._links)
        return found.plan


def _differ(known: Mapping[_Key, float], planned: Mapping[_Key, float]) -> bool:
    return any(abs(value - planned[key]) > NOTICED * planned[key] for key, value in known.items())
