"""Symmetric int8 quantisation of weights and activations."""

from __future__ import annotations

import math
from typing import Literal

import torch

from ..errors import NonFiniteError

INT8_MAX = 127

Method = Literal["absmax", "percentile", "mse"]

METHODS: tuple[Method, ...] = ("absmax", "percentile", "mse")

HISTOGRAM_BINS = 8192
"""Even; dozens per quantisation step, so that the error inside a bin does not matter."""

MSE_CANDIDATES = 64


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise per output channel; the rounding error is at most half a scale.

    Parameters
    ----------
    weight : torch.Tensor
        Floating-point (N, K).

    Returns
    -------
    (torch.Tensor, torch.Tensor)
        int8 (N, K) in -127..127, and float32 scales (N,). A channel of zeros, or of magnitudes that float32 has no
        scale for (below 1e-43), has scale 1; that of one with a NaN or infinite weight is NaN or infinite.
    """
    values = weight.detach().float()
    scale = values.abs().amax(dim=1) / INT8_MAX
    scale = torch.where(scale == 0, 1.0, scale)
    quantized = (values / scale[:, None]).round().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return quantized, scale


class ActivationObserver:
    """Watches one layer's input during calibration and chooses its scale.

    Magnitudes are counted in a histogram whose range doubles when it must, so every value has the same weight
    whenever it comes.
    """

    def __init__(self) -> None:
        self.absmax = 0.0
        self.updates = 0
        self._limit = 0.0
        self._zeros = 0
        self._counts = torch.zeros(HISTOGRAM_BINS, dtype=torch.float64)

    def update(self, values: torch.Tensor) -> None:
        """Take an input of the layer into account.

        Parameters
        ----------
        values : torch.Tensor
            Floating-point, any shape.

        Raises
        ------
        NonFiniteError
            Some are NaN or infinite.
        """
        magnitudes = values.detach().float().abs().flatten().cpu()
        # The maximum of a tensor with a NaN is one.
        largest = magnitudes.max().item()
        if not math.isfinite(largest):
            bad = int((~magnitudes.isfinite()).sum())
            raise NonFiniteError(f"{bad} of {magnitudes.numel()} values are NaN or infinite, so they have no scale")
        self.updates += 1
        self._zeros += magnitudes.numel() if not largest else 0
        if not largest:
            return
        self.absmax = max(self.absmax, largest)
        if not self._limit:
            self._limit = largest
        while self._limit < largest:
            self._limit *= 2
            self._counts = torch.cat([self._counts.view(-1, 2).sum(1), self._counts.new_zeros(HISTOGRAM_BINS // 2)])
        self._counts += torch.histc(magnitudes, HISTOGRAM_BINS, 0, self._limit)

    def clipped(self, scale: float) -> float:
        """Share of all values that saturates with this scale, to a histogram's bin."""
        edges = torch.arange(HISTOGRAM_BINS, dtype=torch.float64) * (self._limit / HISTOGRAM_BINS)
        total = float(self._counts.sum()) + self._zeros
        return float(self._counts[edges > (INT8_MAX + 0.5) * scale].sum()) / total if total else 0.0

    def scale(self, method: Method, percentile: float = 99.99) -> float:
        """Value of one quantisation step.

        Parameters
        ----------
        method : {"absmax", "percentile", "mse"}
            Represent everything seen, all but the largest magnitudes, or what leaves the least mean squared error.
        percentile : float
            Share of magnitudes, in percent, that ``"percentile"`` represents, to the upper edge of a histogram's bin.

        Returns
        -------
        float
            1 if only zeros were seen.
        """
        if not self.absmax:
            return 1.0
        if method == "absmax":
            return self.absmax / INT8_MAX
        width = self._limit / HISTOGRAM_BINS
        if method == "percentile":
            below = self._counts.cumsum(0)
            bin_ = int((below < below[-1] * (percentile / 100)).sum())
            return min((bin_ + 1) * width, self.absmax) / INT8_MAX
        centres = (torch.arange(HISTOGRAM_BINS, dtype=torch.float64) + 0.5) * width
        scales = torch.arange(1, MSE_CANDIDATES + 1, dtype=torch.float64) * (self.absmax / MSE_CANDIDATES / INT8_MAX)
        steps = (centres / scales[:, None]).round_().clamp_(max=INT8_MAX)
        errors = steps.mul_(scales[:, None]).sub_(centres).square_() @ self._counts
        return float(scales[errors.argmin()])
