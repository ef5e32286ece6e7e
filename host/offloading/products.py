"""Products of offloaded layers: what they share, how each is named to the hardware, and what each has cost."""

from __future__ import annotations

import functools
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, ParamSpec, TypeVar

import torch

from brownout.hw.tiling import ideal_cycles

from ..device.accelerator import Accelerator
from ..device.product.operands import GemmShape, Requantisation, ResidentWeights, Tally
from ..device.twin.requantise import requantise
from ..errors import NonFiniteError, OffloadWarning
from ..storage.decoding import Count, check
from ..storage.state import State, Stateful, join, split
from .copies import NotCopied
from .execution import Execution, ProductCall
from .float_modules import FloatModule
from .history import History
from .nonfinite import Met, Nonfinite
from .output_format import Outputs
from .timesteps import TimestepGroups

ProductObserver = Callable[[str, torch.Tensor], None]
"""Called with the name of a product and the (M, N) or (B, M, N) outputs of each call, valid until it returns: int32
sums, or int16 and int8 where layers write that."""

EVALUATION_BITS, PART_BITS, NUMBER_BITS = 16, 4, 12
"""Of an error key, from the lowest bit on: evaluation, part of the batch, number of the product."""


_COUNTS = ("calls", "rows", "macs", "ideal_cycles", "k", "n", "inputs", "saturated", "outputs", "clamped")

SATURATION_LIMIT = 0.02
"""Share of a product's inputs in a run that may saturate without a warning."""

CLIPPED_LIMIT = 2
"""Where calibration itself clipped more than half of that, the limit is so many times its share."""


@dataclass(frozen=True)
class _Counts:
    """What is told of a product in a state."""

    calls: Count
    rows: Count
    macs: Count
    ideal_cycles: Count
    k: Count
    n: Count
    cycles: Count
    evaluations: list[tuple[int, Count]]
    # States of earlier programs have none of these.
    inputs: Count = 0
    saturated: Count = 0
    outputs: Count = 0
    clamped: Count = 0


@dataclass(frozen=True)
class _Place:
    """Where a run is, in a state."""

    part: int
    evaluation: int


class OffloadedModel(NotCopied):
    """What the layers of one call of `offload` have in common.

    Parameters
    ----------
    accelerator : Accelerator
        Where products run.
    groups : TimestepGroups
        Present timestep group.
    observer : callable, optional
        Sees all sums.
    nonfinite : {"nan", "raise"}
        What becomes of NaN and infinity in inputs.
    outputs : {"int32", "int16", "int8", "auto"}
        How wide outputs of layers leave the accelerator (`output_format`).

    Attributes
    ----------
    part : int
        Part of the batch that is evaluated: set it before evaluations of parts that have values of their own to go back
        to, for example the two halves of guidance.
    evaluation : int
        Evaluations of the whole model since the run began, for who counts them.
    history : History
        Values that suppressed elements keep.
    execution : Execution
        Runs the products.
    products : list of OffloadedProduct
        Products in the order of the model.
    run_listeners : list of callable
        Called by `begin_run`.
    stateful : dict of str to Stateful
        What else results depend on, by a name of its own without ``/``: what strategies, policies, controllers and
        caches remember from one evaluation to the next. Whoever adds something to a model puts it here, before the run
        begins; it is part of `state`.
    left_in_float : tuple of FloatModule
        Modules that do products in PyTorch, and why, the largest share of MACs first.
    awaits_trial : bool
        Whether the next evaluation of the model is preceded by one in twin arithmetic, which fails where offloading
        breaks the model. Who lets layers do more than that, exchange values with other devices for example, sets it to
        False.
    on_trial : bool
        Whether this is one: inputs are neither counted nor refused.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        groups: TimestepGroups,
        observer: ProductObserver | None = None,
        nonfinite: Nonfinite = "nan",
        outputs: Outputs = "int32",
    ) -> None:
        self.accelerator = accelerator
        self.outputs = outputs
        self.groups = groups
        self.observer = observer
        self.nonfinite = nonfinite
        self.on_trial = False
        self.part = self.evaluation = 0
        self.history = History(accelerator)
        self.execution = Execution()
        self.products: list[OffloadedProduct] = []
        self.run_listeners: list[Callable[[], None]] = []
        self.stateful: dict[str, Stateful] = {}
        self.left_in_float: tuple[FloatModule, ...] = ()
        self.awaits_trial = False
        # Threads may evaluate the model at the same time.
        self._scratch = threading.local()

    def begin_run(self) -> None:
        """Count evaluations from zero and forget all history: the next image does not depend on the last."""
        self.history.clear()
        self.evaluation = 0
        self.execution.begin_run()
        for product in self.products:
            product.begin_run()
        for listener in self.run_listeners:
            listener()

    def state(self) -> State:
        """What the next evaluation depends on: accelerator, histories, products, execution, what is in `stateful`."""
        # First, so that products know their cycles.
        accelerator = self.accelerator.state()
        products = State({str(product.number): product.counts() for product in self.products})
        parts = {"accelerator": accelerator, "history": self.history.state(), "products": products}
        extra = {name: each.state() for name, each in self.stateful.items()}
        place = State({"part": self.part, "evaluation": self.evaluation})
        return join({**parts, "place": place, "execution": self.execution.state(), "stateful": join(extra)})

    def load_state(self, state: State) -> None:
        """Take up a state, of this or of an equal model; raises as `Accelerator.load_state`."""
        parts = split(state)
        self.accelerator.load_state(parts["accelerator"])
        self.history.load_state(parts["history"])
        for product in self.products:
            product.load_counts(parts["products"].values[str(product.number)])
        place = check(parts["place"].values, _Place, "the state of the run")
        self.part, self.evaluation = place.part, place.evaluation
        self.execution.load_state(parts["execution"])
        for name, each in split(parts["stateful"]).items():
            self.stateful[name].load_state(each)

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Memory that is used again and again: fresh memory costs as much as a product."""
        held: dict[str, torch.Tensor] = self._scratch.__dict__
        name = f"{name} {dtype}"
        wanted = torch.Size(shape).numel()
        tensor = held.get(name)
        if tensor is None or tensor.numel() < wanted or tensor.device != device:
            # Written to in inference mode and outside of it.
            with torch.inference_mode(False):
                tensor = held[name] = torch.empty(wanted, dtype=dtype, device=device)
        return tensor[:wanted].view(shape)


