"""Runs the products of an offloaded model by a power policy and a strategy against errors."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from ..device.accelerator import Accelerator
from ..device.power.timing import TRANSITION_S, DelayModel
from ..device.product.operands import ResidentWeights
from ..device.product.protection import UNCHECKED, Protection
from ..offloading import offloaded_model
from ..offloading.execution import (
    AttentionProducts,
    CalledProduct,
    Execution,
    ProductCall,
    ProductOwner,
    knows_of,
)
from ..offloading.timesteps import timestep_reader
from ..storage.decoding import Count, check
from ..storage.state import State, join, split
from ..workload.product_site import ProductSite, block_of, kind_of_product
from .operating_point import NOMINAL, OperatingPoint
from .power_policy import Listener, PowerPolicy, describe_policy
from .strategies.base import Strategy

_COUNTS = ("evaluation", "moves", "clean", "recomputed_rows")

RETRY_SHIFT = 14
"""Bits of an error key's evaluation below the number of the attempt."""


@dataclass(frozen=True)
class _Values:
    """State of a run."""

    present: OperatingPoint | None
    timestep: float | None
    evaluation: int
    moves: Count
    clean: Count
    recomputed_rows: Count


class DriftExecution(Execution):
    """Moves operating points before each product, and lets a strategy run it.

    Parameters
    ----------
    model : OffloadedModel or ShapedModel
        Whose products they are.
    strategy : Strategy
        What is done about errors.
    policy : PowerPolicy
        What each product runs at.
    safe : OperatingPoint
        Point of products that must not err: recomputed ones, and those that have nothing to go back to.
    seed : int
        uint32 of the draws of timing errors, of models that draw.
    transition_s : float
        Time of a move between operating points.
    measured : mapping of str to float, optional
        Where products have shapes and no values, as of a `ShapedModel`: what decisions by values come to, as
        `Strategy.measured` of a run on a model had it. None where products have values.

    Attributes
    ----------
    evaluation : int
        Number of the present evaluation of the denoiser; -1 before the first.
    timestep : float
        Its timestep, NaN if unknown.
    moves : int
        Changes of the operating point.
    clean : int
        Products that ran at the safe point although the policy had another, for want of a history.
    recomputed_rows : int
        Rows of products that were computed again, in all their columns or some.
    assumed_delay_model : DelayModel or None
        What operating points are judged by where they must be safe; None for the accelerator's present delay model,
        which no program could know after the chip has warmed up. Policies that allow for that set it.
    """

    def __init__(
        self,
        model: ProductOwner,
        strategy: Strategy,
        policy: PowerPolicy,
        *,
        safe: OperatingPoint = NOMINAL,
        seed: int = 0,
        transition_s: float = TRANSITION_S,
        measured: Mapping[str, float] | None = None,
    ) -> None:
        self.measured = measured
        self.model, self.strategy, self.policy = model, strategy, policy
        self.safe, self.seed, self.transition_s = safe, seed, transition_s
        self._present: OperatingPoint | None = None
        self.assumed_delay_model: DelayModel | None = None
        self._judged_by: DelayModel | None = None
        self._safety: dict[OperatingPoint, bool] = {}
        strategy.check_hardware(self.accelerator.config)
        if not self.is_safe(safe):
            raise ValueError(f"safe must be an operating point without timing errors, not {safe}")
        # A policy that is more than a function wants to know what happens.
        self.listener = policy if isinstance(policy, Listener) else None
        self.begin_run()

    @property
    def accelerator(self) -> Accelerator:
        """Where products run."""
        return self.model.accelerator

    @property
    def is_valueless(self) -> bool:
        """Whether products have shapes alone."""
        return self.measured is not None

    def expected(self, name: str) -> float:
        """What decisions by values come to, as measured.

        Raises
        ------
        ValueError
            It was not.
        """
        if self.measured is None or name not in self.measured:
            raise ValueError(
                f"strategy {self.strategy.name!r} decides by values of sums, which a workload has not; give "
                f"measured= with {name!r}, as strategy.measured() has it after a run on a model"
            )
        return self.measured[name]

    def begin_run(self) -> None:
        self.evaluation, self.timestep = -1, math.nan
        self.moves = self.clean = self.recomputed_rows = 0
        self._present = None
        self._occurrences: Counter[tuple[int, int]] = Counter()
        self.strategy.begin_run(self)
        if self.listener is not None:
            self.listener.begin_run(self)

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "strategy": self.strategy.describe(),
            "schedule": describe_policy(self.policy),
            "safe": asdict(self.safe),
            "seed": self.seed,
            "transition_s": self.transition_s,
        }

    def state(self) -> State:
        present = None if self._present is None else asdict(self._present)
        counts = {name: getattr(self, name) for name in _COUNTS}
        timestep = None if math.isnan(self.timestep) else self.timestep
        own = State({"present": present, "timestep": timestep, **counts})
        told = State() if self.listener is None else State({"schedule": dict(self.listener.state())})
        return join({"run": own, "strategy": self.strategy.state(), "schedule": told})

    def load_state(self, state: State) -> None:
        parts = split(state)
        values = parts["run"].values
        found = check(values, _Values, "the state of the run")
        timestep = found.timestep
        self._present = found.present
        self.timestep = math.nan if timestep is None else timestep
        for name in _COUNTS:
            setattr(self, name, values[name])
        self.strategy.load_state(parts["strategy"], self)
        if self.listener is not None:
            self.listener.load_state(parts["schedule"].values["schedule"])

    def begin_evaluation(self, timestep: float) -> None:
        """The next evaluation of the denoiser begins."""
        self.evaluation += 1
        self._occurrences.clear()
        self.model.evaluation, self.timestep = self.evaluation, timestep
        if self.listener is not None:
            self.listener.begin_evaluation(self)
        self.strategy.begin_evaluation(self)

    def is_safe(self, point: OperatingPoint) -> bool:
        """Whether nothing errs at an operating point, by `assumed_delay_model` or the accelerator's present one."""
        delay_model = self.accelerator.delay_model if self.assumed_delay_model is None else self.assumed_delay_model
        if delay_model is not self._judged_by:
            self._safety.clear()
            self._judged_by = delay_model
        known = self._safety.get(point)
        if known is None:
            known = self._safety[point] = point.is_safe(self.accelerator, delay_model)
        return known

    def enter(self, point: OperatingPoint) -> None:
        """Move the accelerator to an operating point, unless it is there."""
        if point == self._present:
            return
        point.apply(self.accelerator, seed=self.seed, transition_s=self.transition_s)
        self._present = point
        self.moves += 1

    def site(self, product: CalledProduct) -> ProductSite:
        """Where a product is in the run."""
        name = product.name
        return ProductSite(self.evaluation, self.timestep, name, block_of(name), kind_of_product(name, product.kind))

    def layer(self, call: ProductCall) -> torch.Tensor:
        point = self._point(call.product)
        # A layer may be called several times in an evaluation, with other inputs each time.
        place = (call.product.number, self.model.part)
        call = replace(call, occurrence=self._occurrences[place])
        self._occurrences[place] += 1
        return self.strategy.layer(self, call, point)

    def narrows(self) -> bool:
        known = knows_of(type(self), "narrows", "layer") and knows_of(type(self.strategy), "takes_narrow", "layer")
        return known and self.strategy.takes_narrow()

    def attends(self, scores: CalledProduct, values: CalledProduct) -> bool:
        if not knows_of(type(self.strategy), "attention_protection", "attention_product"):
            return False
        protection = self.strategy.attention_protection()
        # Who is told what checks find is told of products; and the command has one operating point.
        if protection is None or (self.listener is not None and protection.check):
            return False
        return self._point(scores) == self._point(values)

    def attention(self, call: AttentionProducts, out: torch.Tensor) -> None:
        point = self._point(call.scores)
        protection = self.strategy.attention_protection()
        self.enter(point)
        call.run(self.accelerator, out, UNCHECKED if self.is_safe(point) else protection)

    def _point(self, product: CalledProduct) -> OperatingPoint:
        return self.strategy.point_for(self.policy(self.site(product)))

    def attention_product(self, call: ProductCall, out: torch.Tensor) -> None:
        point = self._point(call.product)
        if self.is_safe(point):
            self.run(call, out, point)
        else:
            self.strategy.attention_product(self, call, point, out)

    def run(
        self,
        call: ProductCall,
        out: torch.Tensor,
        point: OperatingPoint,
        protection: Protection = UNCHECKED,
        *,
        checkpoint: torch.Tensor | None = None,
        attempt: int = 0,
    ) -> torch.Tensor:
        """Run a product at an operating point into `out`; further attempts (1 to 3) have errors of their own."""
        self.enter(point)
        watched = self.listener is not None and protection.check
        before = self.accelerator.check_counts if watched else {}
        result = self.accelerator.gemm(
            call.a,
            call.w,
            requant=call.requant,
            out=out,
            checkpoint=checkpoint,
            protection=protection,
            error_key=call.key ^ attempt << RETRY_SHIFT,
            first_row=call.first_row,
            tally=call.product.tally,
        )
        if watched:
            assert self.listener is not None
            after = self.accelerator.check_counts
            found = {name: after[name] - before[name] for name in after}
            self.listener.product_checked(self, call, point, protection, found)
        return result

    def forget_product(self, number: int) -> None:
        self.strategy.forget_product(number)

    def scratch(self, name: str, call: ProductCall) -> torch.Tensor:
        """Memory for the outputs of a product."""
        return self.model.scratch(name, call.shape, call.dtype, call.a.device)

    def history(self, call: ProductCall) -> tuple[torch.Tensor, bool]:
        """Slot of a product with the outputs of the evaluation before, and whether there are any."""
        return self.model.history.slot(
            *(call.history_key, call.shape, call.a.device),
            scale=call.scale,
            evaluation=self.evaluation,
            dtype=call.dtype,
        )

    def recompute_rows(self, call: ProductCall, out: torch.Tensor, rows: torch.Tensor) -> None:
        """Compute some rows again at the safe point: all of them if they are many, or of a batch.

        Parameters
        ----------
        rows : torch.Tensor
            int64, ascending: rows of the product (``product * M + row`` in a batch).
        """
        if not len(rows):
            return
        if call.a.ndim == 3 or 2 * len(rows) > len(call.a):
            self.recomputed_rows += call.a.shape[:-1].numel()
            self.run(call, out, self.safe)
            return
        self.recomputed_rows += len(rows)
        rows = rows.to(call.a.device)
        part = replace(call, a=call.a[rows])
        again = self.model.scratch("rows again", part.shape, call.dtype, call.a.device)
        out[rows] = self.run(part, again, self.safe)

    def recompute_columns(
        self,
        call: ProductCall,
        out: torch.Tensor,
        rows: torch.Tensor,
        columns: slice,
        w: torch.Tensor | ResidentWeights,
    ) -> None:
        """Compute some columns of some rows again at the safe point.

        Parameters
        ----------
        rows : torch.Tensor
            int64, ascending, at least one: rows of the product; in a batch ``product * M + row`` of one product.
        columns : slice
            Columns of the product.
        w : torch.Tensor or ResidentWeights
            int8 (K, columns): these columns of the right operand.
        """
        self.recomputed_rows += len(rows)
        a, sums = call.a, out
        if call.a.ndim == 3:
            product = int(rows[0]) // call.a.shape[1]
            a, sums, rows = a[product], out[product], rows - product * call.a.shape[1]
        rows = rows.to(a.device)
        requant = None if call.requant is None else call.requant.of_columns(columns)
        part = replace(call, a=a[rows], w=w, requant=requant)
        again = self.model.scratch("rows again", part.shape, call.dtype, a.device)
        sums[rows, columns] = self.run(part, again, self.safe)


