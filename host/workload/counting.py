"""Cycles, traffic and energy of a workload on one of our accelerators, from shapes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import torch

from brownout.hw.config import AcceleratorConfig

from ..device.accelerator import Accelerator
from ..device.backends.shapes import ShapeBackend
from ..device.power.energy import EnergyModel
from ..device.power.timing import DelayModel
from ..device.product.operands import Requantisation, ResidentWeights
from ..device.product.protection import UNCHECKED, Protection
from .trace import ModelProduct, Workload

SUPPRESSING = Protection(on_uncorrectable="suppress", log_records=0)
"""Corrects, and rolls back by not writing; needs no log."""


class CountedWorkload:
    """A workload whose weights are resident on an accelerator that counts and does not compute.

    Parameters
    ----------
    config : AcceleratorConfig
        Accelerator, whose model of errors must draw for operating points other than the nominal one.
    workload : Workload
        What it runs.
    energy_model : EnergyModel, optional
        Prices of the energies.
    delay_model : DelayModel, optional
        Law from operating points to error rates.
    requantise : bool
        Whether layers write int8, with a table of channels, instead of the int32 of `offload`. Attention
        writes int32 always.

    Attributes
    ----------
    accelerator : Accelerator
        May be moved to another operating point.

    Raises
    ------
    DeviceMemoryError
        The weights do not fit.
    """

    def __init__(
        self,
        config: AcceleratorConfig,
        workload: Workload,
        energy_model: EnergyModel | None = None,
        delay_model: DelayModel | None = None,
        *,
        requantise: bool = False,
    ) -> None:
        if config.attention:
            raise ValueError(
                "CountedWorkload counts products one by one, but attention=True makes one command of two; count with "
                "brownout.host.workload.shaped.ShapedModel, or without the unit"
            )
        self.workload, self.requantise = workload, requantise
        self.accelerator = Accelerator(config, ShapeBackend(config), energy_model=energy_model, delay_model=delay_model)
        self._weights: dict[str, ResidentWeights] = {}
        for name, (batch, k, n) in workload.weights.items():
            self._weights[name] = self.accelerator.upload(operand(batch, k, n))

    def evaluate(
        self, protection: Protection = UNCHECKED, products: Iterable[ModelProduct] | None = None
    ) -> dict[str, float]:
        """Count one evaluation at the present operating point; moves before it are counted in.

        Parameters
        ----------
        protection : Protection
            Protection of all products. As in an offloaded model, products of attention keep what others suppress.
        products : iterable of ModelProduct, optional
            What to count instead of all products of the workload: other extents, the same weights.

        Returns
        -------
        dict of str to float
            `Accelerator.stats` of this evaluation.
        """
        kept = replace(protection, on_uncorrectable="keep") if protection.on_uncorrectable == "suppress" else protection
        for product in self.workload.products if products is None else products:
            shape = product.shape
            w = self._weights.get(product.name)
            narrow = self.requantise and w is not None
            self.accelerator.gemm(
                operand(shape.batch, shape.m, shape.k),
                operand(shape.batch, shape.k, shape.n) if w is None else w,
                out=operand(shape.batch, shape.m, shape.n, dtype=torch.int8 if narrow else torch.int32),
                requant=unit_scale(shape.n) if narrow else None,
                protection=kept if w is None else protection,
                first_row=product.first_row,
            )
        stats = dict(self.accelerator.stats)
        self.accelerator.reset_stats()
        return stats

    def checkpoint(self) -> dict[str, float]:
        """Count a checkpoint of the outputs of all layers of transformer blocks; needs checksum units.

        Returns
        -------
        dict of str to float
            `Accelerator.stats` of the copies.
        """
        for product in self.workload.products:
            if product.in_transformer:
                shape = (product.shape.batch, product.shape.m, product.shape.n)
                dtype = torch.int8 if self.requantise else torch.int32
                self.accelerator.copy(operand(*shape, dtype=dtype), operand(*shape, dtype=dtype))
        stats = dict(self.accelerator.stats)
        self.accelerator.reset_stats()
        return stats


def operand(*shape: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    """One element, everywhere: it is only the shape that counts."""
    return torch.empty(1, dtype=dtype).expand(shape)


@cache
def unit_scale(channels: int) -> Requantisation:
    """Any requantisation: int8 results are what counts."""
    return Requantisation.from_scale(torch.ones(channels))
