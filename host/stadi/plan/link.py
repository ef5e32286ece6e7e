"""Links between devices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import PlanError
from ...storage.packable import packable
from .piecewise import check_pieces, finish, integral, value_at

Pair = tuple[str, str]
"""Names of sender and receiver."""


@packable("stadi.link.BandwidthTrace")
@dataclass(frozen=True)
class BandwidthTrace:
    """Bandwidth of a link over time, piecewise constant, over its nominal one.

    Attributes
    ----------
    starts_s : tuple of float
        When each piece begins, in seconds of simulated time; the first one at 0, the last one never ends.
    factors : tuple of float
        Bandwidth in each piece over the nominal one. 0 is a pause; in the last piece it is a link that has failed.

    Raises
    ------
    ValueError
        Pieces are out of order, or a factor is negative or infinite.
    """

    starts_s: tuple[float, ...] = (0.0,)
    factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_pieces("BandwidthTrace", "factors", self.starts_s, self.factors)
        for factor in self.factors:
            if not 0 <= factor < math.inf:
                raise ValueError(f"BandwidthTrace.factors must be finite and not negative, not {factor!r}")


@packable("stadi.link.Link")
@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction between two devices; messages go one after another, in the order in which they are sent.

    Attributes
    ----------
    bytes_per_s : float
        Bandwidth. 25 GB/s by default: 16 lanes of PCIe 4.0 after overhead.
    latency_s : float
        Time from the end of a message at the sender to its end at the receiver.
    byte_j : float
        Energy per byte: reading and writing DRAM at the ends, 31 pJ each as in `EnergyModel`, and 40 pJ (5 pJ/bit) for
        the wires, an estimate.
    trace : BandwidthTrace
        How the bandwidth changes; a message that is on its way then goes on with the new one.
    """

    bytes_per_s: float = 25e9
    latency_s: float = 2e-6
    byte_j: float = 102e-12
    trace: BandwidthTrace = field(default_factory=BandwidthTrace)

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise ValueError(
                f"Link.bytes_per_s must be positive, not {self.bytes_per_s!r}; a link that is down is None in Links"
            )
        for name in ("latency_s", "byte_j"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Link.{name} must not be negative, but is {getattr(self, name)!r}")

    def seconds(self, count: float) -> float:
        """Time of a message of `count` bytes on an idle link of nominal bandwidth."""
        return count / self.bytes_per_s + self.latency_s

    def end_s(self, start_s: float, count: float) -> float:
        """When the last byte has left the sender if the first one leaves at `start_s`; infinite if it never does."""
        return finish(self.trace.starts_s, self.trace.factors, start_s, count / self.bytes_per_s)

    def carried(self, start_s: float, end_s: float) -> float:
        """Bytes that a busy link carries between two times."""
        return self.bytes_per_s * integral(self.trace.starts_s, self.trace.factors, start_s, end_s)

    def bandwidth(self, time_s: float) -> float:
        """Bytes per second at a time."""
        return self.bytes_per_s * value_at(self.trace.starts_s, self.trace.factors, time_s)


@packable("stadi.link.Links")
@dataclass(frozen=True)
class Links:
    """All links of a fleet, each direction of each pair its own.

    Attributes
    ----------
    default : Link
        Wherever nothing else is said.
    special : mapping of Pair to Link or None
        Links by sender and receiver; None is a link that is down.
    """

    default: Link = field(default_factory=Link)
    special: Mapping[Pair, Link | None] = field(default_factory=dict)

    def between(self, sender: str, receiver: str) -> Link:
        """Link from one device to another.

        Raises
        ------
        PlanError
            It is down.
        """
        link = self.special.get((sender, receiver), self.default)
        if link is None:
            raise PlanError(
                f"the link from {sender} to {receiver} is down; leave one of the two out, or use one device"
            )
        return link
