"""A plan in simulated time: when every device computes, waits and sends, exactly and deterministically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import PlanError
from ..plan.link import Pair
from ..plan.plan import Plan
from .fleet_model import FleetModel
from .interval import Clock, Failure, Interval
from .timeline import Timeline


class Observation(NamedTuple):
    """What is known at a sync point.

    Attributes
    ----------
    step : int
        First step that is not done.
    time_s : float
        Simulated time.
    plan : Plan
        The present one.
    availability : mapping of str to float
        Measured: free time over time, in the last stage of each device that is left.
    lost : frozenset of str
        Devices that are gone.
    bandwidths : mapping of Pair to float
        Measured: bytes per second of each link that was used in the interval, over the time in which it was busy;
        0 for one that has failed.
    """

    step: int
    time_s: float
    plan: Plan
    availability: Mapping[str, float]
    lost: frozenset[str]
    bandwidths: Mapping[Pair, float]


Replan = Callable[[Observation], Plan]
"""Gives the plan to go on with from a sync point: the present one, or one whose ``first_step`` is ``step``."""


class Simulation(FleetModel):
    """Simulates plans on a fleet.

    Keys and values leave as soon as their stage is computed, on links that work beside the device; an evaluation waits
    in each self-attention until those are there that `Plan.held` names. Messages of a link queue in the order in which
    they are sent. The latents of a sync point overtake them: they are a thousandth of the bytes.

    Parameters
    ----------
    fleet : FleetSpec
        Devices and links.
    costs : Costs
        Costs of the model.
    """

    def run(
        self, plan: Plan, replan: Replan | None = None, failures: Iterable[Failure] = (), *, start_s: float = 0.0
    ) -> Timeline:
        """Simulate a plan.

        Parameters
        ----------
        plan : Plan
            Where to begin.
        replan : callable, optional
            Asked at every sync point but the last, and when a device or a link is lost; by default the plan stays.
        failures : iterable of Failure
            Devices that stop.
        start_s : float
            When the image begins.

        Raises
        ------
        PlanError
            A device or a link was lost and there is no `replan`, or it cannot go on; or the plan names unknown devices
            or needs links that are down.
        """
        timeline = Timeline(plans=[plan])
        pending = {failure.device: failure for failure in failures}
        clock = Clock(now_s=start_s)
        self._adopt(plan, clock)
        lost: frozenset[str] = frozenset()
        step = plan.first_step
        while step < plan.steps:
            end_step = next(end for start, end in plan.intervals if start == step)
            interval = Interval(self, plan, clock, step, end_step)
            interval.compute()
            # A device may also stop while others still compute or wait for the sync point.
            until = min(interval.met_s, interval.cut_s)
            failed = [f for f in pending.values() if f.time_s < until and f.device in interval.ends]
            in_vain = bool(failed or interval.stalls)
            if in_vain:
                clock.now_s = interval.lose(failed, timeline)
                lost |= {failure.device for failure in failed}
                for failure in failed:
                    del pending[failure.device]
                if replan is None:
                    raise PlanError(f"{self._reason(failed, interval)}; go on from step {step} with other devices")
            else:
                interval.commit(timeline)
                clock.now_s, step = interval.met_s, end_step
            bandwidths = interval.bandwidths()
            if step == plan.steps or replan is None:
                continue
            left = {name: share for name, share in interval.availability().items() if name not in lost}
            new = replan(Observation(step, clock.now_s, plan, left, lost, bandwidths))
            names = {share.device for share in new.shares}
            if gone := sorted(names & lost):
                raise PlanError(f"the new plan uses {gone[0]}, which is lost")
            if cut := [pair for pair in interval.failed_links() if names.issuperset(pair)]:
                raise PlanError(f"the new plan needs the link from {cut[0][0]} to {cut[0][1]}, which has failed")
            if new is plan:
                continue
            if new.first_step != step or new.steps != plan.steps:
                raise PlanError(
                    f"a plan from step {step} to {plan.steps} is needed, not from {new.first_step} to {new.steps}"
                )
            self._inherit(clock, plan, new, failed=in_vain)
            plan = new
            timeline.plans.append(plan)
        timeline.latency_s = clock.now_s - start_s
        self._charge_leakage(timeline, start_s)
        return timeline

    @staticmethod
    def _reason(failed: Sequence[Failure], interval: Interval) -> str:
        if failed:
            what = f"{' and '.join(sorted(failure.device for failure in failed))} stopped"
        else:
            sender, receiver = interval.failed_links()[0]
            what = f"the link from {sender} to {receiver} failed"
        return f"{what} before the sync point at step {interval.end_step}, and there is no re-planning"

    def _adopt(self, plan: Plan, clock: Clock) -> None:
        for share in plan.shares:
            if share.device not in self.devices:
                raise PlanError(f"the plan uses {share.device!r}, but the fleet has {', '.join(self.devices)}")
            clock.inherited.setdefault(share.device, np.zeros(len(self.sizes.exchanges)))

    def _inherit(self, clock: Clock, old: Plan, new: Plan, *, failed: bool) -> None:
        """Keys and values on their way when the plan changes are waited for, whosever rows they are."""
        for share in old.shares:
            there = clock.inherited[share.device]
            for (_, receiver), steps in clock.arrivals.items():
                if receiver == share.device:
                    for arrival in steps.values():
                        there = np.maximum(there, arrival)
            # After a loss all have waited for longer than any message takes.
            clock.inherited[share.device] = np.zeros_like(there) if failed else there
        clock.arrivals.clear()
        self._adopt(new, clock)

    def _charge_leakage(self, timeline: Timeline, start_s: float) -> None:
        for name in timeline.busy_s:
            device = self.devices[name]
            timeline.free_s[name] = device.load.work(start_s, start_s + timeline.latency_s)
            timeline.energy_j += self.costs.of(device).leakage_w * timeline.free_s[name]
