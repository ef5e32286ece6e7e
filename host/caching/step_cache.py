"""What step caches have in common: which evaluations are full, when a run begins, and how they get into a model."""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..offloading import OffloadedModel, offloaded_model
from ..offloading.offload import is_offloaded
from ..offloading.timesteps import timestep_reader
from ..storage.state import State
from .series import Series

STATE_NAME = "step_cache"
"""In `OffloadedModel.stateful`."""

Forward = Callable[..., Any]


class StepCache(abc.ABC):
    """Computes some evaluations of a denoiser in full, and predicts parts of the others from these.

    Evaluations are calls of the denoiser, numbered from 0 in each run. Full are the first `warmup`, and from the last
    of these on every `interval`-th. A run begins, and all values are forgotten,

    - with `begin_run`, which ``OffloadedModel.begin_run`` and so each call of an ``OffloadedPipeline`` calls too, if
      the denoiser is offloaded as the cache is attached;
    - where the timestep is above that of the evaluation before;
    - where shape, dtype or device of the sample (the denoiser's first argument) is another than in the evaluation
      before;
    - after an evaluation that failed.

    Parameters
    ----------
    interval : int
        1: every evaluation is full, and nothing is kept.
    order : int
        Degree of the extrapolation, 0 to 2. With 0 the last full value is used again.
    damping : float
        Share of the extrapolated change that is believed, 0 to 1.
    warmup : int
        Number of evaluations, at least 1.

    Attributes
    ----------
    full, predicted : int
        Evaluations of either kind since the cache was made.
    age : int
        Evaluations since the last full one; 0 in a full one.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    def __init__(self, *, interval: int, order: int, damping: float, warmup: int) -> None:
        for name, value, low, high in (
            ("interval", interval, 1, None),
            ("order", order, 0, 2),
            ("warmup", warmup, 1, None),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < low or (high and value > high):
                allowed = f"in {low}..{high}" if high else f">= {low}"
                raise ValueError(f"{name} must be an integer {allowed}, not {value!r}")
        if not 0 <= damping <= 1:
            raise ValueError(f"damping must be in 0..1, not {damping!r}")
        self.interval, self.order, self.damping, self.warmup = interval, order, float(damping), warmup
        self.full = self.predicted = self.age = 0
        self.series: dict[str, Series] = {}
        self._denoiser: nn.Module | None = None
        self._model: OffloadedModel | None = None
        self._patched: list[tuple[str, nn.Module, Forward, Forward | None]] = []
        self._handles: list[RemovableHandle] = []
        self._evaluation = -1
        self._inside = False
        self._timestep: float | None = None
        self._sample: list[Any] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters by name; a state is accepted by a cache with the same settings only."""
        return {name: getattr(self, name) for name in ("interval", "order", "damping", "warmup")}

    def _new_series(self, name: str) -> Series:
        series = self.series[name] = Series(self.order, self.damping)
        return series

    @abc.abstractmethod
    def _patch(self, denoiser: nn.Module) -> None:
        """Call `_replace` for every module that is not always evaluated; TypeError if the model is of another kind."""

    def _clear(self) -> None:
        for series in self.series.values():
            series.clear()

    def attach(self, denoiser: nn.Module) -> Self:
        """Let calls of `denoiser` go through this cache, until `detach` or the end of a ``with`` block.

        Offload first, and detach before `restore`; the other way round, first in, last out.

        Raises
        ------
        TypeError
            The denoiser is not of the kind that this cache is for.
        ValueError
            The cache is attached already.
        """
        if self._denoiser is not None:
            raise ValueError("this cache is attached already; call detach first, or make another one")
        self._denoiser = denoiser
        try:
            self._patch(denoiser)
        except BaseException:
            self.detach()
            raise
        read_timestep = timestep_reader(denoiser)
        first = next(iter(inspect.signature(denoiser.forward).parameters))

        def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            timestep = read_timestep(arguments, named)
            self._begin(arguments[0] if arguments else named[first], None if timestep is None else float(timestep))

        def after(_module: nn.Module, _arguments: tuple[Any, ...], _result: Any) -> None:
            self._inside = False

        self._handles = [
            denoiser.register_forward_pre_hook(before, with_kwargs=True),
            denoiser.register_forward_hook(after),
        ]
        if is_offloaded(denoiser):
            self._model = offloaded_model(denoiser)
            self._model.run_listeners.append(self.begin_run)
            self._model.stateful[STATE_NAME] = self
        self.begin_run()
        return self

    def detach(self) -> None:
        """Give the denoiser its own ``forward`` back. Detaching twice does no harm.

        Raises
        ------
        ValueError
            Something else has changed the same modules since `attach`, and has to be undone first.
        """
        for name, module, ours, _ in self._patched:
            # Without a forward of its own, someone has put the module back already.
            if module.__dict__.get("forward", ours) is not ours:
                raise ValueError(
                    f"{name!r} was offloaded or changed after the cache was attached; undo that before detach"
                )
        for _, module, _, original in reversed(self._patched):
            module.__dict__.pop("forward", None)
            if original is not None:
                module.forward = original
        for handle in self._handles:
            handle.remove()
        if self._model is not None:
            self._model.run_listeners.remove(self.begin_run)
            del self._model.stateful[STATE_NAME]
        self._patched, self._handles, self._model, self._denoiser = [], [], None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _replace(self, name: str, module: nn.Module, make: Callable[[Forward], Forward]) -> None:
        """Put ``make(forward)`` in the place of a module's forward."""
        original = module.__dict__.get("forward")
        ours = make(module.forward)
        self._patched.append((name, module, ours, original))
        module.forward = ours

    def begin_run(self) -> None:
        """Count evaluations from zero and forget all values."""
        self._evaluation, self._inside, self._timestep, self._sample = -1, False, None, None
        self.age = 0
        self._clear()

    def _begin(self, sample: torch.Tensor, timestep: float | None) -> None:
        kind = [list(sample.shape), str(sample.dtype), str(sample.device)]
        risen = timestep is not None and self._timestep is not None and timestep > self._timestep
        if self._inside or risen or self._sample not in (None, kind):
            self.begin_run()
        self._timestep, self._sample, self._inside = timestep, kind, True
        self._evaluation += 1
        if self._is_full(self._evaluation):
            self.full, self.age = self.full + 1, 0
        else:
            self.predicted, self.age = self.predicted + 1, self.age + 1

    def _is_full(self, evaluation: int) -> bool:
        return evaluation < self.warmup or (evaluation - self.warmup + 1) % self.interval == 0

    @property
    def _recording(self) -> bool:
        """Whether this is a full evaluation whose values are wanted."""
        return self._inside and not self.age and self.interval > 1

    @property
    def _predicting(self) -> bool:
        return self._inside and self.age > 0

    @property
    def held_bytes(self) -> int:
        """Memory of all values that are kept."""
        return sum(value.nbytes for series in self.series.values() for value in series.values)

    @property
    def traffic_bytes(self) -> int:
        """Bytes of values written in full evaluations and read in predicted ones, since the cache was made.

        They stay in PyTorch: to price them, multiply by ``EnergyModel.dram_byte_j``.
        """
        return sum(series.bytes_written + series.bytes_read for series in self.series.values())

    def state(self) -> State:
        """Everything that is needed to go on; a run checkpoint of an offloaded denoiser has it."""
        values: dict[str, Any] = {
            "cache": type(self).__name__,
            "settings": self.settings,
            "evaluation": self._evaluation,
            "age": self.age,
            "timestep": self._timestep,
            "sample": self._sample,
            "series": sorted(self.series),
        }
        tensors: dict[str, torch.Tensor] = {}
        for name, series in self.series.items():
            values[f"{name}/nodes"] = list(series.nodes)
            tensors |= {f"{name}/{index}": value for index, value in enumerate(series.values)}
        return State(values, tensors)

    def load_state(self, state: State) -> None:
        """Go on where `state` was taken.

        Raises
        ------
        ValueError
            The cache is not attached, or the state is of another cache or model; nothing has changed.
        """
        if self._denoiser is None:
            raise ValueError("attach the cache to a denoiser before load_state")
        for name, wanted in (
            ("cache", type(self).__name__),
            ("settings", self.settings),
            ("series", sorted(self.series)),
        ):
            if state.values.get(name) != wanted:
                raise ValueError(f"the state has {name} {state.values.get(name)!r}, but this cache has {wanted!r}")
        self.begin_run()
        self._evaluation, self.age = int(state.values["evaluation"]), int(state.values["age"])
        self._timestep, self._sample = state.values["timestep"], state.values["sample"]
        for name, series in self.series.items():
            nodes = state.values[f"{name}/nodes"]
            series.restore(nodes, [state.tensors[f"{name}/{index}"] for index in range(len(nodes))])
