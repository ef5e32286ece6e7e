"""What a calibration run has found out about one layer, and how smoothing changes weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..storage.packable import packable

ATTENTION = "attention"
"""Kind of calls of attention, which are no modules and belong to no layer type."""


@packable("offloading.calibration.LayerCalibration")
@dataclass(frozen=True)
class LayerCalibration:
    """Scales of one layer, or of one call of attention.

    Attributes
    ----------
    kind : str
        `LayerType.kind` of the layer, ``"linear"`` or ``"conv2d"`` for example, or ``"attention"``.
    scales : torch.Tensor
        float64: scale of the input for each timestep group, (G,); of attention (G, 3), for query, key and
        value.
    smoothing : torch.Tensor or None
        float32 (C,): factors by which input channels are divided and weights multiplied.
    sqnr_db : float or None
        Signal-to-quantisation-noise ratio of the output, without bias, against the float layer on the calibration
        inputs; None if it was not measured, or nothing differed.
    macs : int or None
        Multiply-accumulates in the run for scales; None in files of earlier programs.
    clipped : float or None
        Largest share of the inputs of a timestep group, and of an operand of attention, that its scale saturated; None
        in files of earlier programs.
    output : torch.Tensor or None
        float64 (G,): scale of the output of attention for each timestep group, which an attention unit writes as int8;
        None for layers, and in files of earlier programs.
    peaks : torch.Tensor or None
        float64 (N,): largest magnitude of each output channel of a layer, without bias; None for attention, and in
        files of earlier programs.
    power : float or None
        Mean square of these outputs; likewise.
    """

    kind: str
    scales: torch.Tensor
    smoothing: torch.Tensor | None = None
    sqnr_db: float | None = None
    macs: int | None = None
    clipped: float | None = None
    output: torch.Tensor | None = None
    peaks: torch.Tensor | None = None
    power: float | None = None


def smoothed(weight: torch.Tensor, factors: torch.Tensor | None, groups: int = 1) -> torch.Tensor:
    """Weights (N, C / groups, ...) times the factor (C,) of their input channel, in float32 if there are any."""
    if factors is None:
        return weight
    grouped = weight.float().unflatten(0, (groups, -1))
    return (grouped * factors.to(weight.device).view(groups, 1, -1, *[1] * (weight.ndim - 2))).flatten(0, 1)
