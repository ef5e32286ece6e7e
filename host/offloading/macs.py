"""How many multiply-accumulates of a model each of its modules does, and which stay in float."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from .float_modules import FloatModule
from .layer_types import layer_classes
from .selection import AttentionWatcher, Watch, watch_attention


def attention_macs(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """Of both products of a call of attention."""
    lead = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    heads = query.shape[-3] if query.ndim > 2 else 1
    return lead.numel() * heads * query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _cpu_attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


_FORMULAS: dict[Any, Callable[..., int]] = {
    # PyTorch's own table has the kernels of GPUs only.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flops,
}


class MacCounter(TorchDispatchMode):
    """Counts the MACs of operators, for the innermost module that is being evaluated.

    By the formulas of ``torch.utils.flop_counter``, which count two operations for one MAC.

    Attributes
    ----------
    macs : dict of nn.Module to Counter
        MACs of each module, by the name of the torch function that did them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._watch: Watch | None = None
        self.macs: dict[nn.Module, Counter[str]] = defaultdict(Counter)
        self._paused = False
        self._formulas: dict[Any, Callable[..., int] | None] = {}

    @contextlib.contextmanager
    def watch(self, module: nn.Module, watcher: AttentionWatcher) -> Iterator[None]:
        """Count what `module` does, and let `watcher` see its calls of attention."""
        with watch_attention(module, watcher) as self._watch, self:
            yield

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing meanwhile: someone else does."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        watch = self._watch
        if self._paused or watch is None or (owner := watch.owner) is None:
            return func(*args, **kwargs)
        if func in self._formulas:
            formula = self._formulas[func]
        else:
            packet = func._overloadpacket
            formula = flop_registry.get(packet) or _FORMULAS.get(packet)
            if formula is None:
                # In inference mode operators that are made of others arrive whole.
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            self._formulas[func] = formula
        result = func(*args, **kwargs)
        if formula is not None:
            name = watch.function or func._overloadpacket.__name__
            self.macs[owner][name.strip("_")] += formula(*args, **kwargs, out_val=result) // 2
        return result

    def modules(self, names: dict[nn.Module, str]) -> list[FloatModule]:
        """What it has counted, with reasons; `names` are those of the model's modules."""
        return [
            FloatModule(names[module], type(module).__name__, macs, _reason(module, counts))
            for module, counts in self.macs.items()
            if (macs := sum(counts.values()))
        ]


def _reason(module: nn.Module, counts: Counter[str]) -> str:
    kind = type(module)
    if kind.__module__.startswith("torch.nn.modules.") and not module._modules:
        return f"{kind.__name__} layers are not offloaded"
    functions = ", ".join(sorted(name for name, macs in counts.items() if macs))
    return f"it calls {functions} itself, not through a {layer_classes()} layer"
