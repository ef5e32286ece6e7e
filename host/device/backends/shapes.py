"""Products without their values: what they would take, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.cycle_model import Found, Runs
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.model import ERROR_FREE, erring_models

from ..power.domain_points import RATE_ONE
from ..product.operands import Product, ResidentWeights
from ..product.reload import Places
from ..twin.geometry import geometry
from .twin import TwinBackend


class ShapeBackend(TwinBackend):
    """Counts cycles, traffic and energy of products, whose operands need have no more than a shape.

    Pass it to `Accelerator` in place of a name: ``Accelerator(config, ShapeBackend(config))``. Operands may be on
    torch's meta device, or one element expanded; they are not read, and outputs are left as they are.

    Without errors all hardware counters are those of the other backends. With errors, each block that is checked has
    as many flagged segments as are expected at the rates of the operating points, so that time and bytes are close;
    rows of memory are counted as if every element were written. What checks find is not counted.

    Parameters
    ----------
    config : AcceleratorConfig
        Accelerator whose errors, if any, are drawn: how many carries are late depends on the values.

    Raises
    ------
    ValueError
        Its elements have settled carry lengths.
    """

    name = "shapes"

    def __init__(self, config: AcceleratorConfig) -> None:
        if config.error_model.settles:
            raise ValueError(
                f"ShapeBackend needs timing_model={erring_models('draws')} or {ERROR_FREE!r}; "
                "late carries depend on the values"
            )
        super().__init__(config)

    def check_device(self, name: str, device: torch.device) -> None:
        """Any device will do, as no values are read."""

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        weights = ResidentWeights(self, w if w.ndim == 3 else w.unsqueeze(0), tuple(w.shape))
        with self._lock:
            self._layout.place_weights(weights)
        return weights

    def _compute(self, product: Product) -> tuple[bytes, Found | None]:
        if not product.options.check or not self.config.error_model.errs:
            return b"", None
        records = self._expected_records(product)
        return b"", Found(records) if records.any() else None

    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        with self._lock, self._layout.place_copy(source, places) as (command, runs):
            self._time(command, Runs(runs))

    def _expected_records(self, product: Product) -> NDArray[np.uint64]:
        """Flagged segments of each block, in the order of `Found.records`."""
        shape, config = product.shape, self.config
        assert config.checksum is not None
        pieces = geometry(config, shape.m, shape.n)
        rates = np.array([self.errors.rate_of(domain) for domain in range(config.domains)]) / RATE_ONE
        quiet = np.log1p(-rates)
        columns = np.add.reduceat(quiet[pieces.domains], pieces.segment_starts[:-1])
        flagged = -np.expm1(columns + config.checksum.checks * quiet[config.check_domain])
        first = np.searchsorted(pieces.segment_starts, pieces.col_blocks * config.cols)
        of_blocks = [flagged[start:end].sum() for start, end in pairwise(first)]
        expected = np.outer(np.diff(pieces.row_blocks), of_blocks).round().astype(np.uint64)
        return np.tile(expected.ravel(), shape.batch)
