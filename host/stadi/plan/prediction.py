"""Closed forms: predicted latency of a plan, and what no plan with its strides can beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import PlanError
from .costs import Array, CostModel, DeviceCosts
from .device import FleetSpec
from .divided import MessageSizes
from .link import BandwidthTrace, Link, Pair
from .load import LoadTrace
from .plan import Plan, Share

LEAST_FREE = 1e-3
"""Availability below which a bound is not made tighter."""


@dataclass(frozen=True)
class Prediction:
    """Of a plan.

    Attributes
    ----------
    latency_s : float
        Latency of the whole plan.
    warmup_s, interval_s : float
        Times of the synchronous steps, and from one sync point to the next.
    device_s : tuple of float
        Time that each device computes in an interval, in the order of the shares.
    exposed_s : float
        Part of the latency in which computing waits for links.
    """

    latency_s: float
    warmup_s: float
    interval_s: float
    device_s: tuple[float, ...]
    exposed_s: float


class Predictor:
    """Predicts plans on a fleet.

    Parameters
    ----------
    fleet : FleetSpec
        Devices and links.
    costs : CostModel
        Costs of the model.
    availability : mapping of str to float
        Share of each device that is taken to be free, all the time.
    bandwidths : mapping of Pair to float, optional
        Bytes per second that each link is taken to carry, all the time; by default what it carries at the beginning.
    """

    def __init__(
        self,
        fleet: FleetSpec,
        costs: CostModel,
        availability: Mapping[str, float],
        bandwidths: Mapping[Pair, float] | None = None,
    ) -> None:
        self.fleet, self.costs, self.availability = fleet, costs, availability
        self.devices = {device.name: device for device in fleet.devices}
        self.sizes = MessageSizes(costs.model)
        self.bandwidths = fleet.bandwidths(0.0) if bandwidths is None else bandwidths

    def link(self, sender: str, receiver: str) -> Link:
        """Link between two devices, with the bandwidth that is assumed.

        Raises
        ------
        PlanError
            It carries nothing.
        """
        link = self.fleet.links.between(sender, receiver)
        bandwidth = self.bandwidths[sender, receiver]
        if not bandwidth:
            raise PlanError(
                f"the link from {sender} to {receiver} carries nothing; leave one of the two out, or use one device"
            )
        return replace(link, bytes_per_s=bandwidth, trace=BandwidthTrace())

    def device_costs(self, name: str) -> DeviceCosts:
        """Costs on a device, by its name."""
        return self.costs.of(self.devices[name])

    def evaluation_s(self, name: str, rows: int, images: int | None = None) -> float:
        """Time of an evaluation under the load that is assumed."""
        return self.device_costs(name).seconds(rows, images) / self.availability[name]

    def interval_s(
        self, name: str, rows: int, stride: int, interval: int, peers: Sequence[tuple[str, int, int]]
    ) -> float:
        """Least time of a device between two sync points: it computes, and its links carry keys and values meanwhile.

        Parameters
        ----------
        name : str
            The device.
        rows, stride, interval : int
            Its token rows and stride; steps between sync points.
        peers : sequence of (str, int, int)
            Other devices, their strides and their places minus this one's, in the order of rows.
        """
        compute = interval // stride * self.evaluation_s(name, rows)
        links = []
        for peer, other, distance in peers:
            count = interval // max(stride, other)
            bandwidth = self.link(name, peer).bytes_per_s
            # A message has until the next one to arrive; a keyframe that takes longer is not made up for by others.
            whole, coded = (
                max(compute / count, float(self.sizes.of(rows, distance, whole=each).sum()) / bandwidth)
                for each in (True, False)
            )
            share = self._whole_share()
            links.append(count * (share * whole + (1 - share) * coded))
        return max([compute, *links])

    def _whole_share(self) -> float:
        """Of the messages after synchronous steps."""
        coding = self.costs.model.coding
        if coding is None:
            return 1.0
        return 0.0 if coding.keyframe_interval is None else 1 / coding.keyframe_interval

    def gather_s(self, shares: Sequence[Share]) -> float:
        """Time of a sync point: every device gets the latents of all others."""
        row_bytes = self.costs.model.latent_bytes_per_row
        times = [
            self.link(sender.device, receiver.device).seconds(sender.count * row_bytes)
            for sender in shares
            for receiver in shares
            if sender is not receiver
        ]
        return max(times, default=0.0)

    def warmup_s(self, plan: Plan) -> tuple[float, float]:
        """Time of the synchronous steps without the sync point, and how much of it is exposed communication.

        The second step is taken to repeat: devices that wait for each other settle into a rhythm within one.
        """
        shares = plan.shares
        stages = [
            self.device_costs(share.device).stage_seconds(share.warmup_count, share.images)
            / self.availability[share.device]
            for share in shares
        ]
        links = {
            (sender, receiver): self.link(shares[sender].device, shares[receiver].device)
            for sender in range(len(shares))
            for receiver in range(len(shares))
            if sender != receiver
        }
        real = {
            pair: [
                (size / link.bytes_per_s, link.latency_s) if size else (0.0, -math.inf)
                for size in self.sizes.of(shares[pair[0]].warmup_count, pair[1] - pair[0], synchronous=True).tolist()
            ]
            for pair, link in links.items()
        }
        free = {pair: [(0.0, 0.0)] * len(self.sizes.exchanges) for pair in links}
        total, computing = (_synchronous_s(stages, messages, plan.warmup) for messages in (real, free))
        return total, total - computing

    def predict(self, plan: Plan) -> Prediction:
        """Latency of a plan, in closed form."""
        shares, gather = plan.shares, self.gather_s(plan.shares)
        warmup, exposed = (each + gather for each in self.warmup_s(plan)) if plan.warmup else (0.0, 0.0)
        intervals = (plan.steps - plan.async_start) // plan.interval
        times = tuple(
            plan.interval // share.stride * self.evaluation_s(share.device, share.count, share.images)
            for share in shares
        )
        peers = {
            share.device: [
                (other.device, other.stride, there - here) for there, other in enumerate(shares) if there != here
            ]
            if not plan.divides_batch
            else []
            for here, share in enumerate(shares)
        }
        slowest = (
            max(self.interval_s(s.device, s.count, s.stride, plan.interval, peers[s.device]) for s in shares)
            if not plan.divides_batch
            else max(times)
        )
        # Keys and values go on while devices meet.
        computing = max(times) + gather
        interval = max(slowest, computing)
        if not intervals:
            return Prediction(warmup, warmup, interval, times, exposed)
        # What is sent in the last interval nobody uses: links are waited for once less.
        latency = warmup + (intervals - 1) * interval + computing
        exposed += (intervals - 1) * (interval - computing) + intervals * gather
        return Prediction(latency, warmup, interval, times, exposed)

    def energy_j(self, plan: Plan) -> float:
        """Energy of a plan, in closed form: evaluations, links, and leakage of its devices in their free time."""
        shares, later = plan.shares, plan.steps - plan.async_start
        latency, total = self.predict(plan).latency_s, 0.0
        for share in shares:
            costs = self.device_costs(share.device)
            total += later // share.stride * costs.energy_j(share.count, share.images)
            total += plan.warmup * costs.energy_j(share.warmup_count, share.images) if plan.warmup else 0.0
            total += latency * self.availability[share.device] * costs.leakage_w
        if plan.divides_batch:
            return total
        for share in shares:
            for other in shares:
                if other is not share:
                    total += self._sent(plan, share, other) * self.link(share.device, other.device).byte_j
        return total

    def _sent(self, plan: Plan, sender: Share, receiver: Share) -> float:
        """Bytes that a device sends to another one, without latents."""
        coding, distance = self.costs.model.coding, plan.shares.index(receiver) - plan.shares.index(sender)
        whole = [
            coding is None or coding.is_keyframe(number)
            for number, _ in enumerate(plan.sends(sender, receiver), int(plan.warmup > 0))
        ]
        count = float(sum(self.sizes.of(sender.count, distance, whole=each).sum() for each in whole))
        return count + plan.warmup * float(self.sizes.of(sender.warmup_count, distance, synchronous=True).sum())


def _synchronous_s(
    stages: Sequence[Array], messages: Mapping[tuple[int, int], Sequence[tuple[float, float]]], steps: int
) -> float:
    """Time of some steps in which every stage but the last is followed by an exchange of all with all.

    Messages by sender and receiver, for each exchange: time on the link, where they queue, and latency; minus infinity
    where there is none.
    """
    ends, marks, idle = [0.0] * len(stages), [0.0], dict.fromkeys(messages, 0.0)
    for _ in range(min(steps, 2)):
        for exchange in range(len(stages[0]) - 1):
            ends = [end + float(stage[exchange]) for end, stage in zip(ends, stages, strict=True)]
            arrived = list(ends)
            for (sender, receiver), each in messages.items():
                on_link, latency = each[exchange]
                idle[sender, receiver] = max(idle[sender, receiver], ends[sender]) + on_link
                arrived[receiver] = max(arrived[receiver], idle[sender, receiver] + latency)
            ends = arrived
        ends = [end + float(stage[-1]) for end, stage in zip(ends, stages, strict=True)]
        marks.append(max(ends))
    return marks[-1] + max(0, steps - 2) * (marks[-1] - marks[-2])


def lower_envelope(table: Array) -> Array:
    """Greatest convex function that is nowhere above ``table[1:]``, at 1, 2, .. rows."""
    points = list(enumerate(table[1:], 1))
    hull: list[tuple[int, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, float(y)))
    xs, ys = zip(*hull, strict=True)
    return np.interp(np.arange(1, len(table)), xs, ys)


@dataclass(frozen=True)
class _Line:
    """Supporting line of an envelope: ``fixed_s + per_row_s * rows``."""

    fixed_s: float
    per_row_s: float


def _lines(envelopes: Sequence[Array], strides: Sequence[int], shares: Sequence[float], rows: int) -> list[_Line]:
    """Supporting lines where real-valued rows balance all devices."""

    def rows_in(index: int, time_s: float) -> float:
        envelope = envelopes[index]
        return float(np.interp(strides[index] * shares[index] * time_s, envelope, np.arange(1, len(envelope) + 1)))

    low, high = (
        0.0,
        max(
            float(envelope[-1]) / (stride * share)
            for envelope, stride, share in zip(envelopes, strides, shares, strict=True)
        ),
    )
    for _ in range(100):
        middle = (low + high) / 2
        enough = sum(rows_in(index, middle) for index in range(len(envelopes))) >= rows
        low, high = (low, middle) if enough else (middle, high)
    lines = []
    for index, envelope in enumerate(envelopes):
        if len(envelope) == 1:
            lines.append(_Line(0.0, float(envelope[0])))
            continue
        start = int(np.clip(np.floor(rows_in(index, high)), 1, len(envelope) - 1))
        slope = float(envelope[start] - envelope[start - 1])
        lines.append(_Line(float(envelope[start - 1]) - slope * start, slope))
    return lines


def bound_s(plans: Sequence[Plan], fleet: FleetSpec, costs: CostModel) -> float:
    """Latency that cannot be beaten with the devices, strides and synchronous steps of these plans.

    Not even with real-valued rows that follow the load clairvoyantly, and links that take no time: with supporting
    lines ``fixed_i + per_row_i * rows`` below the exact times, every step takes at least
    ``rows + sum(fixed_i / per_row_i)`` of ``sum(stride_i / per_row_i * free time of device i)``.

    Parameters
    ----------
    plans : sequence of Plan
        One, or what a run went through (`Timeline.plans`), each until the next one takes up; their rows do not count.
    fleet : FleetSpec
        Devices with their loads.
    costs : CostModel
        Costs of the model.

    Returns
    -------
    float
        Seconds.
    """
    devices = {device.name: device for device in fleet.devices}
    ends = [*(plan.first_step for plan in plans[1:]), plans[-1].steps]
    time = 0.0
    for plan, end in zip(plans, ends, strict=True):
        used = [devices[share.device] for share in plan.shares]
        envelopes = [lower_envelope(costs.of(device).table) for device in used]
        synchronous = min(plan.async_start, end) - plan.first_step
        phases = (
            ([1] * len(used), synchronous),
            ([share.stride for share in plan.shares], end - plan.first_step - synchronous),
        )
        for strides, steps in phases:
            if steps:
                time = _phase_end(envelopes, strides, [device.load for device in used], time, steps, plan.rows)
    return time


def _phase_end(
    envelopes: Sequence[Array], strides: Sequence[int], loads: Sequence[LoadTrace], start: float, steps: int, rows: int
) -> float:
    """When a number of steps with these strides is done at the earliest."""
    free = [max(load.availability(start), LEAST_FREE) for load in loads]
    # Any lines give a bound; those of the mean load of the phase give a tight one.
    for _ in range(2):
        lines = _lines(envelopes, strides, free, rows)
        work = steps * (rows + sum(line.fixed_s / line.per_row_s for line in lines))
        weights = [stride / line.per_row_s for stride, line in zip(strides, lines, strict=True)]
        end = _finish(loads, weights, start, work)
        free = [max(load.work(start, end) / (end - start), LEAST_FREE) for load in loads]
    return end


def _finish(loads: Sequence[LoadTrace], weights: Sequence[float], start_s: float, work: float) -> float:
    """When the weighted free time of all devices since `start_s` amounts to `work`."""
    high = start_s + 1.0
    while sum(w * load.work(start_s, high) for w, load in zip(weights, loads, strict=True)) < work:
        high = start_s + 2 * (high - start_s)
    low = start_s
    for _ in range(100):
        middle = (low + high) / 2
        done = sum(w * load.work(start_s, middle) for w, load in zip(weights, loads, strict=True))
        low, high = (low, middle) if done >= work else (middle, high)
    return high