@contextlib.contextmanager
def protect(
    module: nn.Module,
    strategy: Strategy,
    policy: PowerPolicy,
    *,
    safe: OperatingPoint = NOMINAL,
    seed: int = 0,
    transition_s: float = TRANSITION_S,
) -> Iterator[DriftExecution]:
    """Run an offloaded denoiser by a power policy, with a strategy against the errors that it causes.

    A run begins: histories are forgotten. Within the ``with``, pipelines and `sample` are used as always; call
    `OffloadedModel.begin_run` before another image that is not drawn by a pipeline. Afterwards the accelerator is at
    its nominal point, and products run as before.

    Parameters
    ----------
    module : nn.Module
        Denoiser to run, offloaded.
    strategy, policy, safe, seed, transition_s
        Arguments of `DriftExecution`.

    Raises
    ------
    ValueError
        `module` is not offloaded, its accelerator lacks what the strategy needs, or `safe` is not.
    """
    model = offloaded_model(module)
    execution = DriftExecution(model, strategy, policy, safe=safe, seed=seed, transition_s=transition_s)
    read_timestep = timestep_reader(module)

    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        timestep = read_timestep(arguments, named)
        execution.begin_evaluation(math.nan if timestep is None else float(timestep))

    previous, model.execution = model.execution, execution
    model.begin_run()
    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield execution
    finally:
        handle.remove()
        model.execution = previous
        execution.enter(NOMINAL)
        if execution.listener is not None:
            execution.listener.end_run(execution)
