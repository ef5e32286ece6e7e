"""What a device has of the others, by the place in the model: used until something newer comes."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch

from ..plan.plan import Share
from .exchange import Exchange

Ranges = Mapping[str, tuple[int, int]]
"""Rows of each device."""


class Latest(Protocol):
    """What a device made in an evaluation; `step` says in which."""

    @property
    def step(self) -> int: ...


Name = TypeVar("Name")
Item = TypeVar("Item")
Made = TypeVar("Made", bound=Latest)


class StalePeerCache(abc.ABC, Generic[Name, Item]):
    """Items by the place in the model, and by a name there; items are never changed."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Name, Item]] = {}

    @abc.abstractmethod
    def meet(self, exchange: Exchange) -> None:
        """Receive all that the next evaluation would use of others."""

    @abc.abstractmethod
    def redistribute(self, after: Ranges) -> None:
        """Rows belong to other devices from now on; raises PlanError if what is held does not suffice for that."""

    def held(self) -> Any:
        """What is held, to go back to (`restore`); it is not changed later."""
        return {site: dict(items) for site, items in self._held.items()}

    def restore(self, held: Any) -> None:
        """Hold what `held` returned, here or on another device."""
        self._held = {site: dict(items) for site, items in held.items()}

    def forget(self) -> None:
        """Another image begins."""
        self._held.clear()


class StaleDeviceCache(StalePeerCache[str, Made]):
    """The latest that each device has made, by its name."""

    @abc.abstractmethod
    def pack(self, own: Made) -> dict[str, torch.Tensor]:
        """What to send of what was made."""

    @abc.abstractmethod
    def unpack(self, step: int, rows: tuple[int, int], tensors: dict[str, torch.Tensor]) -> Made:
        """What another device made of its rows."""

    def share(self, site: str, exchange: Exchange, own: Made) -> dict[str, Made]:
        """Send what was made, and receive what the present evaluation uses: of each device, by its name."""
        self._send(site, exchange, own)
        self._held.setdefault(site, {})[exchange.me.device] = own
        self._refresh(site, exchange)
        return self._held[site]

    def _send(self, site: str, exchange: Exchange, own: Made) -> None:
        exchange.send(site, self.pack(own))

    def _receive(self, site: str, exchange: Exchange, sender: Share, step: int) -> dict[str, torch.Tensor]:
        return exchange.receive(site, sender, step)

    def _refresh(self, site: str, exchange: Exchange) -> None:
        held = self._held[site]
        for share in exchange.others:
            step = exchange.held(share)
            if step is None or (share.device in held and held[share.device].step == step):
                continue
            got = self._receive(site, exchange, share, step)
            held[share.device] = self.unpack(step, exchange.rows(share), got)

    def meet(self, exchange: Exchange) -> None:
        for site in self._held:
            self._refresh(site, exchange)


AnyKept = StalePeerCache[Any, Any]
