"""Rows that convolutions read beyond a device's own: int8, as the accelerator quantises them, from who has them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...errors import PlanError
from ...offloading.row_window import Halo
from ...storage.packable import packable
from ..plan.plan import Share
from .exchange import Exchange
from .pieces import rescaled
from .stale_cache import Ranges, StalePeerCache


@packable("stadi.runtime.halos.PixelRow")
@dataclass(frozen=True)
class PixelRow:
    """A row of the input of a convolution.

    Attributes
    ----------
    step : int
        Evaluation from which it is.
    pixels : torch.Tensor
        int8 (B, W, C).
    scale : float
        Scale of the pixels.
    bad : bool
        Whether it had NaN or infinite pixels, which int8 has not.
    """

    step: int
    pixels: torch.Tensor
    scale: float
    bad: bool = False


@dataclass(frozen=True)
class HaloGeometry:
    """How the rows of a convolution's input belong to devices.

    Attributes
    ----------
    total : int
        Rows of the whole input.
    per_row : int
        Rows of it for each row of the plan.
    reach : (int, int)
        Rows that are read above and below those of a device.
    """

    total: int
    per_row: int
    reach: tuple[int, int]

    def own(self, rows: tuple[int, int]) -> range:
        """Rows of a device."""
        return range(rows[0] * self.per_row, rows[1] * self.per_row)

    def above(self, rows: tuple[int, int]) -> range:
        """Rows that it reads above them, also those beyond the image."""
        start = self.own(rows).start
        return range(start - self.reach[0], start)

    def below(self, rows: tuple[int, int]) -> range:
        """Rows that it reads below them, also those beyond the image."""
        stop = self.own(rows).stop
        return range(stop, stop + self.reach[1])

    def read(self, rows: tuple[int, int]) -> set[int]:
        """Rows of others that it reads."""
        return {row for row in (*self.above(rows), *self.below(rows)) if 0 <= row < self.total}


class Halos(StalePeerCache[int, PixelRow]):
    """Rows of others that the convolutions of a device read, by place and row.

    Each device gets those next to its own. The last synchronous evaluation also brings those that will be next to them
    when the plan's other division begins; a division that the plan did not name then is refused.

    Parameters
    ----------
    rows : int
        Into which an image can be divided.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self._geometry: dict[str, HaloGeometry] = {}

    def halo(self, site: str, reach: tuple[int, int], present: Callable[[], Exchange]) -> Halo:
        """For `OffloadedLayer.halo`; `present` tells the exchange of the present evaluation."""

        def halo(
            image: torch.Tensor, scale: float, bad: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            exchange = present()
            exchange.reached()
            rows = exchange.rows(exchange.me)
            per_row = image.shape[1] // (rows[1] - rows[0])
            geometry = self._geometry[site] = HaloGeometry(per_row * self.rows, per_row, reach)
            if not exchange.alone:
                self._send(
                    site, geometry, exchange, image, scale, [False] * image.shape[1] if bad is None else bad.tolist()
                )
                self._receive(site, geometry, exchange)
            above, below = geometry.above(rows), geometry.below(rows)
            beyond = [self._is_bad(site, row) for row in (*above, *below)]
            touched = torch.tensor(beyond, device=image.device) if any(beyond) else None
            return self._stack(site, above, image, scale), self._stack(site, below, image, scale), touched

        return halo

    @staticmethod
    def _wanted(geometry: HaloGeometry, exchange: Exchange, share: Share) -> set[int]:
        """Rows that a device gets in the present evaluation."""
        wanted = geometry.read(exchange.rows(share))
        return wanted | geometry.read(share.rows) if exchange.ends_warmup else wanted

    def _send(
        self,
        site: str,
        geometry: HaloGeometry,
        exchange: Exchange,
        image: torch.Tensor,
        scale: float,
        bad: list[bool],
    ) -> None:
        own = geometry.own(exchange.rows(exchange.me))
        for share in exchange.others:
            if rows := sorted(self._wanted(geometry, exchange, share) & set(own)):
                pixels = torch.stack([image[:, row - own.start] for row in rows], 1)
                tensors = {"pixels": pixels, "scale": torch.tensor(scale, dtype=torch.float64)}
                if any(which := [bad[row - own.start] for row in rows]):
                    tensors["bad"] = torch.tensor(which)
                exchange.send(_letterbox(site, share), tensors, (share,))
        held = self._held.setdefault(site, {})
        for row in self._wanted(geometry, exchange, exchange.me) & set(own):
            # What was a device's own until the division changes.
            held[row] = PixelRow(exchange.step, image[:, row - own.start].clone(), scale, bad[row - own.start])

    def _receive(self, site: str, geometry: HaloGeometry, exchange: Exchange) -> None:
        held = self._held[site]
        wanted = self._wanted(geometry, exchange, exchange.me)
        for share in exchange.others:
            rows = sorted(wanted & set(geometry.own(exchange.rows(share))))
            step = exchange.held(share)
            if step is None:
                if missing := [row for row in rows if row not in held]:
                    raise PlanError(
                        f"row {missing[0]} of the input of {site} is not held; a plan that gives rows of a U-Net to "
                        "other devices has to begin with a synchronous step"
                    )
                continue
            if all(row in held and held[row].step == step for row in rows):
                continue
            got = exchange.receive(_letterbox(site, exchange.me), share, step)
            for place, row in enumerate(rows):
                bad = "bad" in got and bool(got["bad"][place])
                held[row] = PixelRow(step, got["pixels"][:, place], float(got["scale"]), bad)

    def _is_bad(self, site: str, row: int) -> bool:
        return 0 <= row < self._geometry[site].total and self._held[site][row].bad

    def _stack(self, site: str, rows: range, image: torch.Tensor, scale: float) -> torch.Tensor:
        """Held rows one below the other, (B, rows, W, C); zeros beyond the image."""
        batch, _, width, channels = image.shape
        stacked = torch.zeros((batch, len(rows), width, channels), dtype=torch.int8, device=image.device)
        for place, row in enumerate(rows):
            if 0 <= row < self._geometry[site].total:
                held = self._held[site][row]
                stacked[:, place] = rescaled(held.pixels, held.scale, scale)
        return stacked

    def meet(self, exchange: Exchange) -> None:
        for site in self._held:
            self._receive(site, self._geometry[site], exchange)

    def redistribute(self, after: Ranges) -> None:
        """Nothing to divide: what the last synchronous step brought is for this division, or `halo` refuses it."""


def _letterbox(site: str, receiver: Share) -> str:
    """Name of a message to one device: neighbours get different rows."""
    return f"{site} for {receiver.device}"
