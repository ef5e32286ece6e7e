"""Group norms of an image whose rows lie on several devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ...errors import PlanError
from ...storage.packable import packable
from .exchange import Exchange
from .stale_cache import Ranges, StaleDeviceCache


@packable("stadi.runtime.group_norms.Moments")
@dataclass(frozen=True)
class Moments:
    """Mean and variance of some rows in a group norm.

    Attributes
    ----------
    step : int
        Evaluation from which they are.
    rows : (int, int)
        Whose they are.
    mean, variance : torch.Tensor
        float32 (B, G); the variance is about this mean.
    """

    step: int
    rows: tuple[int, int]
    mean: torch.Tensor
    variance: torch.Tensor

    @classmethod
    def of(cls, step: int, rows: tuple[int, int], values: torch.Tensor, groups: int) -> Moments:
        """Of values (B, C, ...) of these rows."""
        # float64 sums do not depend, after rounding, on how threads divide them.
        each = values.reshape(len(values), groups, -1).double()
        mean = each.mean(-1)
        variance = (each - mean[..., None]).square_().mean(-1)
        return cls(step, rows, mean.float(), variance.float())


def pooled(parts: Sequence[Moments]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of all rows together, float64 (B, G).

    A sum of variances and squares: unlike the mean of squares less the square of the mean, it cannot become negative,
    however old some of the parts are (Chan, Golub and LeVeque 1979).
    """
    counts = torch.tensor([part.rows[1] - part.rows[0] for part in parts], dtype=torch.float64)
    weights = (counts / counts.sum()).view(-1, 1, 1)
    means = torch.stack([part.mean for part in parts]).double()
    variances = torch.stack([part.variance for part in parts]).double()
    mean = (weights * means).sum(0)
    return mean, (weights * (variances + (means - mean).square())).sum(0)


class GroupNorms(StaleDeviceCache[Moments]):
    """Means and variances of each device's rows in each group norm.

    In synchronous evaluations the values of all rows are gathered and normalised as on a single device, with its bits.
    In others a device takes the fresh moments of its own rows and the latest of others.
    """

    def wrapped(self, site: str, norm: nn.GroupNorm, present: Callable[[], Exchange]) -> Callable[..., torch.Tensor]:
        """A ``forward`` for a group norm of the model; `present` tells the exchange of the present evaluation."""
        whole: Callable[[torch.Tensor], torch.Tensor] = norm.forward

        def forward(input: torch.Tensor) -> torch.Tensor:
            exchange = present()
            exchange.reached()
            if exchange.alone:
                return whole(input)
            if exchange.synchronous:
                return self._gathered(site, norm, whole, input, exchange)
            return self._displaced(site, norm, input, exchange)

        return forward

    def _gathered(
        self,
        site: str,
        norm: nn.GroupNorm,
        whole: Callable[[torch.Tensor], torch.Tensor],
        values: torch.Tensor,
        exchange: Exchange,
    ) -> torch.Tensor:
        exchange.send(site, {"values": values})
        shares = exchange.plan.shares
        parts = [
            values if share is exchange.me else exchange.receive(site, share, exchange.step)["values"]
            for share in shares
        ]
        turned = not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if turned else torch.contiguous_format
        # Bits of a sum depend on the layout.
        gathered = torch.cat(parts, 2).contiguous(memory_format=layout)
        start, stop = exchange.rows(exchange.me)
        # Rows of this level, or its tokens, for each row of the plan.
        per_row = values.shape[2] // (stop - start)

        def cut(tensor: torch.Tensor, rows: tuple[int, int]) -> torch.Tensor:
            return tensor[:, :, rows[0] * per_row : rows[1] * per_row]

        if exchange.ends_warmup:
            self._held[site] = {
                share.device: Moments.of(exchange.step, share.rows, cut(gathered, share.rows), norm.num_groups)
                for share in shares
            }
        return cut(whole(gathered), (start, stop)).contiguous(memory_format=layout)

    def _displaced(self, site: str, norm: nn.GroupNorm, values: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        own = Moments.of(exchange.step, exchange.rows(exchange.me), values, norm.num_groups)
        held = self.share(site, exchange, own)
        mean, variance = pooled([held[share.device] for share in exchange.plan.shares])
        scale = (variance + norm.eps).rsqrt()
        per_group = norm.num_channels // norm.num_groups
        factor, offset = (each.repeat_interleave(per_group, 1) for each in (scale, -mean * scale))
        if norm.affine:
            factor = factor * norm.weight
            offset = offset * norm.weight + norm.bias
        shape = (*factor.shape, *(1,) * (values.ndim - 2))
        return values * factor.to(values.dtype).view(shape) + offset.to(values.dtype).view(shape)

    def pack(self, own: Moments) -> dict[str, torch.Tensor]:
        return {"mean": own.mean, "variance": own.variance}

    def unpack(self, step: int, rows: tuple[int, int], tensors: dict[str, torch.Tensor]) -> Moments:
        return Moments(step, rows, tensors["mean"], tensors["variance"])

    def redistribute(self, after: Ranges) -> None:
        for site, parts in self._held.items():
            known = {device: parts[device].rows if device in parts else None for device in after}
            for device, rows in after.items():
                if known[device] != rows:
                    raise PlanError(
                        f"means and variances of rows {rows[0]}..{rows[1]} in {site} are not held; a plan that gives "
                        "rows of a U-Net to other devices has to begin with a synchronous step"
                    )
