"""Layers of existing PyTorch models on an accelerator: see ``docs/offloading.md``."""

from __future__ import annotations

from .attention import AttentionCall, OffloadedAttention, int8_attention
from .calibrate import calibrate
from .calibration import Calibration
from .float_modules import FloatModule
from .layer import OffloadedLayer
from .layer_calibration import LayerCalibration
from .layer_types import LayerType, register_layer_type
from .layer_types.conv2d import OffloadedConv2d, int8_conv2d
from .layer_types.linear import OffloadedLinear, int8_linear
from .nonfinite import Nonfinite
from .offload import Unsupported, calibration_of, offload, offloaded_model, restore
from .output_format import OutputFormat, Outputs
from .products import OffloadedModel, OffloadedProduct
from .report import LayerReport, Report, report
from .row_window import RowWindow
from .selection import FilterFn
from .storage import load_offloaded, save_offloaded

__all__ = [
    "AttentionCall",
    "Calibration",
    "FilterFn",
    "FloatModule",
    "LayerCalibration",
    "LayerReport",
    "LayerType",
    "Nonfinite",
    "OffloadedAttention",
    "OffloadedConv2d",
    "OffloadedLayer",
    "OffloadedLinear",
    "OffloadedModel",
    "OffloadedProduct",
    "OutputFormat",
    "Outputs",
    "Report",
    "RowWindow",
    "Unsupported",
    "calibrate",
    "calibration_of",
    "int8_attention",
    "int8_conv2d",
    "int8_linear",
    "load_offloaded",
    "offload",
    "offloaded_model",
    "register_layer_type",
    "report",
    "restore",
    "save_offloaded",
]
