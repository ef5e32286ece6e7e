"""Put a model on an accelerator, and take it back."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..device.accelerator import Accelerator
from ..errors import OffloadError, OffloadWarning
from .attention import SUBMODULE, AttentionCall, OffloadedAttention
from .calibrate import calibrate
from .calibration import Calibration
from .float_modules import FloatModule
from .layer import OffloadedLayer
from .layer_calibration import ATTENTION, LayerCalibration
from .layer_types import layer_type_of
from .left_in_float import left_in_float
from .nonfinite import Nonfinite
from .output_format import Outputs
from .products import OffloadedModel, ProductObserver
from .selection import EXCLUDED, ONLY_ZEROS, FilterFn, Selection, call_name, exclusion, select_layers
from .timesteps import TimestepGroups
from .trial import NO_VERDICT, TrialEvaluation, attempt, describe_failure, recorded

_STATE = "_brownout"
"""Attribute of an offloaded module."""

Unsupported = Literal["float", "refuse"]
"""What becomes of layers that are more than their weights."""

WORTH_A_WARNING = 0.01
"""Share of a model's MACs in float that a user wants to know."""


@dataclass
class _Offload:
    """What one call of `offload` has done, and how to undo it."""

    model: OffloadedModel
    calibration: Calibration
    replacements: dict[nn.Module, OffloadedLayer] = field(default_factory=dict)
    attention: list[tuple[nn.Module, OffloadedAttention]] = field(default_factory=list)
    handles: list[RemovableHandle] = field(default_factory=list)

    def put_in(self, module: nn.Module) -> None:
        _replace(module, self.replacements)
        for owner, attention in self.attention:
            attention.install(owner)

    def put_back(self, module: nn.Module) -> None:
        for owner, attention in reversed(self.attention):
            attention.remove(owner)
        for layer, ours in self.replacements.items():
            layer.training = ours.training
        _replace(module, {ours: layer for layer, ours in self.replacements.items()})

    def release(self) -> None:
        for layer in self.replacements.values():
            layer.release()
        for product in self.model.products:
            # Frees device memory now, not when the garbage collector comes by.
            product.weights = None


def _replace(module: nn.Module, replacements: Mapping[Any, nn.Module]) -> None:
    """Exchange layers in all places where they are."""
    for parent in list(module.modules()):
        for attribute, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                setattr(parent, attribute, replacements[child])


def _attention_owners(
    module: nn.Module, filter_fn: FilterFn | None, calibration: Calibration
) -> dict[nn.Module, tuple[str, list[LayerCalibration]]]:
    """Selected modules that called attention in the calibration: name, and scales of their calls in order."""
    calls: dict[str, list[LayerCalibration]] = defaultdict(list)
    for name, layer in calibration.layers.items():
        if layer.kind == ATTENTION:
            calls[name.partition("#")[0]].append(layer)
    modules = dict(module.named_modules())
    owners = {}
    for name in calls:
        if name not in modules:
            raise ValueError(
                f"calibration has scales for attention in {name!r}, but {type(module).__name__} has no such module; "
                "calibrate this model"
            )
        if filter_fn is None or filter_fn(modules[name], name):
            each = [calibration.layers[call_name(name, index)] for index in range(len(calls[name]))]
            owners[modules[name]] = (name, each)
    return owners


def _check_scales(name: str, kind: str, calibration: Calibration) -> None:
    layer = calibration.layers.get(name)
    if layer is None:
        raise ValueError(f"calibration has no scale for layer {name!r}; calibrate it, or exclude it with filter_fn")
    if layer.kind != kind:
        raise ValueError(f"calibration knows {name!r} as {layer.kind!r}, but it is {kind!r}; calibrate this model")