class OffloadedProduct:
    """A matrix product of an offloaded layer.

    Parameters
    ----------
    model : OffloadedModel
        Model to which it is added.
    name : str
        Dotted name of the layer, for attention with ``.qk`` or ``.pv``.
    kind : str
        `LayerType.kind` of the layer, ``"linear"`` or ``"conv2d"`` for example, or ``"attention"``.
    sqnr_db : float or None
        Quantisation error of the layer in its calibration.
    clipped : float or None
        Share of the inputs that saturated in its calibration, if that is known.

    Attributes
    ----------
    number : int
        Place in the model.
    evaluations : dict of int to int
        Calls of each part of the batch since the run began.
    calls, rows, macs, ideal_cycles : int
        Commands, rows (M) of all of them, useful multiply-accumulates, cycles of an array that is never idle.
    k, n : int
        Extents of the last call.
    inputs, saturated : int
        Values that were quantised, and those of them that saturated.
    outputs, clamped : int
        Narrow outputs, and those of them at the ends of what they can hold.
    """

    def __init__(
        self, model: OffloadedModel, name: str, kind: str, sqnr_db: float | None, clipped: float | None = None
    ) -> None:
        self.model, self.name, self.kind, self.sqnr_db = model, name, kind, sqnr_db
        self.limit = max(SATURATION_LIMIT, CLIPPED_LIMIT * (clipped or 0))
        self.number = len(model.products)
        model.products.append(self)
        self.weights: ResidentWeights | None = None
        self.scales: list[float] = [1.0]
        self.requants: list[Requantisation] | None = None
        self.evaluations: dict[int, int] = {}
        self.calls = self.rows = self.macs = self.ideal_cycles = self.k = self.n = self.inputs = self.saturated = 0
        self.outputs = self.clamped = 0
        self._before_run = (0, 0)
        self._outputs_before_run = (0, 0)
        self._warned = self._warned_of_outputs = False
        self.tally = Tally()

    def counts(self) -> dict[str, Any]:
        """Evaluations, and all that reports tell, as JSON."""
        evaluations = [[part, count] for part, count in self.evaluations.items()]
        return {name: getattr(self, name) for name in _COUNTS} | {
            "cycles": self.tally.cycles,
            "evaluations": evaluations,
        }

    def load_counts(self, counts: dict[str, Any]) -> None:
        """Go on from what `counts` returned."""
        check(counts, _Counts, f"the state of {self.name}")
        for name in _COUNTS:
            # States of earlier programs have no inputs.
            setattr(self, name, counts.get(name, 0))
        inputs, saturated = self._before_run
        self._before_run = (min(inputs, self.inputs), min(saturated, self.saturated))
        outputs, clamped = self._outputs_before_run
        self._outputs_before_run = (min(outputs, self.outputs), min(clamped, self.clamped))
        self.tally.cycles = counts["cycles"]
        self.evaluations = dict(counts["evaluations"])

    def begin_run(self) -> None:
        """Count evaluations from zero, and the share of inputs that saturates anew."""
        self.evaluations.clear()
        self._before_run = (self.inputs, self.saturated)
        self._outputs_before_run = (self.outputs, self.clamped)

    def meet(self, met: Met, *operands: torch.Tensor) -> bool:
        """Count inputs that were quantised, and warn if too many of them saturate.

        Parameters
        ----------
        met : Met
            What quantising has met in all of them.
        operands : torch.Tensor
            The inputs.

        Returns
        -------
        bool
            Whether some are NaN or infinite.

        Raises
        ------
        NonFiniteError
            Some are, and the model's `nonfinite` is ``"raise"``.
        """
        bad = sum(int((~each.isfinite()).sum()) for each in operands) if met.infinite else 0
        if self.model.on_trial:
            return bad > 0
        count = sum(each.numel() for each in operands)
        if bad:
            self.refuse(f"{bad} NaN or infinite values among {count} inputs")
        self.inputs += count
        self.saturated += met.saturated - bad
        if met.saturated > bad and not self._warned:
            self._check_saturation()
        return bad > 0

    def refuse(self, what: str, *, begun: bool = False) -> None:
        """Raise what `meet` raises, if that is wanted; `begun` tells whether the evaluation has begun."""
        if self.model.nonfinite == "raise" and not self.model.on_trial:
            part = self.model.part
            evaluation = self.evaluations.get(part, 0) - begun
            raise NonFiniteError(
                f"layer {self.name!r} got {what} in evaluation {evaluation} of part {part} of the "
                'run; find where they come from, or let outputs become NaN with nonfinite="nan"'
            )

    def _check_saturation(self) -> None:
        inputs, saturated = self._before_run
        share = (self.saturated - saturated) / (self.inputs - inputs)
        if share > self.limit:
            self._warned = True
            warnings.warn(
                f"{100 * share:.3g} % of the inputs of layer {self.name!r} saturate in this run, more than "
                f"{100 * self.limit:.3g} %: they are larger than in its calibration; calibrate on data like these",
                OffloadWarning,
                stacklevel=2,
            )

    def meet_outputs(self, clamped: int, outputs: torch.Tensor) -> None:
        """Count narrow outputs of a call, and warn if too many are at the ends of what they can hold.

        Parameters
        ----------
        clamped : int
            How many are (`reference.at_ends`).
        outputs : torch.Tensor
            All of them; int32 sums do not count.
        """
        if outputs.dtype == torch.int32 or self.model.on_trial:
            return
        self.outputs += outputs.numel()
        self.clamped += clamped
        before, clamped_before = self._outputs_before_run
        share = (self.clamped - clamped_before) / (self.outputs - before)
        # Timing errors go to the ends too, and are better there than beyond.
        if share > SATURATION_LIMIT and not self._warned_of_outputs and type(self.model.execution) is Execution:
            self._warned_of_outputs = True
            warnings.warn(
                f"{100 * share:.3g} % of the outputs of layer {self.name!r} are clamped in this run, more than "
                f"{100 * SATURATION_LIMIT:.3g} %: they are larger than in its calibration; calibrate on data and "
                'weights like these, or offload with outputs="int32"',
                OffloadWarning,
                stacklevel=2,
            )

    def load(self, weights: torch.Tensor, scales: list[float], requants: list[Requantisation] | None = None) -> None:
        """Make int8 (K, N) or (B, K, N) resident.

        Histories of sums with other weights are forgotten.

        Parameters
        ----------
        weights : torch.Tensor
            int8 (K, N) or (B, K, N).
        scales : list of float
            Scale of the inputs for each timestep group.
        requants : list of Requantisation, optional
            Scaling to narrow outputs for each timestep group; by default sums are written.
        """
        self.model.history.forget_product(self.number)
        self.model.execution.forget_product(self.number)
        # The old ones first: there need not be room for both.
        self.weights = None
        self.weights = self.model.accelerator.upload(weights)
        self.scales, self.requants = scales, requants

    def begin(self) -> int:
        """Error key of the evaluation that begins: of no other evaluation, and the same in every run.

        Keys come again after 2^16 evaluations of a part, and with more than 2^4 parts or 2^12 products.
        """
        part = self.model.part
        evaluation = self.evaluations.get(part, 0)
        self.evaluations[part] = evaluation + 1
        key = 0
        for value, bits in ((self.number, NUMBER_BITS), (part, PART_BITS), (evaluation, EVALUATION_BITS)):
            key = key << bits | value % (1 << bits)
        return key

    def multiply(self, rows: torch.Tensor, group: int) -> torch.Tensor:
        """Multiply by the resident weights, into memory that the next call reuses.

        Parameters
        ----------
        rows : torch.Tensor
            int8 (M, K) or (B, M, K).
        group : int
            Timestep group by whose scale they were quantised.

        Returns
        -------
        torch.Tensor
            (M, N) or (B, M, N): int32 sums, or what `requants` make of them.
        """
        assert self.weights is not None
        execution, key, scale = self.model.execution, self.begin(), self.scales[group]
        requant = None if self.requants is None else self.requants[group]
        if requant is None:
            out = execution.layer(ProductCall(self, rows, self.weights, key, scale))
        elif execution.narrows():
            out = execution.layer(ProductCall(self, rows, self.weights, key, requant=requant))
        else:
            sums = execution.layer(ProductCall(self, rows, self.weights, key, scale))
            out = self.model.scratch("narrow", tuple(sums.shape), requant.dtype, sums.device)
            requantise(sums, requant.mult, requant.shift, out)
        self._count(out, rows.shape[-1])
        return out

    def count_on_chip(self, shape: GemmShape) -> None:
        """Count a product whose sums nobody sees."""
        self.calls += 1
        self.rows += shape.batch * shape.m
        self.k, self.n = shape.k, shape.n
        self.macs += shape.macs
        self.ideal_cycles += ideal_cycles(self.model.accelerator.config, shape.m, shape.n, shape.k, shape.batch)

    def multiply_pair(self, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, key: int, first_row: int) -> None:
        """Multiply two activations, int8 (B, M, K) and (B, K, N), into int32 `out`."""
        self.model.execution.attention_product(ProductCall(self, a, b, key, first_row=first_row), out)
        self._count(out, a.shape[-1])

    def _count(self, out: torch.Tensor, k: int) -> None:
        batch = out.shape[0] if out.ndim == 3 else 1
        m, n = out.shape[-2:]
        self.count_on_chip(GemmShape(batch, m, n, k))
        if self.model.observer is not None:
            self.model.observer(self.name, out)


