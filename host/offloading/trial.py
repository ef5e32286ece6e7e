"""One evaluation of an offloaded model of which nothing remains: it tells whether the model can be evaluated at all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ..device.product.operands import ResidentWeights
from ..device.twin.matmul import exact_matmul
from ..errors import AcceleratorClosedError, DeviceMemoryError, ForkedProcessError, NonFiniteError
from .attention import AttentionCall
from .execution import CalledProduct, Execution, ProductCall
from .layer import OffloadedLayer
from .products import OffloadedModel
from .selection import exclusion

NO_VERDICT = (AcceleratorClosedError, DeviceMemoryError, ForkedProcessError, NonFiniteError)
"""Errors of a trial that are no fault of offloading: the evaluation itself will raise them, and is not put back."""

MOST_NAMES = 8
"""Layers that a message lists one by one."""


class TrialExecution(Execution):
    """Exact products on the host: no accelerator is asked, so nothing is counted and nothing errs."""

    def layer(self, call: ProductCall) -> torch.Tensor:
        out = call.product.model.scratch("sums", call.shape, torch.int32, call.a.device)
        self.attention_product(call, out)
        return out

    def attends(self, scores: CalledProduct, values: CalledProduct) -> bool:
        return False

    def attention_product(self, call: ProductCall, out: torch.Tensor) -> None:
        w = call.w.values if isinstance(call.w, ResidentWeights) else call.w
        each = zip(*(x if x.ndim == 3 else x[None] for x in (call.a, w, out)), strict=True)
        for a, b, sums in each:
            exact_matmul(a, b, sums)


class TrialEvaluation:
    """Arguments of an evaluation of a model, with copies of their tensors, and the modes that it was made in."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def copy(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().clone()

        self._args, self._kwargs = tree_map_only(torch.Tensor, copy, (args, kwargs))
        self._inference = torch.is_inference_mode_enabled()
        self._autocast = [
            (device, torch.get_autocast_dtype(device))
            for device in ("cpu", "cuda")
            if torch.is_autocast_enabled(device)
        ]

    def __call__(self, module: nn.Module) -> None:
        """Evaluate `module` so."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode() if self._inference else torch.no_grad())
            for device, dtype in self._autocast:
                stack.enter_context(torch.autocast(device, dtype=dtype))
            args, kwargs = tree_map_only(torch.Tensor, torch.clone, (self._args, self._kwargs))
            module(*args, **kwargs)


@contextlib.contextmanager
def recorded(module: nn.Module, found: list[TrialEvaluation]) -> Iterator[None]:
    """Append the first evaluation of `module` to `found`."""

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not found:
            found.append(TrialEvaluation(args, kwargs))

    # Before other hooks, which are called again when the evaluation is made again.
    handle = module.register_forward_pre_hook(record, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def models_in(module: nn.Module) -> set[OffloadedModel]:
    """Of all offloaded layers and attention calls in `module`, which may have been offloaded in parts."""
    return {each.model for each in module.modules() if isinstance(each, (OffloadedLayer, AttentionCall))}


@contextlib.contextmanager
def leaving_no_trace(models: Iterable[OffloadedModel]) -> Iterator[None]:
    """Evaluate these models in twin arithmetic, without counts, errors, histories or observers."""
    before = [
        (model, model.execution, model.observer, model.on_trial, [each.counts() for each in model.products])
        for model in models
    ]
    for model, *_ in before:
        model.execution, model.observer, model.on_trial = TrialExecution(), None, True
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for model, execution, observer, on_trial, counts in before:
            model.execution, model.observer, model.on_trial = execution, observer, on_trial
            for product, count in zip(model.products, counts, strict=True):
                product.load_counts(count)


@contextlib.contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Users' hooks may count, or draw random numbers: they see nothing of a trial."""
    before = [(each, each.__dict__.get("_compiled_call_impl")) for each in module.modules()]
    for each, _ in before:
        # What a module does instead of calling its hooks, and those of all modules, and its forward.
        each._compiled_call_impl = each.forward
    try:
        yield
    finally:
        for each, compiled in before:
            del each._compiled_call_impl
            if compiled is not None:
                each._compiled_call_impl = compiled


def attempt(evaluate: Callable[[nn.Module], Any], module: nn.Module, *, hooks: bool) -> Exception | None:
    """What an evaluation of `module` in twin arithmetic raises, with or without hooks of its modules."""
    try:
        with leaving_no_trace(models_in(module)), contextlib.nullcontext() if hooks else _without_hooks(module):
            evaluate(module)
    except Exception as error:
        return error
    return None


def describe_failure(module: nn.Module, error: Exception) -> tuple[str, str]:
    """Message for an error of an offloaded model, and the name of the module that raised it."""
    names = {each: name for name, each in module.named_modules()}
    owner, trace = module, error.__traceback__
    while trace is not None:
        found = trace.tb_frame.f_locals.get("self")
        if isinstance(found, nn.Module) and found in names:
            owner = found
        trace = trace.tb_next
    name = owner.name.partition("#")[0] if isinstance(owner, AttentionCall) else names[owner]
    layers = [each for each, layer in _layers(module).items() if each == name or _within(each, name)]
    direct = [each for each in layers if "." not in each.removeprefix(f"{name}." if name else "")]
    chosen = direct or layers
    remedy = exclusion(chosen)
    if len(chosen) > MOST_NAMES:
        remedy = f"filter_fn=lambda layer, name: not name.startswith({name!r})"
    holds = "" if name in layers else f", which holds {', '.join(map(repr, chosen[:MOST_NAMES]))}"
    message = (
        f"{type(module).__name__} cannot be evaluated with its layers offloaded, and is as before: in {name!r} "
        f"({type(owner).__name__}{holds}), {type(error).__name__}: {error}; "
        f"if that is code which needs float layers, exclude them with {remedy}"
    )
    return message, name


def _within(name: str, parent: str) -> bool:
    return not parent or name.startswith(f"{parent}.")


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Offloaded layers, and calls of attention, by the names that ``filter_fn`` gets."""
    found: dict[str, nn.Module] = {}
    for name, each in module.named_modules():
        if isinstance(each, OffloadedLayer):
            found[name] = each
        elif isinstance(each, AttentionCall):
            found[each.name.partition("#")[0]] = each
    return found
