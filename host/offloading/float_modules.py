"""Modules whose products stay in float."""

from __future__ import annotations

from dataclasses import dataclass

from ..storage.packable import packable


@packable("offloading.macs.FloatModule")
@dataclass(frozen=True)
class FloatModule:
    """A module, or the part of one, whose products stay in PyTorch.

    Attributes
    ----------
    name : str
        Dotted name in the model.
    kind : str
        Its class.
    macs : int
        Multiply-accumulates in the calibration's run for scales, without those of modules within.
    reason : str
        Why they are not offloaded.
    share : float or None
        Share of the MACs of the model in that run; None if they were not counted.
    """

    name: str
    kind: str
    macs: int
    reason: str
    share: float | None = None

    def __str__(self) -> str:
        share = "" if self.share is None else f", {100 * self.share:.3g} % of MACs"
        return f"{self.name!r} ({self.kind}{share}): {self.reason}"
