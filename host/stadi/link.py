"""Links between devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Link:
    """One direction between two devices; messages go one after another, in the order in which they are sent.

    Attributes
    ----------
    bytes_per_s : float
        Bandwidth. 25 GB/s by default: 16 lanes of PCIe 4.0 after overhead.
    latency_s : float
        From the end of a message at the sender to its end at the receiver.
    byte_j : float
        Energy per byte: reading and writing DRAM at the ends, 31 pJ each as in `EnergyModel`, and 40 pJ (5 pJ/bit) for
        the wires, an estimate.
    """

    bytes_per_s: float = 25e9
    latency_s: float = 2e-6
    byte_j: float = 102e-12

    def __post_init__(self) -> None:
        if not self.bytes_per_s > 0:
            raise ValueError(
                f"Link.bytes_per_s must be positive, not {self.bytes_per_s!r}; a link that is down is None in Links"
            )
        for name in ("latency_s", "byte_j"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Link.{name} must not be negative, but is {getattr(self, name)!r}")

    def seconds(self, count: float) -> float:
        """Time of a message of `count` bytes on an idle link."""
        return count / self.bytes_per_s + self.latency_s


@dataclass(frozen=True)
class Links:
    """All links of a fleet, each direction of each pair its own.

    Attributes
    ----------
    default : Link
        Wherever nothing else is said.
    special : mapping of (str, str) to Link or None
        By sender and receiver; None is a link that is down.
    """

    default: Link = field(default_factory=Link)
    special: Mapping[tuple[str, str], Link | None] = field(default_factory=dict)

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