_layers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = count()


def register(layer: Any) -> int:
    """Number by which custom operators find `layer` as long as it lives."""
    number = next(_numbers)
    _layers[number] = layer
    return number


def find(number: Any) -> Any:
    """The layer of a number.

    Raises
    ------
    RuntimeError
        It is gone.
    """
    layer = _layers.get(number)
    if layer is None:
        raise RuntimeError("this layer is no longer offloaded; it was restored or deleted")
    return layer


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def in_turn(operator: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let an operator, whose last argument is the number of its layer, have the layer's accelerator to itself.

    So threads can evaluate a model at the same time: slots, counts and logs are of one product at a time. In a forked
    child it raises `ForkedProcessError` before a kernel waits for threads that are not there.
    """

    @functools.wraps(operator)
    def run(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        number = named["layer"] if "layer" in named else arguments[-1]
        with find(number).model.accelerator.exclusive():
            return operator(*arguments, **named)

    return run


def check_values(name: str, values: torch.Tensor) -> None:
    """Refuse what cannot be quantised.

    Raises
    ------
    TypeError
        Not floating-point.
    ValueError
        Empty.
    """
    if not values.is_floating_point():
        raise TypeError(f"layer {name!r} must get a floating-point input, not {values.dtype}")
    if not values.numel():
        raise ValueError(
            f"layer {name!r} got an empty input of shape {tuple(values.shape)}; "
            "an offloaded layer needs at least one row, so leave empty batches out"
        )


def check_attention(name: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Refuse operands of attention that cannot be quantised; raises as `check_values`."""
    for role, values in (("query", query), ("key", key), ("value", value)):
        if not values.is_floating_point():
            raise TypeError(f"attention {name!r} must get a floating-point {role}, not {values.dtype}")
        if not values.numel():
            raise ValueError(
                f"attention {name!r} got an empty {role} of shape {tuple(values.shape)}; offloaded attention needs at "
                "least one query and one key, so leave empty ones out, or exclude the module with filter_fn"
            )
