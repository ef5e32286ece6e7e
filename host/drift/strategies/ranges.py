"""Range restriction: no checks at all, but sums that no clean evaluation could have had are not used."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, dataclass

import torch

from ...offloading.execution import ProductCall
from ...offloading.history import INT32_LIMIT, HistoryKey
from ...storage.decoding import Count, Form, Positive, check, check_tensors
from ...storage.state import State
from ..operating_point import OperatingPoint
from .base import DriftRun, Strategy

OUT_OF_RANGE = ("keep", "zero")

SUM_BYTES = 4


@dataclass(frozen=True)
class _Range:
    """Least and largest sum of each column, int32 (N,), and the input scale with which they were made."""

    low: torch.Tensor
    high: torch.Tensor
    scale: float

    def at(self, scale: float) -> _Range:
        """The same of inputs with another scale."""
        if scale == self.scale:
            return self
        factor = self.scale / scale
        low, high = (
            (bound.double() * factor).round_().clamp_(-INT32_LIMIT - 1, INT32_LIMIT).int()
            for bound in (self.low, self.high)
        )
        return _Range(low, high, scale)

    @classmethod
    def of(cls, sums: torch.Tensor, scale: float) -> _Range:
        """Of the columns of sums."""
        rows = tuple(range(sums.ndim - 1))
        return cls(sums.amin(rows), sums.amax(rows), scale)


@dataclass(frozen=True)
class _Ranges:
    """State of `RangeRestriction`, without the bounds: keys and scales."""

    ranges: list[tuple[Count, int, Count, Positive]]


def product_bounds(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Magnitudes that no sum of a product can exceed, from what its operands are.

    The least of three bounds of Hoelder's inequality: lengths of row and column multiplied (Cauchy-Schwarz), and the
    sum of magnitudes of one times the largest magnitude of the other.

    Parameters
    ----------
    a, w : torch.Tensor
        int8 (B, M, K) and (B, K, N).

    Returns
    -------
    torch.Tensor
        float64 (B, M, N).
    """
    rows, columns = a.double().abs(), w.double().abs()
    lengths = rows.norm(dim=-1, keepdim=True) * columns.norm(dim=-2, keepdim=True)
    first = rows.sum(-1, keepdim=True) * columns.amax(-2, keepdim=True)
    second = rows.amax(-1, keepdim=True) * columns.sum(-2, keepdim=True)
    # Sums are whole numbers, and a root that is rounded must not exclude its own.
    return torch.minimum(torch.minimum(first, second), (lengths + 1e-6).floor())


class RangeRestriction(Strategy):
    """Sums out of the range of their column do not count (Ranger, arXiv 2003.13874, on products instead of layers).

    The range is that of the column in the last evaluation, as it was used, and somewhat more; a product's first
    evaluation is safe. Errors within the range stay. Products of attention, whose columns mean other things in each
    image, have no history: their sums become zero beyond what row and column of the operands can give.

    The host compares and writes here, and is charged for the sums that it reads and what it replaces. In hardware it
    would be two comparators in each lane of the drain, which suppress the write, and two bounds a column in a table,
    which two more comparators follow.

    Parameters
    ----------
    out_of_range : {"keep", "zero"}
        What becomes of a layer's sums out of range: the value of the last evaluation, or zero.
    margin : float
        How far a range reaches beyond each of its ends, over its width.
    """

    name = "range"
    reads_values = True
    priced_by_measurement = True

    def __init__(self, out_of_range: str = "keep", *, margin: float = 0.1) -> None:
        if out_of_range not in OUT_OF_RANGE:
            choices = ", ".join(map(repr, OUT_OF_RANGE))
            raise ValueError(f"out_of_range must be one of {choices}, not {out_of_range!r}")
        if not margin >= 0:
            raise ValueError(f"margin must not be negative, but is {margin!r}")
        self.out_of_range, self.margin = out_of_range, margin
        self._ranges: dict[HistoryKey, _Range] = {}
        self._compared, self._replaced = Counter[str](), Counter[str]()

    def begin_run(self, run: DriftRun) -> None:
        self._ranges.clear()
        self._compared.clear()
        self._replaced.clear()

    def measured(self) -> dict[str, float]:
        """``replaced.layer`` and ``replaced.attention``: share of the sums compared that were out of range."""
        return {f"replaced.{kind}": self._replaced[kind] / compared for kind, compared in self._compared.items()}

    def forget_product(self, number: int) -> None:
        self._ranges = {key: known for key, known in self._ranges.items() if key.product != number}

    def state(self) -> State:
        keys = [[*astuple(key), known.scale] for key, known in self._ranges.items()]
        tensors = dict[str, torch.Tensor]()
        for place, known in enumerate(self._ranges.values()):
            tensors |= {f"{place}.low": known.low, f"{place}.high": known.high}
        return State({"ranges": keys}, tensors)

    def load_state(self, state: State, run: DriftRun) -> None:
        ranges = check(state.values, _Ranges, "the state of the strategy").ranges
        forms = {
            f"{place}.{end}": Form(torch.int32, (None,)) for place in range(len(ranges)) for end in ("low", "high")
        }
        check_tensors(state.tensors, forms, "the state of the strategy")
        self._ranges = {
            HistoryKey(*key): _Range(state.tensors[f"{place}.low"], state.tensors[f"{place}.high"], scale)
            for place, (*key, scale) in enumerate(ranges)
        }

    def layer(self, run: DriftRun, call: ProductCall, point: OperatingPoint) -> torch.Tensor:
        key = call.history_key
        known = self._ranges.get(key)
        keeps = self.out_of_range == "keep"
        out, valid = run.history(call) if keeps else (run.scratch("sums", call), True)
        if run.is_safe(point) or known is None or not valid:
            if not run.is_safe(point):
                run.clean += 1
                point = run.safe
            run.run(call, out, point)
        else:
            known = known.at(call.scale)
            low, high = known.low.double(), known.high.double()
            reach = self.margin * (high - low)
            new = run.run(call, run.scratch("new sums", call) if keeps else out, point)
            outside = (new < low - reach) | (new > high + reach)
            self._charge(run, "layer", outside)
            out.copy_(torch.where(outside, out if keeps else torch.zeros_like(new), new))
        self._ranges[key] = _Range.of(out, call.scale)
        return out

    def attention_product(self, run: DriftRun, call: ProductCall, point: OperatingPoint, out: torch.Tensor) -> None:
        assert isinstance(call.w, torch.Tensor)
        run.run(call, out, point)
        outside = out.double().abs() > product_bounds(call.a, call.w)
        self._charge(run, "attention", outside)
        out.masked_fill_(outside, 0)

    def _charge(self, run: DriftRun, kind: str, outside: torch.Tensor) -> None:
        """Charge that all sums are read, and those outside written, with an old value that is read or with zero."""
        compared = outside.numel()
        replaced = round(run.expected(f"replaced.{kind}") * compared) if run.is_valueless else int(outside.sum())
        self._compared[kind] += compared
        self._replaced[kind] += replaced
        keeps = kind == "layer" and self.out_of_range == "keep"
        run.accelerator.add_host_traffic(SUM_BYTES * (compared + replaced * (2 if keeps else 1)))
