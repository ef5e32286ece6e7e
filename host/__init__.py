"""PyTorch runtime for Brownout accelerators.

Names are imported when first used: ``import brownout.host`` costs nothing, torch comes with the first name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import RunCheckpoint, journal
    from .device.accelerator import Accelerator
    from .device.mixed.options import Coverage, MixedOptions
    from .device.power.domain_points import DomainPoint
    from .device.power.energy import EnergyModel
    from .device.power.timing import DelayModel
    from .device.product.attention import SoftmaxScales
    from .device.product.compare import Difference, first_difference
    from .device.product.operands import Requantisation, ResidentWeights
    from .device.product.protection import LogRecord, Outcome, Protection
    from .drift import OperatingPoint, Rollback, SelectivePolicy, protect
    from .errors import (
        AcceleratorClosedError,
        CheckpointError,
        CheckpointWarning,
        DeviceMemoryError,
        FileRefusedError,
        ForkedProcessError,
        MismatchError,
        OffloadError,
        OffloadWarning,
        PipelineClosedError,
        WeightsNotFoundError,
    )
    from .models.load import load_classifier, load_denoiser
    from .models.sampling import sample
    from .offloading import (
        Calibration,
        FloatModule,
        LayerReport,
        calibrate,
        load_offloaded,
        offload,
        offloaded_model,
        report,
        restore,
        save_offloaded,
    )
    from .pipelines import OffloadedPipeline, calibrate_pipeline
    from .stadi import DeviceSpec, Fleet, Sampling, Sharing
    from .storage.results import read_results, write_results
    from .storage.state import State, Stateful

_HOME = {
    "Accelerator": "device.accelerator",
    "AcceleratorClosedError": "errors",
    "Calibration": "offloading",
    "CheckpointError": "errors",
    "CheckpointWarning": "errors",
    "Coverage": "device.mixed.options",
    "DeviceMemoryError": "errors",
    "DeviceSpec": "stadi",
    "Difference": "device.product.compare",
    "EnergyModel": "device.power.energy",
    "FileRefusedError": "errors",
    "Fleet": "stadi",
    "FloatModule": "offloading",
    "ForkedProcessError": "errors",
    "LayerReport": "offloading",
    "LogRecord": "device.product.protection",
    "MismatchError": "errors",
    "MixedOptions": "device.mixed.options",
    "OffloadError": "errors",
    "OffloadWarning": "errors",
    "OffloadedPipeline": "pipelines",
    "DomainPoint": "device.power.domain_points",
    "Outcome": "device.product.protection",
    "SelectivePolicy": "drift",
    "PipelineClosedError": "errors",
    "Protection": "device.product.protection",
    "Requantisation": "device.product.operands",
    "SoftmaxScales": "device.product.attention",
    "ResidentWeights": "device.product.operands",
    "Rollback": "drift",
    "RunCheckpoint": "checkpoints",
    "OperatingPoint": "drift",
    "Sampling": "stadi",
    "Sharing": "stadi",
    "State": "storage.state",
    "Stateful": "storage.state",
    "DelayModel": "device.power.timing",
    "WeightsNotFoundError": "errors",
    "calibrate": "offloading",
    "calibrate_pipeline": "pipelines",
    "first_difference": "device.product.compare",
    "journal": "checkpoints",
    "load_classifier": "models.load",
    "load_denoiser": "models.load",
    "load_offloaded": "offloading",
    "offload": "offloading",
    "offloaded_model": "offloading",
    "protect": "drift",
    "read_results": "storage.results",
    "report": "offloading",
    "restore": "offloading",
    "sample": "models.sampling",
    "save_offloaded": "offloading",
    "write_results": "storage.results",
}

__all__ = [
    "Accelerator",
    "AcceleratorClosedError",
    "Calibration",
    "CheckpointError",
    "CheckpointWarning",
    "Coverage",
    "DelayModel",
    "DeviceMemoryError",
    "DeviceSpec",
    "Difference",
    "DomainPoint",
    "EnergyModel",
    "FileRefusedError",
    "Fleet",
    "FloatModule",
    "ForkedProcessError",
    "LayerReport",
    "LogRecord",
    "MismatchError",
    "MixedOptions",
    "OffloadError",
    "OffloadWarning",
    "OffloadedPipeline",
    "OperatingPoint",
    "Outcome",
    "PipelineClosedError",
    "Protection",
    "Requantisation",
    "ResidentWeights",
    "Rollback",
    "RunCheckpoint",
    "Sampling",
    "SelectivePolicy",
    "Sharing",
    "SoftmaxScales",
    "State",
    "Stateful",
    "WeightsNotFoundError",
    "calibrate",
    "calibrate_pipeline",
    "first_difference",
    "journal",
    "load_classifier",
    "load_denoiser",
    "load_offloaded",
    "offload",
    "offloaded_model",
    "protect",
    "read_results",
    "report",
    "restore",
    "sample",
    "save_offloaded",
    "write_results",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