def _settle(
    module: nn.Module, selection: Selection, calibration: Calibration, calls: set[str]
) -> tuple[dict[nn.Module, str], list[FloatModule]]:
    """Layers that are offloaded, and all that stays in float, the largest part first.

    Raises
    ------
    ValueError
        A layer has no scale, or one of another kind.
    """
    left = {each.name: each.reason for each in calibration.left if each.reason != EXCLUDED}
    reasons = dict(selection.left.values())
    layers = {}
    for layer, name in selection.layers.items():
        if name not in calibration.layers and name in left:
            reasons[name] = left[name]
        else:
            _check_scales(name, layer_type_of(layer).kind, calibration)
            layers[layer] = name
    return layers, left_in_float(calibration, {*layers.values(), *calls}, reasons, dict(module.named_modules()))


def _refuse(
    module: nn.Module, selection: Selection, filter_fn: FilterFn | None, calibration: Calibration | None
) -> None:
    """Name all layers and attention calls that would stay in float.

    Raises
    ------
    OffloadError
        There are some.
    """
    reasons = {name: reason for name, reason in selection.left.values() if reason != EXCLUDED}
    if calibration is not None:
        names = set(selection.layers.values())
        modules = dict(module.named_modules())
        for each in calibration.left:
            owner = each.name.partition("#")[0]
            unseen = each.reason.startswith(ONLY_ZEROS) and owner in modules
            if each.name in names or (unseen and (filter_fn is None or filter_fn(modules[owner], owner))):
                reasons[each.name] = each.reason
    if reasons:
        listed = "; ".join(f"{name!r}: {reason}" for name, reason in reasons.items())
        owners = list(dict.fromkeys(name.partition("#")[0] for name in reasons))
        raise OffloadError(
            f"{len(reasons)} layers cannot be offloaded ({listed}); exclude them with {exclusion(owners)}, "
            'or let them stay in float with unsupported="float"',
            next(iter(reasons)),
        )


def _warn_of_float(left: list[FloatModule]) -> None:
    worth = [each for each in left if (each.share or 0) > WORTH_A_WARNING and each.reason != EXCLUDED]
    if worth:
        warnings.warn(
            f"{100 * sum(each.share or 0 for each in worth):.3g} % of the model's MACs stay in float: "
            + "; ".join(map(str, worth)),
            OffloadWarning,
            stacklevel=3,
        )


