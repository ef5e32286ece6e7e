"""Strategies that use no checksums: nothing, a guard band, dropping products, doing it twice."""

from __future__ import annotations

from dataclasses import replace

import torch

from brownout.hw.config import AcceleratorConfig

from ...offloading.execution import ProductCall
from ..setting import GUARD_BAND, Setting
from .base import DriftRun, Strategy


class Unprotected(Strategy):
    """Errors go where they go."""

    name = "unprotected"

    def layer(self, run: DriftRun, call: ProductCall, setting: Setting) -> torch.Tensor:
        return run.run(call, run.scratch("sums", call), setting)

    def attention_product(self, run: DriftRun, call: ProductCall, setting: Setting, out: torch.Tensor) -> None:
        run.run(call, out, setting)


class GuardBand(Unprotected):
    """Only as low as nothing errs: everything at one point of the guard band, whatever the schedule says.

    Parameters
    ----------
    point : Setting
        By default 0.85 V at 2 GHz.
    """

    name = "guardband"

    def __init__(self, point: Setting = GUARD_BAND) -> None:
        self.point = point

    def setting(self, scheduled: Setting) -> Setting:
        return self.point


class Drop(Unprotected):
    """ThUnderVolt (arXiv 1802.03806): a late element costs the next one its product; with `flip`, the whole sum."""

    name = "drop"
    razor = True

    def hardware(self, config: AcceleratorConfig) -> AcceleratorConfig:
        return replace(config, checksum=None, razor=True)


class Dmr(Strategy):
    """Dual modular redundancy in time: every product twice; rows that differ are computed again at the safe point.

    The host reads both results to compare them.
    """

    name = "dmr"

    def layer(self, run: DriftRun, call: ProductCall, setting: Setting) -> torch.Tensor:
        out = run.scratch("sums", call)
        if run.is_safe(setting):
            return run.run(call, out, setting)
        self.attention_product(run, call, setting, out)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, setting: Setting, out: torch.Tensor) -> None:
        run.run(call, out, setting)
        again = run.run(call, run.scratch("second", call), setting, attempt=1)
        run.accelerator.add_host_traffic(2 * out.numel() * out.element_size())
        run.recompute_rows(call, out, (out != again).any(-1).flatten().nonzero()[:, 0])
