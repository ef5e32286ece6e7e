"""A plan in simulated time: when every device computes, waits and sends, exactly and deterministically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..errors import PlanError
from .costs import Array, CostModel
from .device import FleetSpec
from .link import Link
from .plan import Plan, Share


class Segment(NamedTuple):
    """Bar of a Gantt chart.

    Attributes
    ----------
    device : str
        Its row.
    kind : {"compute", "wait", "exchange", "lost"}
        Computing; waiting for other devices; waiting for a link, while nothing computes here; computed in vain, because
        a device was lost before the next meeting.
    start_s, end_s : float
        Simulated time.
    step : int
        Step of the evaluation, or of the meeting that it waits for.
    """

    device: str
    kind: str
    start_s: float
    end_s: float
    step: int


@dataclass(frozen=True)
class Failure:
    """A device that stops at a time and never answers again.

    Attributes
    ----------
    device : str
        Its name.
    time_s : float
        When.
    patience_s : float
        Time after the arrival of all others at a meeting until it is given up.
    """

    device: str
    time_s: float
    patience_s: float = 0.01


class Observation(NamedTuple):
    """What is known at a meeting.

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
    """

    step: int
    time_s: float
    plan: Plan
    availability: Mapping[str, float]
    lost: frozenset[str]


Replan = Callable[[Observation], Plan]
"""Gives the plan to go on with from a meeting: the present one, or one whose ``first_step`` is ``step``."""


@dataclass
class Timeline:
    """What became of a plan.

    Attributes
    ----------
    latency_s : float
        Until the image is whole on every device.
    segments : list of Segment
        In order, per device.
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


@dataclass
class _Clock:
    """State of the simulation between meetings."""

    now_s: float
    # When keys and values of before the asynchronous phase are there, for each device and exchange.
    inherited: dict[str, Array]
    # By sender and receiver: when the link is idle, and when keys and values of a step are there.
    idle_s: dict[tuple[str, str], float]
    arrivals: dict[tuple[str, str], dict[int, Array]]


class Simulation:
    """Simulates plans on a fleet.

    Keys and values leave as soon as their stage is computed, on links that work beside the device; an evaluation waits
    in each self-attention until those are there that `Plan.held` names. Messages of a link queue in the order in which
    they are sent. The latents of a meeting overtake them: they are a thousandth of the bytes.

    Parameters
    ----------
    fleet : FleetSpec
        Devices and links.
    costs : CostModel
        Of the model.
    """

    def __init__(self, fleet: FleetSpec, costs: CostModel) -> None:
        self.fleet, self.costs = fleet, costs
        self._devices = {device.name: device for device in fleet.devices}
        self._sizes = np.array(costs.model.exchange_bytes_per_row, dtype=np.float64)

    def run(self, plan: Plan, replan: Replan | None = None, failures: Iterable[Failure] = ()) -> Timeline:
        """Simulate a plan.

        Parameters
        ----------
        plan : Plan
            Where to begin.
        replan : callable, optional
            Asked at every meeting but the last, and when a device is lost; by default the plan stays.
        failures : iterable of Failure
            Devices that stop.

        Raises
        ------
        PlanError
            A device was lost and there is no `replan`, or it cannot go on; or the plan names unknown devices or needs
            links that are down.
        """
        timeline = Timeline(plans=[plan])
        pending = {failure.device: failure for failure in failures}
        clock = _Clock(0.0, {}, {}, {})
        self._adopt(plan, clock)
        lost: frozenset[str] = frozenset()
        step = plan.first_step
        while step < plan.steps:
            end_step = next(end for start, end in plan.intervals if start == step)
            interval = _Interval(self, plan, clock, step, end_step)
            interval.compute()
            # A device may also stop while others still compute or wait for the meeting.
            failed = [f for f in pending.values() if f.time_s < interval.met_s and f.device in interval.ends]
            if failed:
                noticed = interval.lose(failed, timeline)
                lost |= {failure.device for failure in failed}
                for failure in failed:
                    del pending[failure.device]
                names = " and ".join(sorted(failure.device for failure in failed))
                if replan is None:
                    raise PlanError(
                        f"{names} stopped before the meeting at step {end_step}, and there is no re-planning; "
                        f"go on from step {step} with other devices"
                    )
                clock.now_s = noticed
                left = {name: share for name, share in interval.availability().items() if name not in lost}
                new = replan(Observation(step, noticed, plan, left, lost))
            else:
                interval.commit(timeline)
                clock.now_s, step = interval.met_s, end_step
                if step == plan.steps or replan is None:
                    continue
                new = replan(Observation(step, clock.now_s, plan, interval.availability(), lost))
            if new is plan:
                continue
            if new.first_step != step or new.steps != plan.steps:
                raise PlanError(
                    f"a plan from step {step} to {plan.steps} is needed, not from {new.first_step} to {new.steps}"
                )
            if gone := sorted({share.device for share in new.shares} & lost):
                raise PlanError(f"the new plan uses {gone[0]}, which is lost")
            self._inherit(clock, plan, new, failed=bool(failed))
            plan = new
            timeline.plans.append(plan)
        timeline.latency_s = clock.now_s
        self._charge_leakage(timeline)
        return timeline

    def _adopt(self, plan: Plan, clock: _Clock) -> None:
        for share in plan.shares:
            if share.device not in self._devices:
                raise PlanError(f"the plan uses {share.device!r}, but the fleet has {', '.join(self._devices)}")
            clock.inherited.setdefault(share.device, np.zeros(len(self._sizes)))

    def _inherit(self, clock: _Clock, old: Plan, new: Plan, *, failed: bool) -> None:
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

    def _charge_leakage(self, timeline: Timeline) -> None:
        for name in timeline.busy_s:
            device = self._devices[name]
            timeline.free_s[name] = device.load.work(0.0, timeline.latency_s)
            timeline.energy_j += self.costs.of(device).leakage_w * timeline.free_s[name]

    def link(self, sender: Share, receiver: Share) -> Link:
        """Between the devices of two shares."""
        return self.fleet.links.between(sender.device, receiver.device)


