"""Layers of existing PyTorch models on an accelerator: see ``docs/offloading.md``."""

from __future__ import annotations

from .attention import AttentionCall, OffloadedAttention, int8_attention
from .calibrate import calibrate
from .calibration import Calibration
from .conv import OffloadedConv2d, int8_conv2d
from .float_modules import FloatModule
from .layer_calibration import LayerCalibration
from .linear import OffloadedLinear, int8_linear
from .nonfinite import Nonfinite
from .offload import Unsupported, calibration_of, offload, offloaded_model, restore
from .products import OffloadedModel, OffloadedProduct
from .report import LayerReport, Report, report
from .selection import FilterFn
from .storage import load_offloaded, save_offloaded

__all__ = [
    "AttentionCall",
    "Calibration",
    "FilterFn",
    "FloatModule",
    "LayerCalibration",
    "LayerReport",
    "Nonfinite",
    "OffloadedAttention",
    "OffloadedConv2d",
    "OffloadedLinear",
    "OffloadedModel",
    "OffloadedProduct",
    "Report",
    "Unsupported",
    "calibrate",
    "calibration_of",
    "int8_attention",
    "int8_conv2d",
    "int8_linear",
    "load_offloaded",
    "offload",
    "offloaded_model",
    "report",
    "restore",
    "save_offloaded",
]
