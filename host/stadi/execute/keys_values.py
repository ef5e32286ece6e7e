"""Keys and values of self-attention: those of all rows are needed, so each device sends those of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...errors import PlanError
from ...offloading.attention import SUBMODULE, AttentionCall, Gather, OffloadedAttention
from ..plan.plan import Share
from .exchange import Exchange
from .pieces import Piece, join
from .residuals import Residuals, whole
from .stale_cache import Ranges, StaleDeviceCache


class KeysValues(StaleDeviceCache[Piece]):
    """Keys and values of all rows in each self-attention.

    Parameters
    ----------
    rows : int
        Into which an image can be divided.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self._residuals = Residuals()

    def gather(self, site: str, present: Callable[[], Exchange]) -> Gather:
        """For `AttentionCall.gather`; `present` tells the exchange of the present evaluation."""

        def gather(
            key: torch.Tensor, value: torch.Tensor, scales: tuple[float, float], bad: bool = False
        ) -> tuple[torch.Tensor, torch.Tensor, bool]:
            exchange = present()
            exchange.reached()
            if exchange.alone:
                return key, value, bad
            own = Piece(exchange.step, exchange.rows(exchange.me), key.clone(), value.clone(), scales, bad)
            held = self.share(site, exchange, own)
            # In the order of rows, which is that of the plan.
            joined = join([held[share.device].scaled(scales) for share in exchange.plan.shares])
            return joined.key, joined.value, joined.bad

        return gather

    def pack(self, own: Piece) -> dict[str, torch.Tensor]:
        return whole(own)

    def unpack(self, step: int, rows: tuple[int, int], tensors: dict[str, torch.Tensor]) -> Piece:
        scales = tensors["steps"].tolist()
        return Piece(step, rows, tensors["key"], tensors["value"], (scales[0], scales[1]), "bad" in tensors)

    def _send(self, site: str, exchange: Exchange, own: Piece) -> None:
        self._residuals.send(site, exchange, own, self._held.get(site, {}).get(exchange.me.device))

    def _receive(self, site: str, exchange: Exchange, sender: Share, step: int) -> dict[str, torch.Tensor]:
        return self._residuals.receive(site, exchange, sender, step, self._held[site].get(sender.device))

    def held(self) -> Any:
        return super().held(), self._residuals.state()

    def restore(self, held: Any) -> None:
        pieces, known = held
        super().restore(pieces)
        self._residuals.restore(known)

    def forget(self) -> None:
        super().forget()
        self._residuals.forget()

    def redistribute(self, after: Ranges) -> None:
        self._residuals.redistribute()
        for site, pieces in self._held.items():
            ordered = sorted(pieces.values(), key=lambda piece: piece.rows)
            joined = join(ordered)
            if joined.rows != (0, self.rows):
                raise PlanError(
                    f"keys and values of rows {joined.rows[0]}..{joined.rows[1]} of {self.rows} are held only"
                )
            self._held[site] = {device: replace(joined, step=-1).cut(rows) for device, rows in after.items()}


def self_attention(module: nn.Module) -> Iterator[AttentionCall]:
    """Offloaded calls of self-attention.

    Raises
    ------
    PlanError
        Some self-attention is not offloaded.
    """
    for name, owner in module.named_modules():
        if getattr(owner, "is_cross_attention", None) is not False:
            continue
        offloaded = owner._modules.get(SUBMODULE)
        if not isinstance(offloaded, OffloadedAttention):
            raise PlanError(
                f"self-attention {name!r} is not offloaded, but keys and values are exchanged in int8; "
                "let filter_fn select it"
            )
        for call in offloaded.calls:
            assert isinstance(call, AttentionCall)
            yield call
