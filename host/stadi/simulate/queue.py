"""Many images on a fleet: latency of each one and throughput of all, in simulated time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ...errors import PlanError
from ..plan.planner import Planner
from .replanning import Replanner
from .simulation import Simulation
from .timeline import Timeline

POLICIES = ("one_by_one", "whole_images", "groups")
"""How a fleet serves a queue.

- ``one_by_one``: all devices make one image, then the next one.
- ``whole_images``: each device makes whole images alone.
- ``groups``: devices are divided into groups, each of which makes one image at a time; of all divisions the best, the
  other two policies among them.
"""

MOST_DEVICES = 8
"""That are divided into groups: 4140 divisions."""

Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class ImageQueue:
    """Images that are asked for.

    Attributes
    ----------
    arrivals_s : tuple of float
        When each is asked for, in order.

    Raises
    ------
    ValueError
        There are none, or they are out of order.
    """

    arrivals_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.arrivals_s:
            raise ValueError("ImageQueue.arrivals_s must hold at least one image")
        for before, after in zip((0.0, *self.arrivals_s), self.arrivals_s, strict=False):
            if not before <= after < math.inf:
                raise ValueError(
                    f"ImageQueue.arrivals_s must be finite and must not fall, but {after!r} follows {before!r}"
                )

    @classmethod
    def all_at_once(cls, count: int) -> ImageQueue:
        """So many images at time 0."""
        return cls((0.0,) * count)

    @classmethod
    def at_rate(cls, count: int, images_per_s: float) -> ImageQueue:
        """So many images in equal distances, the first one at time 0."""
        if not images_per_s > 0:
            raise ValueError(f"images_per_s must be positive, not {images_per_s!r}")
        return cls(tuple(index / images_per_s for index in range(count)))


class ServedImage(NamedTuple):
    """An image that was made.

    Attributes
    ----------
    arrival_s, start_s, end_s : float
        When it was asked for, begun and whole.
    group : int
        Which group made it.
    """

    arrival_s: float
    start_s: float
    end_s: float
    group: int

    @property
    def latency_s(self) -> float:
        """From the request to the image."""
        return self.end_s - self.arrival_s


@dataclass(frozen=True)
class Service:
    """What became of a queue.

    Attributes
    ----------
    groups : tuple of tuple of str
        Devices that made an image together; each device is in one group.
    images : tuple of ServedImage
        Images in the order of arrival.
    energy_j : float
        Energy of evaluations and links, and leakage of the whole fleet from time 0 until the last image is whole.
    """

    groups: Groups
    images: tuple[ServedImage, ...]
    energy_j: float

    @property
    def end_s(self) -> float:
        """When the last image is whole."""
        return max(image.end_s for image in self.images)

    @property
    def mean_latency_s(self) -> float:
        """Of all images."""
        return sum(image.latency_s for image in self.images) / len(self.images)

    @property
    def p95_latency_s(self) -> float:
        """Least latency that at least 95 % of the images do not exceed."""
        ordered = sorted(image.latency_s for image in self.images)
        return ordered[-(-95 * len(ordered) // 100) - 1]

    @property
    def images_per_s(self) -> float:
        """Images over the time from the first arrival to the last image."""
        return len(self.images) / (self.end_s - self.images[0].arrival_s)

    @property
    def image_j(self) -> float:
        """Energy per image."""
        return self.energy_j / len(self.images)


class QueueServer:
    """Serves queues with a fleet.

    Images begin in the order of arrival, each on the group that is done with it first (the first one of equals): a slow
    group stays idle where waiting for a fast one takes less time. Of images that are all there at once no assignment to
    the same groups is done sooner, nor has a smaller mean latency; with later arrivals it is what can be done without
    knowing them. Groups do not disturb each other: each has its own links. Where loads or links change, plans are made
    anew at sync points.

    Parameters
    ----------
    planner : Planner
        Planner of the whole fleet. Each group gets its plan.
    """

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._simulation = Simulation(planner.fleet, planner.costs)
        self._devices = {device.name: device for device in planner.fleet.devices}
        self._runs: dict[tuple[tuple[object, ...], float], tuple[float, float]] = {}
        links = planner.fleet.links
        traces = [link.trace.factors for link in (links.default, *links.special.values()) if link is not None]
        loads = [device.load.duties for device in planner.fleet.devices]
        self._static = all(len(set(pieces)) == 1 for pieces in (*traces, *loads))

    def serve(self, queue: ImageQueue, policy: str, latency_limit_s: float = math.inf) -> Service:
        """Serve a queue.

        Parameters
        ----------
        queue : ImageQueue
            The images.
        policy : str
            One of `POLICIES`.
        latency_limit_s : float
            Limit of the 95th percentile.

        Returns
        -------
        Service
            With groups, that of most images per second within the limit; of equals the one of least mean latency, then
            of least energy.

        Raises
        ------
        PlanError
            There is no such policy, or none of its services keeps the limit, or there are too many devices to be
            divided.
        """
        names = tuple(self._devices)
        if policy == "one_by_one":
            divisions: Sequence[Groups] = [(names,)]
        elif policy == "whole_images":
            divisions = [tuple((name,) for name in names)]
        elif policy == "groups":
            divisions = self._divisions(names)
        else:
            raise PlanError(f"policy must be one of {', '.join(map(repr, POLICIES))}, not {policy!r}")
        services = [self._serve(queue, groups) for groups in divisions]
        within = [service for service in services if service.p95_latency_s <= latency_limit_s]
        if not within:
            least = min(service.p95_latency_s for service in services)
            raise PlanError(
                f"{policy} has a 95th percentile of {least:.4g} s at best, above the limit of {latency_limit_s:.4g} s; "
                "ask for fewer images per second, or add devices"
            )
        return min(within, key=lambda each: (-each.images_per_s, each.mean_latency_s, each.energy_j))

    def _serve(self, queue: ImageQueue, groups: Groups) -> Service:
        idle, images, energy = [0.0] * len(groups), [], 0.0
        for arrival in queue.arrivals_s:
            starts = [max(arrival, each) for each in idle]
            runs = [self._run(group, start) for group, start in zip(groups, starts, strict=True)]
            chosen = min(range(len(groups)), key=lambda index: starts[index] + runs[index][0])
            idle[chosen] = starts[chosen] + runs[chosen][0]
            if idle[chosen] == math.inf:
                raise PlanError(f"no device is free at {min(starts):.4g} s, when an image is to begin")
            energy += runs[chosen][1]
            images.append(ServedImage(arrival, starts[chosen], idle[chosen], chosen))
        end = max(idle)
        costs = self.planner.costs
        leaked = sum(costs.of(each).leakage_w * each.load.work(0.0, end) for each in self._devices.values())
        return Service(groups, tuple(images), energy + leaked)

    def _run(self, group: tuple[str, ...], start_s: float) -> tuple[float, float]:
        """Time of an image on a group from a time on, and its energy without leakage."""
        begin = 0.0 if self._static else start_s
        key = (tuple(self._kind(name) for name in group), begin)
        if key not in self._runs:
            if not any(self._devices[name].load.availability(begin) for name in group):
                return math.inf, 0.0
            timeline = self._timeline(group, begin)
            leaked = sum(
                self.planner.costs.of(self._devices[name]).leakage_w * free for name, free in timeline.free_s.items()
            )
            self._runs[key] = timeline.latency_s, timeline.energy_j - leaked
        return self._runs[key]

    def _timeline(self, group: tuple[str, ...], start_s: float) -> Timeline:
        free = {name: self._devices[name].load.availability(start_s) for name in group}
        bandwidths = self.planner.fleet.bandwidths(start_s)
        plan = self.planner.plan(availability=free, bandwidths=bandwidths).plan
        replanner = None if self._static else Replanner(self.planner, availability=free, bandwidths=bandwidths)
        return self._simulation.run(plan, replanner, start_s=start_s)

    def _kind(self, name: str) -> object:
        """What makes devices alike; with special links every one is its own kind."""
        if self.planner.fleet.links.special:
            return name
        device, rows = self._devices[name], self.planner.costs.model.rows
        costs = self.planner.costs.of(device)
        return costs.table.tobytes(), costs.energy_j(rows), costs.leakage_w, device.load

    def _divisions(self, names: tuple[str, ...]) -> list[Groups]:
        """Into groups, each up to exchanging devices that are alike."""
        if len(names) > MOST_DEVICES:
            raise PlanError(
                f"groups are searched for at most {MOST_DEVICES} devices, not {len(names)}; divide the fleet"
            )
        kinds: dict[object, int] = {}
        numbers = {name: kinds.setdefault(self._kind(name), len(kinds)) for name in names}
        found: dict[tuple[tuple[int, ...], ...], Groups] = {}
        for groups in _partitions(names):
            key = tuple(sorted(tuple(sorted(numbers[name] for name in group)) for group in groups))
            found.setdefault(key, groups)
        return list(found.values())


def _partitions(names: tuple[str, ...]) -> Iterator[Groups]:
    if not names:
        yield ()
        return
    first, rest = names[0], names[1:]
    for groups in _partitions(rest):
        yield ((first,), *groups)
        for index, group in enumerate(groups):
            yield (*groups[:index], (first, *group), *groups[index + 1 :])
