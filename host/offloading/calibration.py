"""What a calibration run has found out about a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Interval

from ..storage.decoding import Form, Positive, check_tensors
from ..storage.files import read_tensors, write_tensors
from ..storage.packable import packable
from .float_modules import FloatModule
from .layer_calibration import ATTENTION, LayerCalibration
from .layer_types import check_kind
from .quantization import Method

KIND = "calibration"

NonNegative = Annotated[int, Ge(0)]

Magnitude = Annotated[float, Ge(0)]

Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True)
class _Details:
    """What a file has beside the tensors."""

    layers: list[tuple[str, str, float | None]]
    method: Method
    percentile: Annotated[float, Interval(gt=0, le=100)]
    smoothing: Positive | None
    timestep_bounds: list[float]
    # Files of earlier programs have none of these.
    macs: dict[str, NonNegative] = field(default_factory=dict)
    left: list[tuple[str, str, NonNegative, str]] = field(default_factory=list)
    clipped: dict[str, Share] = field(default_factory=dict)
    power: dict[str, Magnitude] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [name for name, _, _ in self.layers]
        if len(set(names)) < len(names):
            raise ValueError(f"layer {next(name for name in names if names.count(name) > 1)!r} is there twice")
        for name, kind, _ in self.layers:
            check_kind(name, kind)
        for before, after in pairwise(self.timestep_bounds):
            if not before < after:
                raise ValueError(f"timestep_bounds must rise, but {after!r} follows {before!r}")


@packable("offloading.calibration.Calibration")
@dataclass(frozen=True)
class Calibration:
    """Result of `calibrate`; the `calibration` of `offload`.

    Attributes
    ----------
    layers : dict of str to LayerCalibration
        Layers by dotted name; a second call of attention in the same module is ``name#1``.
    method : {"absmax", "percentile", "mse"}
        How scales follow from what was seen.
    percentile : float
        Argument of ``"percentile"``.
    smoothing : float or None
        The exponent alpha, if input channels were smoothed.
    timestep_bounds : tuple of float
        Bounds of `TimestepGroups`.
    left : tuple of FloatModule
        Modules that did products in the run for scales, or were not called, and have no scales: why not, and how many
        MACs.
        Empty in files of earlier programs.
    """

    layers: dict[str, LayerCalibration]
    method: Method
    percentile: float
    smoothing: float | None
    timestep_bounds: tuple[float, ...]
    left: tuple[FloatModule, ...] = ()

    def save(self, path: Path | str) -> None:
        """Write a safetensors file."""
        tensors = {f"{name}/scales": layer.scales for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            if layer.smoothing is not None:
                tensors[f"{name}/smoothing"] = layer.smoothing
            if layer.output is not None:
                tensors[f"{name}/output"] = layer.output
            if layer.peaks is not None:
                tensors[f"{name}/peaks"] = layer.peaks
        details = {
            "layers": [[name, layer.kind, layer.sqnr_db] for name, layer in self.layers.items()],
            "method": self.method,
            "percentile": self.percentile,
            "smoothing": self.smoothing,
            "timestep_bounds": self.timestep_bounds,
            "macs": {name: layer.macs for name, layer in self.layers.items() if layer.macs is not None},
            "clipped": {name: layer.clipped for name, layer in self.layers.items() if layer.clipped is not None},
            "power": {name: layer.power for name, layer in self.layers.items() if layer.power is not None},
            "left": [[each.name, each.kind, each.macs, each.reason] for each in self.left],
        }
        write_tensors(Path(path), KIND, tensors, details)

    @classmethod
    def load(cls, path: Path | str) -> Calibration:
        """Read a file that `save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        FileRefusedError
            It is damaged or foreign, or has scales that cannot be; the message says how.
        """
        path = Path(path)
        tensors, details = read_tensors(path, KIND, _Details)
        groups = len(details.timestep_bounds) + 1
        forms: dict[str, Form] = {}
        for name, kind, _ in details.layers:
            shape = (groups, 3) if kind == ATTENTION else (groups,)
            forms[f"{name}/scales"] = Form(torch.float64, shape, positive=True)
            if kind != ATTENTION and f"{name}/smoothing" in tensors:
                forms[f"{name}/smoothing"] = Form(torch.float32, (None,), positive=True)
            if kind == ATTENTION and f"{name}/output" in tensors:
                forms[f"{name}/output"] = Form(torch.float64, (groups,), positive=True)
            if kind != ATTENTION and f"{name}/peaks" in tensors:
                forms[f"{name}/peaks"] = Form(torch.float64, (None,))
        check_tensors(tensors, forms, path)
        return cls(
            layers={
                name: LayerCalibration(
                    kind,
                    tensors[f"{name}/scales"],
                    tensors.get(f"{name}/smoothing"),
                    sqnr_db,
                    details.macs.get(name),
                    details.clipped.get(name),
                    tensors.get(f"{name}/output"),
                    tensors.get(f"{name}/peaks"),
                    details.power.get(name),
                )
                for name, kind, sqnr_db in details.layers
            },
            method=details.method,
            percentile=details.percentile,
            smoothing=details.smoothing,
            timestep_bounds=tuple(details.timestep_bounds),
            left=tuple(FloatModule(*each) for each in details.left),
        )
