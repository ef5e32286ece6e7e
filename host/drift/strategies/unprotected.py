"""Strategies that use no checksums: nothing, a guard band, dropping products, doing it twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from brownout.hw.config import AcceleratorConfig

from ...device.product.protection import UNCHECKED, Protection
from ...device.twin.geometry import geometry
from ...offloading.execution import ProductCall
from ..operating_point import GUARD_BAND, OperatingPoint
from .base import DriftRun, Strategy


class Unprotected(Strategy):
    """Errors go where they go."""

    name = "unprotected"

    def takes_narrow(self) -> bool:
        return True

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        return run.run(call, run.scratch("sums", call), point)

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        run.run(call, out, point)

    def attention_protection(self) -> Protection:
        return UNCHECKED


class GuardBand(Unprotected):
    """Only as low as nothing errs: everything at one point of the guard band, whatever the power policy says.

    Parameters
    ----------
    point : OperatingPoint
        Point of all products; by default 0.85 V at 2 GHz.
    """

    name = "guardband"

    def __init__(self, point: OperatingPoint = GUARD_BAND) -> None:
        self.point = point

    def point_for(self, planned: OperatingPoint) -> OperatingPoint:
        return self.point


class Drop(Unprotected):
    """ThUnderVolt (arXiv 1802.03806): a late element costs the next one its product; with `flip`, the whole sum."""

    name = "drop"
    razor = True

    def hardware(self, config: AcceleratorConfig) -> AcceleratorConfig:
        return replace(config, checksum=None, razor=True)


class Dmr(Strategy):
    """Dual modular redundancy in time: every product twice; rows that differ are computed again at the safe point.

    The host reads both results to compare them. Without values rows differ as often as errors are drawn.
    """

    name = "dmr"
    reads_values = True
    priced_by_measurement = True

    def takes_narrow(self) -> bool:
        return True

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        out = run.scratch("sums", call)
        if run.is_safe(point):
            return run.run(call, out, point)
        self.attention_product(run, call, point, out)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        run.run(call, out, point)
        again = run.run(call, run.scratch("second", call), point, attempt=1)
        run.accelerator.add_host_traffic(2 * out.numel() * out.element_size())
        differ = self._drawn(run, call) if run.is_valueless else (out != again).any(-1).flatten()
        run.recompute_rows(call, out, differ.nonzero()[:, 0])

    @staticmethod
    def _drawn(run: DriftRun, call: ProductCall) -> torch.Tensor:
        """Rows that differ if errors of both runs are drawn, each for itself: those in which one of them has any."""
        accelerator = run.accelerator
        rates = np.array([point.error_rate for point in accelerator.operating_points])
        columns = geometry(accelerator.config, *call.shape[-2:]).domains
        share = -np.expm1(2 * np.log1p(-rates[columns]).sum())
        return torch.from_numpy(np.random.default_rng(call.key).random(call.a.shape[:-1].numel()) < share)
