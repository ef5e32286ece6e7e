"""New plans in mid-run: when devices slow down, recover or are lost."""

from __future__ import annotations

from .plan import Plan
from .planner import Planner
from .prediction import Predictor
from .timeline import Observation

NOTICED = 0.01
"""Change of a device's free share, of its former value, that is worth planning for."""


class Replanner:
    """Plans the rest of an image anew from a meeting; pass it to `Simulation.run`.

    A meeting is where every device has the latents of all rows, and keys and values are held by all, so that rows can
    change hands without more traffic. What a device that is left out would do is taken from when it was last seen.

    Parameters
    ----------
    planner : Planner
        Makes the plans.
    method : str
        Of the new plans, as `Planner.plan`.
    gain : float
        Share of the remaining time that a new plan must be predicted to save; or may cost, if it evaluates more often.
    """

    def __init__(self, planner: Planner, method: str = "stadi", gain: float = 0.01) -> None:
        if not 0 <= gain < 1:
            raise ValueError(f"gain must be in 0..1 (exclusive), not {gain!r}")
        self.planner, self.method, self.gain = planner, method, gain
        self._known = planner.availability()
        self._planned = dict(self._known)

    def __call__(self, seen: Observation) -> Plan:
        """Plan to go on with.

        Raises
        ------
        PlanError
            The devices that are left cannot finish the image.
        """
        self._known.update(seen.availability)
        for name in seen.lost:
            self._known.pop(name, None)
        must = any(share.device in seen.lost for share in seen.plan.shares)
        changed = any(
            abs(share - self._planned[name]) > NOTICED * self._planned[name] for name, share in self._known.items()
        )
        if not must and not changed:
            return seen.plan
        if not must and seen.step < seen.plan.async_start:
            return seen.plan
        # After a loss in warm-up nothing has been exchanged yet that strides could build on.
        warmup = seen.plan.async_start - seen.step if seen.step < seen.plan.async_start else 0
        used = {share.device for share in seen.plan.shares}
        if len(used) == 1 or seen.plan.divides_batch or used <= seen.lost:
            # Nobody is left who holds keys and values for others.
            warmup = max(1, warmup)
        found = self.planner.plan(self.method, availability=self._known, first_step=seen.step, warmup=warmup)
        if not must:
            predictor = Predictor(self.planner.fleet, self.planner.costs, self._known)
            present = predictor.predict(seen.plan).interval_s * (seen.plan.steps - seen.step) / seen.plan.interval
            # Strides that a faster device no longer needs are given up where that costs little.
            worth = 1 + self.gain if found.plan.fresh_share > seen.plan.fresh_share else 1 - self.gain
            if found.prediction.latency_s > worth * present:
                return seen.plan
        self._planned = dict(self._known)
        return found.plan
