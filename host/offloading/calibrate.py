"""Choose the scales of a model's layers from what they see in a run."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..errors import NonFiniteError, OffloadError, OffloadWarning
from . import reference
from .attention import Multiply, attend, split_heads
from .calibration import Calibration
from .float_modules import FloatModule
from .layer_calibration import ATTENTION, LayerCalibration, smoothed
from .layer_types import bias_of, layer_type_of, weight_of
from .macs import MacCounter, attention_macs
from .products import check_attention, check_values
from .quantization import METHODS, ActivationObserver, Method, quantize_weight
from .selection import EXCLUDED, ONLY_ZEROS, FilterFn, call_name, select_layers, watch_attention
from .timesteps import TimestepGroups, equal_bounds

LEAST_FACTOR = 1e-5
"""Of smoothing: a channel that is nearly always zero is left alone."""

ROUNDING = 8
"""Units in the last place by which a layer's output may differ from what its weights give."""

LEAST_SQNR_DB = 10
"""Below it a layer's quantisation error is so large that a user wants to know."""


@contextlib.contextmanager
def _watch_layers(
    layers: Iterable[nn.Module],
    watcher: Callable[[nn.Module, torch.Tensor, Any], None],
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Iterator[None]:
    """Call ``watcher(layer, input, output)`` after each ``forward`` of the layers; all that is done within `around`.

    So it sees what a layer itself gets and gives, between the user's pre-hooks and hooks.
    """

    def watched(layer: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with around():
                result = forward(*arguments, **named)
                watcher(layer, arguments[0] if arguments else named["input"], result)
            return result

        return call

    watching = list(layers)
    for layer in watching:
        layer.forward = watched(layer, layer.forward)
    try:
        yield
    finally:
        for layer in watching:
            del layer.__dict__["forward"]


def _difference(layer: nn.Module, values: torch.Tensor, result: Any) -> str | None:
    """How the output of a layer differs from what its weights give, if by more than rounding.

    Sums may be added up in another order, and be rounded once more to the output's dtype: the bound of the first is
    that of the largest row of the input times the largest of the weights.
    """
    layer_type, weight = layer_type_of(layer), weight_of(layer)
    alone = layer_type.compute(layer, values, weight, bias_of(layer))
    if not isinstance(result, torch.Tensor) or result.shape != alone.shape:
        return f"gives {type(result).__name__} {tuple(getattr(result, 'shape', ()))}, not {tuple(alone.shape)}"
    if torch.equal(result, alone):
        return None
    most = layer_type.summed(values.float()).norm(dim=-1).max() * weight.float().flatten(1).norm(dim=-1).max()
    least = torch.finfo(alone.dtype).eps * alone.abs().max().float()
    error = (result.float() - alone.float()).abs()
    # Not a number where the other is not one either is no difference.
    error = error[~(result.isnan() & alone.isnan())]
    if not len(error) or error.max() <= ROUNDING * (least + torch.finfo(torch.float32).eps * most):
        return None
    return f"differs from it by up to {error.max().item() / max(alone.abs().max().item(), 1e-30):.3g} of its maximum"


class _Error:
    """Powers of a layer's output and of its quantisation error."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0

    def add(self, name: str, exact: torch.Tensor, quantized: torch.Tensor) -> None:
        self.signal += exact.double().square().sum().item()
        self.noise += (quantized.double() - exact.double()).square().sum().item()
        if not math.isfinite(self.signal + self.noise):
            raise _not_finite(name, "gave NaN or infinite values in the run for errors")

    @property
    def sqnr_db(self) -> float | None:
        return 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else None


class _Calibrator:
    """The runs of one calibration.

    Each needs what the one before has found: largest magnitudes give smoothing factors, magnitudes after smoothing give
    scales, scales give errors.
    """

    def __init__(
        self,
        module: nn.Module,
        run: Callable[[nn.Module], Any],
        filter_fn: FilterFn | None,
        groups: TimestepGroups,
    ) -> None:
        self.module, self.run_model, self.filter_fn, self.groups = module, run, filter_fn, groups
        selection = select_layers(module, filter_fn)
        self.layers, self.left = selection.layers, selection.left
        self.names = {each: name for name, each in module.named_modules()}
        self.counter = MacCounter()
        self.smoothing: dict[str, torch.Tensor] = {}

    def _run(self, *contexts: contextlib.AbstractContextManager[Any]) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.groups.present is not None:
                stack.callback(self.groups.watch(self.module).remove)
            for context in contexts:
                stack.enter_context(context)
            self.run_model(self.module)

    def _owns(self, owner: nn.Module) -> bool:
        return self.filter_fn is None or self.filter_fn(owner, self.names[owner])

    def smooth(self, alpha: float) -> None:
        """Find the smoothing factors of all layers."""
        largest: dict[nn.Module, torch.Tensor] = {}

        def watch(layer: nn.Module, values: torch.Tensor, _: Any) -> None:
            seen = layer_type_of(layer).channels_last(values).float().abs().flatten(0, -2).amax(0)
            if not seen.isfinite().all():
                raise _not_finite(self.layers[layer], "got NaN or infinite values in the run for smoothing")
            largest[layer] = torch.maximum(largest.get(layer, seen), seen)

        self._run(_watch_layers(self.layers, watch))
        for layer, inputs in largest.items():
            grouped = weight_of(layer).detach().float().abs().unflatten(0, (layer_type_of(layer).groups(layer), -1))
            weight = grouped.amax(dim=(1, *range(3, grouped.ndim))).flatten()
            factors = inputs.pow(alpha) / weight.pow(1 - alpha)
            usable = (inputs > 0) & (weight > 0) & (factors > LEAST_FACTOR)
            self.smoothing[self.layers[layer]] = torch.where(usable, factors, 1.0)

    def scales(self, method: Method, percentile: float) -> dict[str, LayerCalibration]:
        """Find the scales of all layers and attention calls."""
        groups = len(self.groups)
        layers = {name: [ActivationObserver() for _ in range(groups)] for name in self.layers.values()}
        calls: dict[str, list[list[ActivationObserver]]] = defaultdict(
            lambda: [[ActivationObserver() for _ in range(3)] for _ in range(groups)]
        )
        outputs: dict[str, list[ActivationObserver]] = defaultdict(
            lambda: [ActivationObserver() for _ in range(groups)]
        )
        for layer, name in self.layers.items():
            if not weight_of(layer).isfinite().all():
                raise _not_finite(name, "has NaN or infinite weights")
        ranges = {name: _OutputRange() for name in self.layers.values()}
        macs: Counter[str] = Counter()
        owners: dict[str, nn.Module] = {}
        differences: dict[nn.Module, str | None] = {}

        def watch(layer: nn.Module, values: torch.Tensor, result: Any) -> None:
            name = self.layers[layer]
            check_values(name, values)
            if layer not in differences:
                differences[layer] = _difference(layer, values, result)
            macs[name] += layer_type_of(layer).product_shape(layer, values, result).macs
            if name in self.smoothing:
                values = layer_type_of(layer).channels_last(values).float() / self.smoothing[name]
            _observe(name, layers[name][self.groups.index], values)
            ranges[name].see(layer, result)

        def watch_call(
            owner: nn.Module, index: int, function: Callable[..., torch.Tensor], args: Any, kwargs: dict[str, Any]
        ) -> torch.Tensor:
            call = _attention_arguments(*args, **kwargs)
            operands = {role: call[role] for role in ("query", "key", "value")}
            name = call_name(self.names[owner], index)
            owners[name] = owner
            macs[name] += attention_macs(**operands)
            with self.counter.paused():
                if self._owns(owner):
                    check_attention(name, **operands)
                    for observer, (role, values) in zip(calls[name][self.groups.index], operands.items(), strict=True):
                        _observe(name, observer, values, f"as {role} ")
                result = function(*args, **kwargs)
                if self._owns(owner) and result.isfinite().all():
                    outputs[name][self.groups.index].update(result)
                return result

        @contextlib.contextmanager
        def around() -> Iterator[None]:
            # To compute the weight a second time may change it.
            with self.counter.paused(), parametrize.cached() if parametrized else contextlib.nullcontext():
                yield

        parametrized = any(parametrize.is_parametrized(layer) for layer in self.layers)
        self._run(_watch_layers(self.layers, watch, around), self.counter.watch(self.module, watch_call))
        for layer, name in list(self.layers.items()):
            if layer not in differences:
                reason = "calibration did not call it"
            elif (difference := differences[layer]) is not None:
                reason = f"its output is not what its weights give: it {difference}"
            else:
                continue
            self.left[layer] = name, reason
            del self.layers[layer]
        self.left_macs = [
            FloatModule(name, type(owner).__name__, macs[name], EXCLUDED)
            for name, owner in owners.items()
            if name not in calls
        ]
        self._leave_unseen(layers, calls, owners, macs)
        # A model all of whose layers are more than their weights stays as it is, and they are listed.
        unsupported = [layer for layer, (_, reason) in self.left.items() if reason != EXCLUDED]
        if not self.layers and not calls and not any(x in differences or x in self.counter.macs for x in unsupported):
            raise OffloadError(f"{type(self.module).__name__} has no layer to offload{self._reasons()}")
        found = {}
        for layer, name in self.layers.items():
            scales = [self._scale(name, group, each, method, percentile) for group, each in enumerate(layers[name])]
            found[name] = LayerCalibration(
                layer_type_of(layer).kind,
                torch.tensor(scales, dtype=torch.float64),
                self.smoothing.get(name),
                macs=macs[name],
                clipped=max(each.clipped(scale) for each, scale in zip(layers[name], scales, strict=True)),
                peaks=ranges[name].peaks,
                power=ranges[name].power,
            )
        for name, by_group in calls.items():
            rows = [
                [self._scale(name, group, each, method, percentile) for each in three]
                for group, three in enumerate(by_group)
            ]
            clipped = max(
                each.clipped(scale)
                for three, row in zip(by_group, rows, strict=True)
                for each, scale in zip(three, row, strict=True)
            )
            found[name] = LayerCalibration(
                ATTENTION,
                torch.tensor(rows, dtype=torch.float64),
                macs=macs[name],
                clipped=clipped,
                output=self._output_scales(outputs[name], method, percentile),
            )
        self.macs = macs
        return found

    def _leave_unseen(
        self,
        layers: dict[str, list[ActivationObserver]],
        calls: dict[str, list[list[ActivationObserver]]],
        owners: dict[str, nn.Module],
        macs: Counter[str],
    ) -> None:
        """Leave in float what saw nothing but zeros, of which no scale follows; of a module all calls of attention."""
        unseen = []
        for layer, name in list(self.layers.items()):
            if (where := _zeros_in(layers[name])) is not None:
                self.left[layer] = name, f"{ONLY_ZEROS}{where}, of which no scale follows"
                unseen.append(name)
                del self.layers[layer]
        zeros = {
            name: f"{ONLY_ZEROS} as {role}{where}, of which no scale follows"
            for name, by_group in calls.items()
            for role, each in zip(("query", "key", "value"), zip(*by_group, strict=True), strict=True)
            if (where := _zeros_in(each)) is not None
        }
        for name in list(calls):
            owner = owners[name]
            reason = next((zeros[each] for each in zeros if owners[each] is owner), None)
            if reason is not None:
                self.left_macs.append(FloatModule(name, type(owner).__name__, macs[name], reason))
                unseen.append(name)
                del calls[name]
        if unseen:
            warnings.warn(
                f"{', '.join(map(repr, unseen))} got only zeros in calibration and stay in float; "
                "to offload them, calibrate with inputs that reach them",
                OffloadWarning,
                stacklevel=2,
            )

    def _reasons(self) -> str:
        reasons = [f"{name!r}: {reason}" for name, reason in self.left.values() if reason != EXCLUDED]
        return f" ({'; '.join(reasons)})" if reasons else ""

    def left_in_float(self) -> list[FloatModule]:
        """What `scales` saw and has no scales for."""
        left = []
        for layer, (name, reason) in self.left.items():
            counted = sum(self.counter.macs.pop(layer, Counter()).values())
            left.append(FloatModule(name, type(layer).__name__, self.macs[name] + counted, reason))
        return [*left, *self.left_macs, *self.counter.modules(self.names)]

    def _scale(self, name: str, group: int, observer: ActivationObserver, method: Method, percentile: float) -> float:
        if not observer.updates:
            raise ValueError(
                f"layer {name!r} was not called in timestep group {group} of {len(self.groups)} during calibration; "
                "run all timesteps in the calibration, choose fewer timestep_groups, or exclude it with filter_fn"
            )
        return observer.scale(method, percentile)

    @staticmethod
    def _output_scales(observers: list[ActivationObserver], method: Method, percentile: float) -> torch.Tensor | None:
        """Scales of the output of a call of attention; None if it was not seen, or only zeros were, in some group."""
        if not all(each.updates and each.absmax for each in observers):
            return None
        return torch.tensor([each.scale(method, percentile) for each in observers], dtype=torch.float64)

    def errors(self, found: dict[str, LayerCalibration]) -> dict[str, float | None]:
        """Measure the quantisation error of all layers and attention calls."""
        errors: dict[str, _Error] = defaultdict(_Error)
        weights = {}
        for layer, name in self.layers.items():
            weight = smoothed(weight_of(layer).detach(), found[name].smoothing, layer_type_of(layer).groups(layer))
            integers, scale = quantize_weight(weight.flatten(1))
            weights[layer] = (integers.float() * scale[:, None]).view(weight.shape)

        def watch(layer: nn.Module, values: torch.Tensor, result: torch.Tensor) -> None:
            layer_type, name = layer_type_of(layer), self.layers[layer]
            scale = found[name].scales[self.groups.index]
            factors = found[name].smoothing
            multiplier = (1 / (scale if factors is None else scale * factors)).float().view(-1)
            inputs = reference.quantise(layer_type.channels_last(values).float(), multiplier).float() * float(scale)
            quantized = layer_type.compute(layer, layer_type.channels_back(inputs), weights[layer], None)
            bias = layer_type.broadcast_bias(layer)
            errors[name].add(name, result if bias is None else result - bias, quantized)

        def watch_call(
            owner: nn.Module, index: int, function: Callable[..., torch.Tensor], args: Any, kwargs: dict[str, Any]
        ) -> torch.Tensor:
            result = function(*args, **kwargs)
            name = call_name(self.names[owner], index)
            if name in found:
                scales = found[name].scales[self.groups.index].tolist()
                errors[name].add(name, result, _emulate(_attention_arguments(*args, **kwargs), scales))
            return result

        self._run(_watch_layers(self.layers, watch), watch_attention(self.module, watch_call))
        return {name: error.sqnr_db for name, error in errors.items()}


class _OutputRange:
    """What is seen of the outputs of a layer, without bias.

    Attributes
    ----------
    peaks : torch.Tensor or None
        float64 (N,): largest magnitude of each channel; None before the first finite output.
    """

    def __init__(self) -> None:
        self.peaks: torch.Tensor | None = None
        self._squares, self._count = 0.0, 0

    @property
    def power(self) -> float | None:
        """Mean square."""
        return self._squares / self._count if self._count else None

    def see(self, layer: nn.Module, result: torch.Tensor) -> None:
        """Take an output into account, unless it has NaN or infinity."""
        layer_type = layer_type_of(layer)
        bias = layer_type.broadcast_bias(layer)
        sums = result.detach() if bias is None else result.detach() - bias.detach()
        sums = layer_type.channels_last(sums)
        sums = sums.reshape(-1, sums.shape[-1]).double()
        if not sums.numel() or not sums.isfinite().all():
            return
        peaks = sums.abs().amax(0).cpu()
        self.peaks = peaks if self.peaks is None else torch.maximum(self.peaks, peaks)
        self._squares += float(sums.square().sum())
        self._count += sums.numel()


def _observe(name: str, observer: ActivationObserver, values: torch.Tensor, role: str = "") -> None:
    try:
        observer.update(values)
    except NonFiniteError as error:
        raise _not_finite(name, f"got values {role}in call {observer.updates} of the run for scales: {error}") from None


def _not_finite(name: str, what: str) -> NonFiniteError:
    return NonFiniteError(
        f"layer {name!r} {what}; calibrate with data and weights that are finite, or exclude it with filter_fn"
    )


def _zeros_in(observers: Sequence[ActivationObserver]) -> str | None:
    """Where observers, one for each timestep group, saw only zeros: None for nowhere."""
    groups = [group for group, each in enumerate(observers) if each.updates and not each.absmax]
    if not groups:
        return None
    return f" in timestep group {groups[0]} of {len(observers)}" if len(observers) > 1 else ""


def _attention_arguments(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> dict[str, Any]:
    return {
        "query": query,
        "key": key,
        "value": value,
        "mask": attn_mask,
        "is_causal": is_causal,
        "scale": 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        "enable_gqa": enable_gqa,
    }


def _emulate(call: dict[str, Any], scales: list[float]) -> torch.Tensor:
    """Result of an offloaded attention call, with products in float32."""
    heads = split_heads(call["query"], call["key"], call["value"], call["mask"], call["enable_gqa"])

    def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, _: int) -> None:
        out.copy_(a.float() @ b.float())

    def scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    products: tuple[Multiply, Multiply] = (multiply, multiply)
    return attend(heads, scales, call["scale"], call["is_causal"], products, scratch).reshape(heads.shape)


def calibrate(
    module: nn.Module,
    run: Callable[[nn.Module], Any],
    *,
    filter_fn: FilterFn | None = None,
    method: Method = "mse",
    percentile: float = 99.99,
    smoothing: float | None = None,
    timestep_groups: int = 1,
    num_train_timesteps: float = 1000,
    measure_error: bool = True,
) -> Calibration:
    """Choose the input scales of all layers from what they see in a run.

    The output of each layer is compared once with what its weights give. A layer that computes something else, or that
    was not called, gets no scales, stays in float and is listed in `Calibration.left`, as are all other modules that
    did products.

    Parameters
    ----------
    module : nn.Module
        The model, not offloaded.
    run : callable
        Called with `module`; runs it on representative data. It is called once more to measure errors, and once more
        for smoothing.
    filter_fn : callable, optional
        ``filter_fn(layer, name)`` selects layers of registered types and modules that call attention; by default all.
    method : {"absmax", "percentile", "mse"}
        How scales follow from what was seen; see `ActivationObserver.scale`.
    percentile : float
        Share of magnitudes, in percent, that ``"percentile"`` does not clip.
    smoothing : float, optional
        Exponent alpha in 0..1 of SmoothQuant (Xiao et al. 2023): input channel j is divided by
        ``max|x_j|^alpha / max|w_j|^(1 - alpha)``, and its weights multiplied. By default none.
    timestep_groups : int
        Scales for each of so many equal parts of 0..`num_train_timesteps`; see `TimestepGroups.watch` for how the
        timestep is found.
    num_train_timesteps : float
        End of the timesteps.
    measure_error : bool
        Measure each layer's quantisation error.

    Returns
    -------
    Calibration
        The `calibration` of `offload`.

    Raises
    ------
    TypeError
        `module` is itself a layer.
    ValueError
        An option is out of range, an input is empty, or a layer was not called in some timestep group.
    OffloadError
        Weights are not there or of a kind that cannot be quantised, or nothing is left to offload.

    Warns
    -----
    OffloadWarning
        The quantisation error of a layer is below 10 dB of its output.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, not {method!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in 0..100 (0 excluded), not {percentile!r}")
    if smoothing is not None and not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in 0..1, or None, not {smoothing!r}")
    bounds = equal_bounds(timestep_groups, num_train_timesteps)
    calibrator = _Calibrator(module, run, filter_fn, TimestepGroups(bounds))
    if smoothing is not None:
        calibrator.smooth(smoothing)
    layers = calibrator.scales(method, percentile)
    if measure_error:
        errors = calibrator.errors(layers)
        layers = {name: replace(each, sqnr_db=errors[name]) for name, each in layers.items()}
        _warn_of_errors(layers)
    return Calibration(layers, method, percentile, smoothing, bounds, tuple(calibrator.left_in_float()))


def _warn_of_errors(layers: dict[str, LayerCalibration]) -> None:
    low = [(name, each.sqnr_db) for name, each in layers.items() if each.sqnr_db is not None]
    low = [(name, sqnr) for name, sqnr in low if sqnr < LEAST_SQNR_DB]
    if low:
        listed = ", ".join(f"{name!r} ({sqnr:.1f} dB)" for name, sqnr in low)
        warnings.warn(
            f"quantisation error is large in {listed}: below {LEAST_SQNR_DB} dB of the output of the layer in "
            "calibration; try smoothing, timestep_groups or another method, or exclude what matters with filter_fn",
            OffloadWarning,
            stacklevel=3,
        )
