"""Strategies against timing errors, behind one interface: `Strategy`."""

from __future__ import annotations

from .base import Strategy
from .checksums import PublishedDrift, RecomputeAbft, ZeroingAbft
from .rollback import RESIDUE, RESIDUE_DOUBLE_ERRORS, PredictedRollback, Rollback
from .unprotected import Dmr, Drop, GuardBand, Unprotected

__all__ = [
    "RESIDUE",
    "RESIDUE_DOUBLE_ERRORS",
    "Dmr",
    "Drop",
    "GuardBand",
    "PredictedRollback",
    "PublishedDrift",
    "RecomputeAbft",
    "Rollback",
    "Strategy",
    "Unprotected",
    "ZeroingAbft",
]
