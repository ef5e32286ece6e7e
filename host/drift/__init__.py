"""DRIFT: running at the limits of timing, what that saves and costs, published and measured (docs/drift.md).

Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .operating_point import GUARD_BAND, NOMINAL, OperatingPoint, only_bits
    from .power_policy import SelectivePolicy, TablePolicy, constant
    from .runtime import DriftExecution, protect
    from .strategies import (
        Dmr,
        Drop,
        GuardBand,
        PredictedRollback,
        PublishedDrift,
        RangeRestriction,
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
    "GUARD_BAND": "operating_point",
    "GuardBand": "strategies",
    "NOMINAL": "operating_point",
    "SelectivePolicy": "power_policy",
    "PredictedRollback": "strategies",
    "PublishedDrift": "strategies",
    "RangeRestriction": "strategies",
    "RecomputeAbft": "strategies",
    "Rollback": "strategies",
    "OperatingPoint": "operating_point",
    "Strategy": "strategies",
    "TablePolicy": "power_policy",
    "Unprotected": "strategies",
    "ZeroingAbft": "strategies",
    "constant": "power_policy",
    "only_bits": "operating_point",
    "protect": "runtime",
}

__all__ = [
    "GUARD_BAND",
    "NOMINAL",
    "Dmr",
    "DriftExecution",
    "Drop",
    "GuardBand",
    "OperatingPoint",
    "PredictedRollback",
    "PublishedDrift",
    "RangeRestriction",
    "RecomputeAbft",
    "Rollback",
    "SelectivePolicy",
    "Strategy",
    "TablePolicy",
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
