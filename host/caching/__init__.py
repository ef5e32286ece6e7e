"""Step caching of denoisers, and prediction of rollback values: see ``docs/caching.md``."""

from __future__ import annotations

from .deep import DeepCache
from .prediction import ProductPredictor, Writes, logged_places, write_predictions
from .series import Series, extrapolation_weights
from .step_cache import StepCache
from .taylor import TaylorCache

__all__ = [
    "DeepCache",
    "ProductPredictor",
    "Series",
    "StepCache",
    "TaylorCache",
    "Writes",
    "extrapolation_weights",
    "logged_places",
    "write_predictions",
]
