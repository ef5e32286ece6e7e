"""No timing errors: nothing of them is in the RTL."""

from __future__ import annotations

from .model import TIMING_ERROR_MODELS, TimingErrorModel


@TIMING_ERROR_MODELS.register
class NoErrors(TimingErrorModel):
    """Every sum settles in time."""

    name = "none"
