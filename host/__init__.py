"""PyTorch runtime for Brownout accelerators.

Names are imported when first used: ``import brownout.host`` costs nothing, torch comes with the first name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accelerator import Accelerator
    from .checkpoints import RunCheckpoint, journal
    from .compare import Difference, first_difference
    from .drift import Phases, Rollback, Setting, protect
    from .energy import EnergyModel
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
    from .mixed.options import Coverage, MixedOptions
    from .models.load import load_classifier, load_denoiser
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
    from .operands import Requantisation, ResidentWeights
    from .operating_points import OperatingPoint
    from .pipelines import OffloadedPipeline, calibrate_pipeline
    from .protection import LogRecord, Outcome, Protection
    from .sampling import sample
    from .stadi import DeviceSpec, Fleet
    from .storage.results import read_results, write_results
    from .storage.state import State, Stateful
    from .timing import TimingLaw

_HOME = {
    "Accelerator": "accelerator",
    "AcceleratorClosedError": "errors",
    "Calibration": "offloading",
    "CheckpointError": "errors",
    "CheckpointWarning": "errors",
    "Coverage": "mixed.options",
    "DeviceMemoryError": "errors",
    "DeviceSpec": "stadi",
    "Difference": "compare",
    "EnergyModel": "energy",
    "FileRefusedError": "errors",
    "Fleet": "stadi",
    "FloatModule": "offloading",
    "ForkedProcessError": "errors",
    "LayerReport": "offloading",
    "LogRecord": "protection",
    "MismatchError": "errors",
    "MixedOptions": "mixed.options",
    "OffloadError": "errors",
    "OffloadWarning": "errors",
    "OffloadedPipeline": "pipelines",
    "OperatingPoint": "operating_points",
    "Outcome": "protection",
    "Phases": "drift",
    "PipelineClosedError": "errors",
    "Protection": "protection",
    "Requantisation": "operands",
    "ResidentWeights": "operands",
    "Rollback": "drift",
    "RunCheckpoint": "checkpoints",
    "Setting": "drift",
    "State": "storage.state",
    "Stateful": "storage.state",
    "TimingLaw": "timing",
    "WeightsNotFoundError": "errors",
    "calibrate": "offloading",
    "calibrate_pipeline": "pipelines",
    "first_difference": "compare",
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
    "sample": "sampling",
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
    "DeviceMemoryError",
    "DeviceSpec",
    "Difference",
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
    "Phases",
    "PipelineClosedError",
    "Protection",
    "Requantisation",
    "ResidentWeights",
    "Rollback",
    "RunCheckpoint",
    "Setting",
    "State",
    "Stateful",
    "TimingLaw",
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