def offload(
    module: nn.Module,
    accelerator: Accelerator,
    *,
    calibration: Callable[[nn.Module], Any] | Calibration,
    filter_fn: FilterFn | None = None,
    observer: ProductObserver | None = None,
    unsupported: Unsupported = "float",
    nonfinite: Nonfinite = "nan",
    outputs: Outputs = "int32",
) -> OffloadedModel:
    """Let layers and attention, in place, run in int8 on an accelerator.

    Weights are quantised per output channel, inputs with static scales; bias and softmax stay in PyTorch's float32.
    In the end the model is evaluated once in the twin's arithmetic, of which nothing remains; with a `Calibration`
    that is done before the first evaluation. If anything fails, the model is as before. Layers are those of
    registered types (`LayerType`): Linear and Conv2d, and what others add.

    Parameters
    ----------
    module : nn.Module
        The model; diffusers models work unchanged.
    accelerator : Accelerator
        Where products run; it must stay open until `restore`.
    calibration : callable or Calibration
        Runs the model on representative data (see `calibrate`), or what a calibration returned.
    filter_fn : callable, optional
        ``filter_fn(layer, name)`` selects layers of registered types and modules that call
        ``F.scaled_dot_product_attention``; by default all.
    observer : callable, optional
        ``observer(name, sums)`` sees the outputs of every product, (M, N) or (B, M, N), valid until it returns: int32
        sums, or what `outputs` says.
    unsupported : {"float", "refuse"}
        What becomes of selected layers that compute something else than their weights say, or that the calibration did
        not call, or gave only zeros: they stay in float and are listed in `OffloadedModel.left_in_float`, or they are
        an error.
    nonfinite : {"nan", "raise"}
        What becomes of NaN and infinity in inputs, keys, values and masks: outputs that depend on them are NaN, or a
        `NonFiniteError` names layer and evaluation.
    outputs : {"int32", "int16", "int8", "auto"}
        How wide the outputs of layers leave the accelerator: as sums, or scaled for each channel by its largest
        magnitude in calibration; ``"auto"`` takes int8 where that adds little to a layer's quantisation error, int16
        elsewhere. Grouped convolutions, and layers of calibrations of earlier programs, write int32.

    Returns
    -------
    OffloadedModel
        What the layers share; also `offloaded_model` of `module`.

    Raises
    ------
    TypeError
        `module` is itself a layer.
    ValueError
        It is offloaded already, or a layer has no scale.
    OffloadError
        Nothing is left to offload, weights are not there or of a kind that cannot be quantised, a layer is refused, or
        the model cannot be evaluated with its layers offloaded; here, or at the first evaluation.
    DeviceMemoryError
        The weights do not fit the accelerator's DRAM.

    Warns
    -----
    OffloadWarning
        More than 1 % of the model's MACs stay in float, though nobody excluded them. Later: more than 2 % of a layer's
        inputs in a run, or twice the share of its calibration if that is more, saturate; or of its narrow outputs.
    """
    if unsupported not in get_args(Unsupported):
        raise ValueError(f"unsupported must be one of 'float', 'refuse', not {unsupported!r}")
    if nonfinite not in get_args(Nonfinite):
        raise ValueError(f"nonfinite must be one of 'nan', 'raise', not {nonfinite!r}")
    if outputs not in get_args(Outputs):
        raise ValueError(f"outputs must be one of {', '.join(map(repr, get_args(Outputs)))}, not {outputs!r}")
    if hasattr(module, _STATE):
        raise ValueError(f"{type(module).__name__} is offloaded already; call restore first")
    selection = select_layers(module, filter_fn)
    if unsupported == "refuse":
        _refuse(module, selection, filter_fn, None)
    evaluations: list[TrialEvaluation] = []
    run = None if isinstance(calibration, Calibration) else calibration
    if not isinstance(calibration, Calibration):
        with recorded(module, evaluations):
            calibration = calibrate(module, calibration, filter_fn=filter_fn)
    if unsupported == "refuse":
        _refuse(module, selection, filter_fn, calibration)
    owners = _attention_owners(module, filter_fn, calibration)
    calls = {call_name(name, index) for name, each in owners.values() for index in range(len(each))}
    layers, left = _settle(module, selection, calibration, calls)
    wanted = {*selection.layers.values(), *(name for name, reason in selection.left.values() if reason != EXCLUDED)}
    if not layers and not owners and not any(each.macs and each.name in wanted for each in left):
        raise OffloadError(f"{type(module).__name__} has no layer to offload")
    model = OffloadedModel(accelerator, TimestepGroups(calibration.timestep_bounds), observer, nonfinite, outputs)
    state = _build(module, model, calibration, layers, owners)
    state.model.left_in_float = tuple(left)
    state.put_in(module)
    object.__setattr__(module, _STATE, state)
    if state.model.groups.present is not None:
        state.handles.append(state.model.groups.watch(module))
    if run is None:
        state.handles.append(_try_first(module, state))
    else:
        # A model whose parts are called one by one has no evaluation of its own, or not one that can be made again.
        if not (evaluations and _try(module, state, evaluations[0])):
            error = attempt(run, module, hooks=True)
            if error is not None:
                _give_up(module, error)
    _warn_of_float(left)
    return state.model


def _build(
    module: nn.Module,
    model: OffloadedModel,
    calibration: Calibration,
    layers: dict[nn.Module, str],
    owners: dict[nn.Module, tuple[str, list[LayerCalibration]]],
) -> _Offload:
    """Make what takes the place of layers and attention calls."""
    state = _Offload(model, calibration)
    try:
        # In the order of the model, so that products are numbered alike in every run.
        for each in module.modules():
            if each in owners:
                name, scales = owners[each]
                device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
                calls = [
                    AttentionCall(model, call_name(name, index), scale, device) for index, scale in enumerate(scales)
                ]
                state.attention.append((each, OffloadedAttention(name, calls)))
            if each in layers:
                name = layers[each]
                state.replacements[each] = layer_type_of(each).offloaded(each, model, name, calibration.layers[name])
    except BaseException:
        state.release()
        raise
    return state


