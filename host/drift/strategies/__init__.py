"""Strategies against timing errors, behind one interface: `Strategy`."""

from __future__ import annotations

from .base import Strategy
from .checksums import PublishedDrift, ZeroingAbft
from .ranges import RangeRestriction
from .recomputing import RecomputeAbft
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
    "RangeRestriction",
    "RecomputeAbft",
    "Rollback",
    "Strategy",
    "Unprotected",
    "ZeroingAbft",
]