class _Interval:
    """From one meeting to the next."""

    def __init__(self, simulation: Simulation, plan: Plan, clock: _Clock, start_step: int, end_step: int) -> None:
        self.simulation, self.plan, self.clock = simulation, plan, clock
        self.start_step, self.end_step = start_step, end_step
        self.start_s = clock.now_s
        self.synchronous = start_step < plan.async_start
        self.ends = {share.device: self.start_s for share in plan.shares}
        self.busy = dict.fromkeys(self.ends, 0.0)
        self.rates = dict.fromkeys(self.ends, 1.0)
        self.exposed = dict.fromkeys(self.ends, 0.0)
        self.segments: dict[str, list[Segment]] = {name: [] for name in self.ends}
        self.energy_j, self.bytes = 0.0, 0.0
        self.met_s = self.start_s

    def compute(self) -> None:
        """All evaluations, and the meeting."""
        for step in range(self.start_step, self.end_step):
            if self.synchronous:
                self._synchronous_step(step)
                continue
            for share in self.plan.shares:
                if (step - self.start_step) % share.stride == 0:
                    self._evaluate(share, step)
        self._meet()

    def _add(self, name: str, kind: str, start_s: float, end_s: float, step: int) -> None:
        if end_s <= start_s:
            return
        done = self.segments[name]
        if done and done[-1].kind == kind and done[-1].end_s == start_s and done[-1].step == step:
            done[-1] = done[-1]._replace(end_s=end_s)
        else:
            done.append(Segment(name, kind, start_s, end_s, step))

    def _work(self, share: Share, work_s: float, step: int) -> None:
        start = self.ends[share.device]
        end = self.simulation._devices[share.device].load.finish(start, work_s)
        self._add(share.device, "compute", start, end, step)
        self.ends[share.device] = end
        self.busy[share.device] += work_s
        if work_s:
            self.rates[share.device] = work_s / (end - start)

    def _wait(self, name: str, sent_s: float, arrival_s: float, step: int) -> None:
        """Wait for a message that was sent, after queueing for the link, at one time and is there at another."""
        now = self.ends[name]
        if arrival_s <= now:
            return
        sent = max(now, min(sent_s, arrival_s))
        self._add(name, "wait", now, sent, step)
        self._add(name, "exchange", sent, arrival_s, step)
        self.exposed[name] += max(0.0, arrival_s - sent)
        self.ends[name] = arrival_s

    def _charge(self, share: Share, rows: int) -> Array:
        costs = self.simulation.costs.of(self.simulation._devices[share.device])
        self.energy_j += costs.energy_j(rows, share.images)
        return costs.stage_seconds(rows, share.images)

    def _carry(self, link: Link, count: float) -> None:
        self.bytes += count
        self.energy_j += count * link.byte_j

    def _synchronous_step(self, step: int) -> None:
        shares = self.plan.shares
        stages = {share.device: self._charge(share, share.warmup_count) for share in shares}
        for exchange, row_bytes in enumerate(self.simulation._sizes):
            for share in shares:
                self._work(share, float(stages[share.device][exchange]), step)
            sent = dict(self.ends)
            for receiver in shares:
                for sender in shares:
                    if sender is not receiver:
                        link = self.simulation.link(sender, receiver)
                        size = sender.warmup_count * row_bytes
                        self._carry(link, float(size))
                        self._wait(
                            receiver.device, sent[sender.device], sent[sender.device] + link.seconds(float(size)), step
                        )
        for share in shares:
            self._work(share, float(stages[share.device][-1]), step)

    def _evaluate(self, share: Share, step: int) -> None:
        """An evaluation after warm-up."""
        stages = self._charge(share, share.count)
        if self.plan.divides_batch:
            for seconds in stages:
                self._work(share, float(seconds), step)
            return
        needed = self._needed(share, step)
        sent = np.empty(len(stages) - 1)
        for exchange, seconds in enumerate(stages[:-1]):
            self._work(share, float(seconds), step)
            sent[exchange] = self.ends[share.device]
            # Whatever is needed was sent in an interval or a stride that has ended in plan order, but perhaps not yet
            # in time: a device may be late.
            for sent_s, arrivals in needed:
                self._wait(share.device, float(sent_s[exchange]), float(arrivals[exchange]), step)
        self._work(share, float(stages[-1]), step)
        self._send(share, step, sent)

    def _needed(self, share: Share, step: int) -> list[tuple[Array, Array]]:
        """When the keys and values of each other device were sent and are there."""
        clock, found = self.clock, []
        for other in self.plan.shares:
            if other is share:
                continue
            held = self.plan.held(other, step)
            if held is None:
                there = clock.inherited[share.device]
                found.append((np.full_like(there, self.start_s), there))
            else:
                there = clock.arrivals[other.device, share.device][held]
                found.append((clock.arrivals[other.device, ""][held], there))
        return found

    def _send(self, share: Share, step: int, sent: Array) -> None:
        clock = self.clock
        sizes = share.count * self.simulation._sizes
        clock.arrivals.setdefault((share.device, ""), {})[step] = sent
        for other in self.plan.shares:
            if other is share or not self._uses(other, share, step):
                continue
            link = self.simulation.link(share, other)
            pair = (share.device, other.device)
            times = sizes / link.bytes_per_s
            done = np.empty_like(sent)
            idle = clock.idle_s.get(pair, 0.0)
            for exchange, ready in enumerate(sent):
                idle = max(idle, float(ready)) + float(times[exchange])
                done[exchange] = idle + link.latency_s
            clock.idle_s[pair] = idle
            clock.arrivals.setdefault(pair, {})[step] = done
            self._carry(link, float(sizes.sum()))

    def _uses(self, receiver: Share, sender: Share, step: int) -> bool:
        """Whether a receiver ever looks at what a sender computes at a step."""
        plan = self.plan
        first = step + sender.stride
        # Of the receiver's evaluations while this is the newest: it begins one at every multiple of its stride.
        offset = -(first - plan.async_start) % receiver.stride
        return offset < sender.stride and first + offset < plan.steps

    def _meet(self) -> None:
        shares, row_bytes = self.plan.shares, self.simulation.costs.model.latent_bytes_per_row
        arrived = dict(self.ends)
        last = max(arrived.values())
        met = last
        for sender in shares:
            rows = sender.warmup_count if self.synchronous else sender.count
            for receiver in shares:
                if sender is not receiver:
                    link = self.simulation.link(sender, receiver)
                    self._carry(link, rows * row_bytes)
                    met = max(met, arrived[sender.device] + link.seconds(rows * row_bytes))
        for name in arrived:
            self._wait(name, last, met, self.end_step)
        self.met_s = met

    def availability(self) -> dict[str, float]:
        """Free share of each device as its own clock shows: work over time of the last stage that it computed."""
        return dict(self.rates)

    def commit(self, timeline: Timeline) -> None:
        """The interval is done."""
        for name, segments in self.segments.items():
            timeline.segments.extend(segments)
            timeline.busy_s[name] = timeline.busy_s.get(name, 0.0) + self.busy[name]
            timeline.exposed_s[name] = timeline.exposed_s.get(name, 0.0) + self.exposed[name]
        timeline.energy_j += self.energy_j
        timeline.link_bytes += self.bytes

    def lose(self, failed: Sequence[Failure], timeline: Timeline) -> float:
        """The interval was in vain: returns when the others know."""
        times = {failure.device: failure.time_s for failure in failed}
        others = [end for name, end in self.ends.items() if name not in times]
        noticed = max(max([*others, failure.time_s]) + failure.patience_s for failure in failed)
        for name, segments in self.segments.items():
            stopped = times.get(name, noticed)
            for each in segments:
                if each.kind == "compute" and each.start_s < stopped:
                    timeline.segments.append(each._replace(kind="lost", end_s=min(each.end_s, stopped)))
            last = max((each.end_s for each in segments if each.kind == "compute"), default=self.start_s)
            if name not in times:
                timeline.segments.append(Segment(name, "wait", min(last, noticed), noticed, self.end_step))
            timeline.busy_s.setdefault(name, 0.0)
            timeline.exposed_s.setdefault(name, 0.0)
        # Energy of the whole interval: what a device had not computed when it stopped is charged too.
        timeline.energy_j += self.energy_j
        timeline.link_bytes += self.bytes
        return noticed