def _try(module: nn.Module, state: _Offload, evaluate: Callable[[nn.Module], Any]) -> bool:
    """Evaluate the model, without hooks unless it needs them, and put it back where offloading is why that fails.

    Returns
    -------
    bool
        Whether it says anything: the float model, evaluated so, does not fail.

    Raises
    ------
    OffloadError
        The float model does not fail, but the offloaded one.
    """
    for hooks in (False, True):
        error = attempt(evaluate, module, hooks=hooks)
        if error is None or isinstance(error, NO_VERDICT):
            return True
        state.put_back(module)
        try:
            works = attempt(evaluate, module, hooks=hooks) is None
        finally:
            state.put_in(module)
        if works:
            _give_up(module, error)
    return False


def _give_up(module: nn.Module, error: Exception) -> NoReturn:
    message, name = describe_failure(module, error)
    restore(module)
    raise OffloadError(message, name) from error


def _try_first(module: nn.Module, state: _Offload) -> RemovableHandle:
    """Let the first evaluation of `module` be preceded by a trial."""
    model, trying = state.model, False
    model.awaits_trial = True

    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal trying
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or not model.awaits_trial:
            return
        # Other threads wait until it is over; the trial itself may come by here.
        with model.accelerator.exclusive():
            if trying or not model.awaits_trial:
                return
            trying = True
            try:
                _try(module, state, TrialEvaluation(arguments, named))
                model.awaits_trial = False
            finally:
                trying = False

    # Before other hooks, for example those of a cache: the trial is no part of the evaluation that they see.
    return module.register_forward_pre_hook(before, with_kwargs=True, prepend=True)


def restore(module: nn.Module) -> None:
    """Undo the `offload` of `module`: its original layers, with their own float weights, are back in place.

    What other calls of `offload` did, to a part of the model or to a model around it, stays. A model of which nothing
    is offloaded stays as it is.

    Raises
    ------
    ValueError
        Layers of `module` are offloaded, but by another call of `offload`.
    """
    if not hasattr(module, _STATE):
        _check_untouched(module)
        return
    state: _Offload = getattr(module, _STATE)
    state.put_back(module)
    state.release()
    for handle in state.handles:
        handle.remove()
    object.__delattr__(module, _STATE)


def _check_untouched(module: nn.Module) -> None:
    parts = [name for name, each in module.named_modules() if hasattr(each, _STATE)]
    if parts:
        raise ValueError(
            f"{type(module).__name__} was not offloaded, but its parts {', '.join(map(repr, parts))} were; "
            "restore those"
        )
    for name, each in module.named_modules():
        if isinstance(each, (OffloadedLayer, OffloadedAttention)):
            raise ValueError(
                f"{type(module).__name__} was not offloaded itself, but as a part of another module (its "
                f"{name.removesuffix('.' + SUBMODULE)!r} runs on {each.model.accelerator!r}); restore that"
            )


def offloaded_model(module: nn.Module) -> OffloadedModel:
    """What the layers of an offloaded module share.

    Raises
    ------
    ValueError
        It is not offloaded.
    """
    return _state(module).model


def is_offloaded(module: nn.Module) -> bool:
    """Whether `offload` was called for `module`."""
    return hasattr(module, _STATE)


def calibration_of(module: nn.Module) -> Calibration:
    """The calibration with which `module` was offloaded; raises as `offloaded_model`."""
    return _state(module).calibration


def _state(module: nn.Module) -> _Offload:
    if not hasattr(module, _STATE):
        raise ValueError(f"{type(module).__name__} is not offloaded; call offload first")
    state: _Offload = getattr(module, _STATE)
    return state
