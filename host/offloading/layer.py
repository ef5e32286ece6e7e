"""What offloaded layers have in common: weights, int8 weights, scales, and what follows from them."""

from __future__ import annotations

import abc
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from ..errors import NonFiniteError
from .adoption import adopt
from .copies import NotCopied
from .layer_calibration import LayerCalibration, smoothed
from .output_format import OutputFormat, output_format
from .products import OffloadedModel, OffloadedProduct, register
from .quantization import quantize_weight
from .row_window import Halo, RowWindow
from .weights import Source, TrackedWeight

_SCALES = ("weight_scale", "input_scale", "smoothing")
_STORED = ("weight", *_SCALES)
"""Tensors of the ``state_dict``, but for the bias."""


class OffloadedLayer(NotCopied, nn.Module, abc.ABC):
    """A layer whose product runs on an accelerator.

    ``weight`` is a parameter as the float layer's, with the same memory: what is written to it, in whatever way, is
    quantised again before the next product. Its input scales stay. Scales that are written to are used from the next
    product on, as if they had been loaded.

    Its ``state_dict`` holds ``weight`` (int8, shape of the float layer's), ``weight_scale`` (float32, per output
    channel), ``input_scale`` (float64, per timestep group), ``smoothing`` (float32, per input channel, if any) and
    ``bias``. One with a floating-point ``weight``, as the float layer's, can be loaded too, and needs no scales.
    Scales keep their dtype when the model is converted, and int8 weights their values.

    Parameters
    ----------
    layer : nn.Module
        The float layer, which `restore` puts back, with ``weight`` and ``bias`` as `LayerType` says.
    model : OffloadedModel
        Model to which it belongs.
    name : str
        Its name there.
    calibration : LayerCalibration
        Its scales.

    Attributes
    ----------
    groups : int
        Groups of channels, each a product of its own.
    format : OutputFormat or None
        Of outputs that leave the accelerator narrow; None for int32 sums.
    row_window : RowWindow or None
        Rows of pixels that a row of the output reads; None where rows of the product are tokens.
    halo : callable or None
        Adds rows that other devices hold, where an image is divided into rows; only if `row_window` keeps rows.

    Raises
    ------
    NonFiniteError
        A weight is NaN or infinite; so the products after such a weight was written.
    """

    weight: nn.Parameter
    integers: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    smoothing: torch.Tensor | None
    multiplier: torch.Tensor
    output_scale: torch.Tensor
    format: OutputFormat | None
    groups: int = 1
    row_window: RowWindow | None = None
    halo: Halo | None = None

    def __init__(self, layer: nn.Module, model: OffloadedModel, name: str, calibration: LayerCalibration) -> None:
        super().__init__()
        replaced: Any = layer
        # In a tuple, so that the layer that `restore` puts back is no submodule of this one.
        self.replaced = (replaced,)
        self.model = model
        self._lock = threading.Lock()
        self._source = Source.of(replaced.weight)
        self._writes = self._source.writes
        self._release = weakref.finalize(self, self._source.release)
        self._parameters["weight"] = self._source.weight
        self.bias = replaced.bias
        device, smoothing = replaced.weight.device, calibration.smoothing
        self.register_buffer("input_scale", calibration.scales.to(device, copy=True))
        self.register_buffer("smoothing", None if smoothing is None else smoothing.to(device, copy=True))
        self.format = output_format(calibration, model.outputs, self.groups)
        self._loaded = False
        self.product = OffloadedProduct(model, name, calibration.kind, calibration.sqnr_db, calibration.clipped)
        self.number = register(self)
        try:
            with torch.inference_mode(False), torch.no_grad():
                integers, scale = self._quantised(self._source.values)
                self.register_buffer("integers", integers, persistent=False)
                self.register_buffer("weight_scale", scale)
                self._upload()
        except BaseException:
            self.release()
            raise
        adopt(self, layer)

    @abc.abstractmethod
    def matrix(self) -> torch.Tensor:
        """int8 weights as the accelerator wants them, (K, N) or (groups, K, N)."""

    @property
    def present_group(self) -> torch.Tensor | None:
        """Timestep group, as `TimestepGroups.present`."""
        return self.model.groups.present

    def refresh(self) -> None:
        """Bring int8 weights, their scales and the accelerator up to date, if the weights were written to.

        Raises
        ------
        NonFiniteError
            A weight is NaN or infinite.
        ValueError
            There are weights or scales of another shape, or scales that are not positive and finite.
        """
        if self._up_to_date() and self._unwritten(_SCALES):
            return
        with self._lock, torch.inference_mode(False), torch.no_grad():
            if not self._up_to_date():
                self._take_up()
            if not self._unwritten(_SCALES):
                self._take_up_scales()

    def _up_to_date(self) -> bool:
        weight, source = self._parameters.get("weight"), self._source
        return weight is source.weight and self._writes == source.writes and type(weight) is TrackedWeight

    def _unwritten(self, names: Sequence[str]) -> bool:
        """Whether these scales are those, with the values, that the accelerator works with."""
        buffers = self._buffers
        for name in names:
            scale, version = self._derived_from[name]
            if buffers[name] is not scale or _version(scale) != version:
                return False
        return True

    @property
    def computes_weight(self) -> bool:
        """Whether hooks or a parametrisation make the weight at each call: there is no such parameter."""
        return "weight" not in self._parameters

    def release(self) -> None:
        """Let go of the float layer, which is its own again."""
        self._release()

    def settle(self) -> None:
        """Let `restore` bring back what int8 weights that were loaded stand for."""
        if not self._source.is_parameter:
            self._source.settle()

    def _attach(self, weight: torch.Tensor) -> None:
        """Have another parameter: one that was assigned."""
        source = Source.of(weight)
        self._release()
        self._source = source
        self._release = weakref.finalize(self, source.release)
        self._parameters["weight"] = source.weight
        self.replaced[0].weight = source.parameter

    def _take_up(self) -> None:
        weight = self._parameters.get("weight")
        if weight is not None and (weight is not self._source.weight or type(weight) is not TrackedWeight):
            self._attach(weight)
        # Before the values are read: what is written meanwhile is seen the next time.
        writes = self._source.writes
        # Of a parametrisation or a mask, which took the parameter away, the present value.
        values = self._source.values if weight is not None else self.weight.detach()
        if values.shape != self.integers.shape:
            raise ValueError(
                f"layer {self.product.name!r} got weights of shape {tuple(values.shape)}, "
                f"but was offloaded with {tuple(self.integers.shape)}; call restore first"
            )
        integers, scale = self._quantised(values)
        if self._loaded:
            # Channels that were not written to keep the integers that were loaded.
            kept = (self._dequantise()().to(values.dtype) == values).flatten(1).all(1)
            integers[kept], scale[kept] = self.integers[kept], self.weight_scale[kept]
        same = torch.equal(integers, self.integers) and torch.equal(scale, self.weight_scale)
        # There are no resident ones if there was no room for them the last time.
        if not same or self.product.weights is None:
            self.integers.copy_(integers)
            self.weight_scale.copy_(scale)
            self._upload()
        self._writes = writes

    def _take_up_scales(self) -> None:
        found = {name: scale for name in _SCALES if (scale := self._buffers[name]) is not None}
        wanted = {name: scale.shape for name, (scale, _) in self._derived_from.items() if scale is not None}
        problem = _problem({"weight": self.integers, **found}, wanted)
        if problem is not None:
            raise ValueError(f"layer {self.product.name!r}: {problem}; write to its weight, or load a state_dict")
        if not self._unwritten(("weight_scale", "smoothing")):
            # As if they had been loaded with the integers: the weights are what both stand for.
            self._loaded = True
            self._source.make_later(self._dequantise())
            self._source.writes += 1
            self._writes = self._source.writes
        self._upload()

    def _quantised(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        integers, scale = quantize_weight(smoothed(values, self.smoothing, self.groups).flatten(1))
        if not scale.isfinite().all():
            channel = int((~scale.isfinite()).nonzero()[0])
            raise NonFiniteError(
                f"layer {self.product.name!r} has NaN or infinite weights in output channel {channel}; "
                "load good ones, or exclude it with filter_fn"
            )
        return integers.view(values.shape), scale

    def _dequantise(self) -> Callable[[], torch.Tensor]:
        """Makes the float32 weights that the int8 ones stand for."""
        # Of tensors, not of this layer, which lives no longer than its model.
        return partial(_dequantised, self.integers, self.weight_scale, self.smoothing, self.groups)

    def _upload(self) -> None:
        self._derive()
        self._load_product()

    def _load_product(self) -> None:
        """Let the accelerator have the weights, and what it needs to scale outputs."""
        requants = None
        if self.format is not None:
            requants, _ = self.format.present(self.weight_scale * self.input_scale[:, None])
        self.product.load(self.matrix(), self.input_scale.tolist(), requants)

    def _derive(self) -> None:
        scales = self.input_scale[:, None]
        output_scale = self.weight_scale * scales
        if self.format is not None:
            _, narrow = self.format.present(output_scale)
            output_scale = narrow.expand_as(output_scale)
        divisor = scales if self.smoothing is None else scales * self.smoothing
        # Rounded once: scales are float64.
        derived = {"multiplier": 1 / divisor, "output_scale": output_scale}
        for name, values in derived.items():
            rounded, held = values.to(torch.float32), self._buffers.get(name)
            if held is not None and (held.dtype, held.device) == (rounded.dtype, rounded.device):
                # In place: an operator that is being run, or was compiled, has this tensor.
                held.copy_(rounded)
            else:
                self.register_buffer(name, rounded, persistent=False)
        self._derived_from = {name: (scale, _version(scale)) for name in _SCALES for scale in (self._buffers[name],)}

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "bias" and "replaced" in self.__dict__ and self.replaced[0].bias is not value:
            self.replaced[0].bias = value

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.refresh()
        with self._without("weight"):
            super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.integers

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = {name: state_dict[prefix + name] for name in _STORED if prefix + name in state_dict}
        wanted = {"weight": self.integers.shape}
        if self.computes_weight and "weight" not in found:
            # That of a float layer, which has what the weight is computed from.
            wanted = {}
        elif "weight" not in found or not found["weight"].is_floating_point():
            wanted |= {name: scale.shape for name in _SCALES if (scale := getattr(self, name)) is not None}
        found = {name: tensor for name, tensor in found.items() if name in wanted}
        if strict or found:
            missing_keys += [prefix + name for name in wanted if name not in found]
        problem = _problem(found, wanted) if found else None
        if problem is not None:
            error_msgs.append(f"layer {self.product.name!r}: {problem}")
        elif found:
            self._load(found, bool(local_metadata.get("assign_to_params_buffers", False)))
        rest = {name: value for name, value in state_dict.items() if name.removeprefix(prefix) not in found}
        with self._without(*_STORED):
            super()._load_from_state_dict(
                rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )

    @torch.no_grad()
    def _load(self, found: dict[str, torch.Tensor], assign: bool) -> None:
        weight = found["weight"]
        if weight.is_floating_point():
            if assign:
                self.weight = nn.Parameter(weight, self.weight.requires_grad)
            else:
                self.weight.copy_(weight)
            # Now, so that the error of a bad one comes where it is loaded.
            self.refresh()
            return
        self.integers.copy_(weight)
        for name in _SCALES:
            if (scale := getattr(self, name)) is not None:
                scale.copy_(found[name])
        self._loaded = True
        self._source.make_later(self._dequantise())
        self._source.writes += 1
        self._writes = self._source.writes
        self._upload()

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        self.refresh()
        device = self.integers.device
        self._convert(fn)
        scales = {name: getattr(self, name) for name in _SCALES}
        with self._without("weight", "bias"):
            super()._apply(fn, recurse)
        self.bias = self.replaced[0].bias
        for name, scale in scales.items():
            if scale is not None:
                setattr(self, name, scale.to(self.integers.device))
        with torch.inference_mode(False), torch.no_grad():
            self._derive()
        if self.integers.device != device:
            # The weights have to be resident there.
            self._load_product()
        if self._loaded and self._source.is_made_later:
            self._source.make_later(self._dequantise())
        return self

    def _convert(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Apply `fn` to the float layer and to the weights, without another quantisation if it merely converts them."""
        source, (layer,) = self._source, self.replaced
        layer.bias = self.bias
        before = None if source.is_made_later else source.values
        # The float parameters themselves, past what stands for them.
        with torch._C.DisableTorchFunctionSubclass():
            layer._apply(fn)
        if self.computes_weight:
            return
        if layer.weight.is_meta:
            raise ValueError(f"layer {self.product.name!r} is offloaded and needs its weights; call restore first")
        if before is None:
            source.convert(layer.weight.dtype, layer.weight.device)
            return
        if not source.is_parameter:
            source.follow(fn(before))
        elif layer.weight is source.parameter:
            source.follow(layer.weight)
        else:
            self._attach(layer.weight)
        if not torch.equal(self._source.values, before.to(self._source.values)):
            self._source.writes += 1

    @contextlib.contextmanager
    def _without(self, *names: str) -> Iterator[None]:
        """Let `nn.Module` see neither parameters nor buffers of these names."""
        parameters, buffers = self._parameters, self._buffers
        self._parameters = {name: each for name, each in parameters.items() if name not in names}
        self._buffers = {name: each for name, each in buffers.items() if name not in names}
        try:
            yield
        finally:
            hidden = {name: each for name, each in parameters.items() if name in names}
            self._parameters, self._buffers = (
                hidden | self._parameters,
                {name: self._buffers.get(name, each) for name, each in buffers.items()},
            )


def _version(scale: torch.Tensor | None) -> int:
    """How often a scale was written to."""
    # Tensors made in inference mode do not count; they cannot be written to elsewhere either.
    return 0 if scale is None or scale.is_inference() else scale._version


def _dequantised(
    integers: torch.Tensor, scale: torch.Tensor, smoothing: torch.Tensor | None, groups: int
) -> torch.Tensor:
    weight = integers.float() * scale.view(-1, *[1] * (integers.ndim - 1))
    return smoothed(weight, None if smoothing is None else 1 / smoothing, groups)


def _problem(found: dict[str, torch.Tensor], wanted: dict[str, torch.Size]) -> str | None:
    """Why tensors of a ``state_dict`` cannot be loaded."""
    if lacking := sorted(wanted.keys() - found.keys()):
        return f"{', '.join(sorted(found))} cannot be loaded without {', '.join(lacking)}"
    for name, shape in wanted.items():
        if found[name].shape != shape:
            return f"{name} has shape {tuple(found[name].shape)}, not {tuple(shape)}"
        if name != "weight" and not (found[name].isfinite() & (found[name] > 0)).all():
            return f"{name} must be positive and finite"
    weight = found["weight"]
    if not weight.is_floating_point() and weight.dtype != torch.int8:
        return f"weight has dtype {weight.dtype}; it must be floating-point or int8"
    return None
