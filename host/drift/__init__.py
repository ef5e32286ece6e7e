"""DRIFT: running at the limits of timing, what that saves and costs, published and measured (docs/drift.md).

Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .runtime import DriftExecution, protect
    from .schedule import Phases, Table, constant
    from .setting import GUARD_BAND, NOMINAL, Setting, only_bits
    from .strategies import (
        Dmr,
        Drop,
        GuardBand,
        PredictedRollback,
        PublishedDrift,
        RecomputeAbft,
        Rollback,
        Strategy,
        Unprotected,
        ZeroingAbft,
    )

_HOME = {
    "DriftExecution": "runtime",
    "Dmr": "strategies",
    "Drop": "strategies",
    "GUARD_BAND": "setting",
    "GuardBand": "strategies",
    "NOMINAL": "setting",
    "Phases": "schedule",
    "PredictedRollback": "strategies",
    "PublishedDrift": "strategies",
    "RecomputeAbft": "strategies",
    "Rollback": "strategies",
    "Setting": "setting",
    "Strategy": "strategies",
    "Table": "schedule",
    "Unprotected": "strategies",
    "ZeroingAbft": "strategies",
    "constant": "schedule",
    "only_bits": "setting",
    "protect": "runtime",
}

__all__ = [
    "GUARD_BAND",
    "NOMINAL",
    "Dmr",
    "DriftExecution",
    "Drop",
    "GuardBand",
    "Phases",
    "PredictedRollback",
    "PublishedDrift",
    "RecomputeAbft",
    "Rollback",
    "Setting",
    "Strategy",
    "Table",
    "Unprotected",
    "ZeroingAbft",
    "constant",
    "only_bits",
    "protect",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
