"""How wide the outputs of layers leave the accelerator: int32 sums, or int16 and int8 with a scale for each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..device.product.operands import MULT_LIMIT, Requantisation
from .layer_calibration import LayerCalibration

Outputs = Literal["int32", "int16", "int8", "auto"]
"""What layers write; ``"auto"``: int8 where it adds little to the error that a layer has, int16 elsewhere."""

HEADROOM = {8: 1.25, 16: 4.0}
"""Largest value that an output holds, over the largest one of its channel in calibration, by bits: values beyond are
clamped, which costs more than the finer steps of a narrower range save."""

MARGIN_DB = 3.0
"""Of the signal-to-noise ratio of int8 outputs over that of the layer's quantisation as it is: with so much, both
together are 1.8 dB worse than the latter alone."""

LEAST_FACTOR, MOST_FACTOR = 2.0**-31, MULT_LIMIT / 2.0
"""What `Requantisation` takes."""


@dataclass(frozen=True)
class OutputFormat:
    """Narrow outputs of a layer.

    Attributes
    ----------
    bits : int
        8 or 16.
    scale : torch.Tensor
        float64 (N,): of each output channel, without bias; 0 where calibration saw only zeros.
    """

    bits: int
    scale: torch.Tensor

    def present(self, sum_scale: torch.Tensor) -> tuple[list[Requantisation], torch.Tensor]:
        """What the accelerator does to sums, and what its outputs mean.

        Parameters
        ----------
        sum_scale : torch.Tensor
            float64 (G, N): scale of each sum, for each timestep group.

        Returns
        -------
        requantisations : list of Requantisation
            For each timestep group.
        scale : torch.Tensor
            float64 (N,): scale of the outputs, the same in all groups.
        """
        # No finer than sums: what was never seen is kept as it is.
        scale = self.scale.to(sum_scale.device)
        coarsest = sum_scale.amax(0)
        scale = torch.where(scale > 0, scale, coarsest)
        factors = (sum_scale / scale).clamp(LEAST_FACTOR, MOST_FACTOR)
        return [Requantisation.from_scale(each, self.bits) for each in factors], scale


def output_format(calibration: LayerCalibration, outputs: Outputs, groups: int = 1) -> OutputFormat | None:
    """Format of a layer's outputs; None for int32.

    Parameters
    ----------
    calibration : LayerCalibration
        Of the layer.
    outputs : {"int32", "int16", "int8", "auto"}
        What is wanted.
    groups : int
        Groups of channels, each a product of its own. More than one leave as int32: all products of a command have the
        same table of channels.
    """
    peaks, power = calibration.peaks, calibration.power
    if outputs == "int32" or groups > 1 or peaks is None or power is None:
        return None
    bits = 16
    if outputs == "int8":
        bits = 8
    elif outputs == "auto" and calibration.sqnr_db is not None:
        added = narrow_sqnr_db(peaks, power, 8)
        bits = 8 if added is not None and added >= calibration.sqnr_db + MARGIN_DB else 16
    return OutputFormat(bits, _scale(peaks, bits))


def narrow_sqnr_db(peaks: torch.Tensor, power: float, bits: int) -> float | None:
    """Signal-to-noise ratio of outputs that are rounded to so many bits; None of zeros.

    Parameters
    ----------
    peaks : torch.Tensor
        float64 (N,): largest magnitude of each channel.
    power : float
        Mean square of all outputs.
    bits : int
        8 or 16.
    """
    noise = float(_scale(peaks, bits).square().mean()) / 12
    return None if not (noise and power) else float(10 * torch.tensor(power / noise).double().log10())


def _scale(peaks: torch.Tensor, bits: int) -> torch.Tensor:
    return peaks * (HEADROOM[bits] / ((1 << (bits - 1)) - 1))
