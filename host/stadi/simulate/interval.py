"""From one sync point to the next in simulated time: who computes, waits and sends when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...storage.packable import packable
from ..plan.costs import Array
from ..plan.link import Pair
from ..plan.plan import Plan, Share
from .fleet_model import FleetModel
from .timeline import Segment, Timeline

PATIENCE_S = 0.01
"""Time after which a device that does not come, or a message that does not arrive, is given up."""


@packable("stadi.interval.Failure")
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
        Time after the arrival of all others at a sync point until it is given up.
    """

    device: str
    time_s: float
    patience_s: float = PATIENCE_S


@dataclass
class Clock:
    """State of the simulation between sync points."""

    now_s: float = 0.0
    # When keys and values of before the asynchronous phase are there, for each device and exchange.
    inherited: dict[str, Array] = field(default_factory=dict)
    # By sender and receiver: when the link is idle, when keys and values of a step are there, and when messages began
    # and ended that are not measured yet.
    idle_s: dict[Pair, float] = field(default_factory=dict)
    arrivals: dict[Pair, dict[int, Array]] = field(default_factory=dict)
    transfers: dict[Pair, list[tuple[float, float]]] = field(default_factory=dict)


class Interval:
    """From one sync point to the next."""

    def __init__(self, model: FleetModel, plan: Plan, clock: Clock, start_step: int, end_step: int) -> None:
        self.model, self.plan, self.clock = model, plan, clock
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
        # When it is done or given up, and which of both.
        self.closed_s, self.lost = math.inf, False
        # Since when somebody waits for a message that never arrives, by link and by device.
        self.stalls: dict[Pair, float] = {}
        self.stalled: dict[str, float] = {}

    @property
    def cut_s(self) -> float:
        """When it is noticed that a link has failed; infinite if none has."""
        return min(self.stalls.values(), default=math.inf) + PATIENCE_S

    def compute(self) -> None:
        """All evaluations, and the sync point."""
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
        if start == math.inf:
            return
        end = self.model.devices[share.device].load.finish(start, work_s)
        self._add(share.device, "compute", start, end, step)
        self.ends[share.device] = end
        self.busy[share.device] += work_s
        if work_s:
            self.rates[share.device] = work_s / (end - start)

    def _wait(self, pair: Pair, sent_s: float, arrival_s: float, step: int) -> None:
        """Let the receiver wait for a message that was sent at one time and is there at another."""
        name = pair[1]
        now = self.ends[name]
        if arrival_s == math.inf:
            # A sender that waits for ever itself has sent nothing: the link that it waits for is the one to blame.
            if sent_s < math.inf and (now := self.stalled.get(name, now)) < math.inf:
                self.stalls.setdefault(pair, max(now, sent_s))
                self.stalled.setdefault(name, now)
            self.ends[name] = math.inf
            return
        if arrival_s <= now:
            return
        sent = max(now, min(sent_s, arrival_s))
        self._add(name, "wait", now, sent, step)
        self._add(name, "exchange", sent, arrival_s, step)
        self.exposed[name] += max(0.0, arrival_s - sent)
        self.ends[name] = arrival_s

    def _charge(self, share: Share, rows: int) -> Array:
        costs = self.model.costs.of(self.model.devices[share.device])
        self.energy_j += costs.energy_j(rows, share.images)
        return costs.stage_seconds(rows, share.images)

    def _carry(self, pair: Pair, ready_s: float, count: float, *, overtakes: bool = False) -> float:
        """Put a message on its link, after those that are there if it does not overtake them; returns its arrival."""
        link, clock = self.model.link(*pair), self.clock
        begin = ready_s if overtakes else max(clock.idle_s.get(pair, 0.0), ready_s)
        end = link.end_s(begin, count)
        self.bytes += count
        self.energy_j += count * link.byte_j
        if begin < end:
            clock.transfers.setdefault(pair, []).append((begin, end))
        if not overtakes:
            clock.idle_s[pair] = end
        return end + link.latency_s

    def _synchronous_step(self, step: int) -> None:
        shares = self.plan.shares
        stages = {share.device: self._charge(share, share.warmup_count) for share in shares}
        sizes = {
            (sender.device, receiver.device): self.model.sizes.of(sender.warmup_count, there - here, synchronous=True)
            for here, sender in enumerate(shares)
            for there, receiver in enumerate(shares)
            if here != there
        }
        for exchange in range(len(self.model.sizes.exchanges)):
            for share in shares:
                self._work(share, float(stages[share.device][exchange]), step)
            sent = dict(self.ends)
            for pair, each in sizes.items():
                if size := float(each[exchange]):
                    self._wait(pair, sent[pair[0]], self._carry(pair, sent[pair[0]], size), step)
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
            for source, sent_s, arrivals in needed:
                self._wait((source, share.device), float(sent_s[exchange]), float(arrivals[exchange]), step)
        self._work(share, float(stages[-1]), step)
        self._send(share, step, sent)

    def _needed(self, share: Share, step: int) -> list[tuple[str, Array, Array]]:
        """Each other device, and when its keys and values were sent and are there."""
        clock, found = self.clock, []
        for other in self.plan.shares:
            if other is share:
                continue
            held = self.plan.held(other, step)
            if held is None:
                there = clock.inherited[share.device]
                found.append((other.device, np.full_like(there, self.start_s), there))
            else:
                there = clock.arrivals[other.device, share.device][held]
                found.append((other.device, clock.arrivals[other.device, ""][held], there))
        return found

    def _send(self, share: Share, step: int, sent: Array) -> None:
        clock = self.clock
        clock.arrivals.setdefault((share.device, ""), {})[step] = sent
        for other in self.plan.shares:
            if other is share or not self._uses(other, share, step):
                continue
            pair = (share.device, other.device)
            distance = self.plan.shares.index(other) - self.plan.shares.index(share)
            sizes = self.model.sizes.of(share.count, distance, whole=self._is_whole(share, other, step))
            done = [
                self._carry(pair, float(ready), float(size)) if size else 0.0
                for ready, size in zip(sent, sizes, strict=True)
            ]
            clock.arrivals.setdefault(pair, {})[step] = np.array(done)

    def _is_whole(self, sender: Share, receiver: Share, step: int) -> bool:
        coding = self.model.costs.model.coding
        return coding is None or coding.is_keyframe(self.plan.message_number(sender, receiver, step))

    def _uses(self, receiver: Share, sender: Share, step: int) -> bool:
        """Whether a receiver ever looks at what a sender computes at a step."""
        plan = self.plan
        first = step + sender.stride
        # Of the receiver's evaluations while this is the newest: it begins one at every multiple of its stride.
        offset = -(first - plan.async_start) % receiver.stride
        return offset < sender.stride and first + offset < plan.steps

    def _meet(self) -> None:
        shares, row_bytes = self.plan.shares, self.model.costs.model.latent_bytes_per_row
        ends = dict(self.ends)
        last = max(ends.values())
        met = last
        for sender in shares:
            rows = sender.warmup_count if self.synchronous else sender.count
            for receiver in shares:
                if sender is not receiver:
                    pair = (sender.device, receiver.device)
                    arrival = self._carry(pair, ends[sender.device], rows * row_bytes, overtakes=True)
                    if arrival == math.inf:
                        self._wait(pair, ends[sender.device], arrival, self.end_step)
                    met = max(met, arrival)
        self.met_s = met
        if met < math.inf:
            for name in ends:
                self._wait(("", name), last, met, self.end_step)

    def availability(self) -> dict[str, float]:
        """Free share of each device as its own clock shows: work over time of the last stage that it computed."""
        return dict(self.rates)

    def bandwidths(self) -> dict[Pair, float]:
        """Bytes per second that each link that was used has carried while it was busy in the interval."""
        until, found = self.closed_s, {}
        for pair, transfers in self.clock.transfers.items():
            link = self.model.link(*pair)
            seen = [(max(begin, self.start_s), min(end, until)) for begin, end in transfers if begin < until]
            if seen:
                busy = sum(end - begin for begin, end in seen)
                found[pair] = sum(link.carried(*each) for each in seen) / busy
            self.clock.transfers[pair] = [each for each in transfers if not self.lost and each[1] > until]
        return found | dict.fromkeys(self.failed_links(), 0.0)

    def failed_links(self) -> list[Pair]:
        """Links that somebody was waiting for in vain when the interval ended."""
        return sorted(pair for pair, since in self.stalls.items() if since <= self.closed_s)

    def commit(self, timeline: Timeline) -> None:
        """The interval is done."""
        self.closed_s = self.met_s
        for name, segments in self.segments.items():
            timeline.segments.extend(segments)
            timeline.busy_s[name] = timeline.busy_s.get(name, 0.0) + self.busy[name]
            timeline.exposed_s[name] = timeline.exposed_s.get(name, 0.0) + self.exposed[name]
        timeline.energy_j += self.energy_j
        timeline.link_bytes += self.bytes

    def lose(self, failed: Sequence[Failure], timeline: Timeline) -> float:
        """The interval was in vain, because of devices or else of links: returns when the others know."""
        times = {failure.device: failure.time_s for failure in failed}
        others = [min(end, self.cut_s) for name, end in self.ends.items() if name not in times]
        noticed = max(
            (max([self.start_s, *others, each.time_s]) + each.patience_s for each in failed), default=self.cut_s
        )
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
        self.closed_s, self.lost = noticed, True
        # Messages in vain are given up with it.
        self.clock.idle_s = {pair: min(idle, noticed) for pair, idle in self.clock.idle_s.items()}
        return noticed
