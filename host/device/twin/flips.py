"""Errors of the `flip` model in one product, found without looking at the product."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from .call import Call
from .checking import Matrix, check_errors
from .error_models import TWIN_ERROR_MODELS, TwinErrorModel
from .findings import DROPPED, Deltas, Errors, Findings
from .geometry import geometry
from .kernels import address, check_tables, load_kernels
from .structs import FlipTask, HitList

WORD_MASK = 0xFFFFFFFF

HIT_WORDS = 5
"""32-bit words kept for each hit: two for the change that it makes, then row, column and draw."""


@dataclass(frozen=True)
class Hits:
    """Draws that are errors, in order of rows, then columns of the drawn rectangle.

    Attributes
    ----------
    rows, cols : int32 arrays
        Indices into the rectangle.
    draws : uint32 array
        What was drawn.
    """

    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    draws: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Flips:
    """All errors of one product.

    Attributes
    ----------
    outputs : Hits
        Rows m, columns n.
    digits : Hits
        Rows group * digits + digit, columns n.
    checks : Hits
        Rows m, columns segment * checks + check.
    task : FlipTask
        The same for the kernels, with memory for what the errors change.
    held : tuple
        Keeps alive what `task` points to.
    """

    outputs: Hits
    digits: Hits
    checks: Hits
    task: FlipTask
    held: tuple[Any, ...]

    @property
    def injected(self) -> int:
        """Number of errors."""
        return len(self.outputs) + len(self.digits) + len(self.checks)


@dataclass(frozen=True)
class _Plan:
    """What products of one shape under the same rates have in common.

    Attributes
    ----------
    task : FlipTask
        With all that does not depend on the product.
    expected : tuple of float
        Errors to be expected: of outputs, digit rows and row checks.
    held : tuple
        Keeps alive what `task` points to.
    """

    task: FlipTask
    expected: tuple[float, ...]
    held: tuple[Any, ...]


@lru_cache(maxsize=256)
def _plan(config: AcceleratorConfig, m: int, n: int, domain_rates: tuple[int, ...], check: bool) -> _Plan:
    pieces = geometry(config, m, n)
    rates = np.array(domain_rates[:-1], np.uint32)[pieces.domains]
    task = FlipTask(m=m, n=n, rates=address(rates), razor=config.razor)
    per_row = float(rates.sum(dtype=np.float64)) / 2**32
    if config.checksum is None or not check:
        return _Plan(task, (m * per_row, 0, 0), (rates,))
    checksum, check_rate = config.checksum, domain_rates[-1]
    task.check_rate, task.digits, task.checks = check_rate, checksum.digits, checksum.checks
    task.group_count = len(pieces.group_first)
    task.group_first, task.group_rows = address(pieces.group_first), address(pieces.group_rows)
    task.segment_count, task.segment_starts = pieces.segments, address(pieces.segment_starts)
    tables = check_tables(config)
    task.segment_cols = checksum.segment_cols
    task.weights, task.widths, task.moduli = map(address, tables)
    digit_rows = task.group_count * checksum.digits
    expected = m * per_row, digit_rows * per_row, m * pieces.segments * checksum.checks * check_rate / 2**32
    return _Plan(task, expected, (rates, pieces, *tables))


def _lists(task: FlipTask) -> tuple[HitList, HitList, HitList]:
    return task.outputs, task.digit_hits, task.check_hits


def _allocate(task: FlipTask, capacities: list[int]) -> NDArray[np.int32]:
    """Memory for the hits of all three lists, and what they change: 64-bit words first."""
    store = np.empty(HIT_WORDS * sum(capacities), np.int32)
    changes = address(store)
    at = changes + 8 * sum(capacities)
    for hits, capacity in zip(_lists(task), capacities, strict=True):
        hits.capacity, hits.rows, hits.cols, hits.draws = capacity, at, at + 4 * capacity, at + 8 * capacity
        at += 12 * capacity
    outputs, digits, checks = (8 * capacity for capacity in capacities)
    task.output_deltas, task.check_deltas = changes, changes + outputs
    task.digit_deltas = changes + outputs + checks
    task.digit_groups = task.digit_deltas + digits // 2
    return store


def _views(task: FlipTask, store: NDArray[np.int32]) -> list[Hits]:
    views, lists = [], _lists(task)
    at = 2 * sum(hits.capacity for hits in lists)
    for hits in lists:
        capacity, found = hits.capacity, hits.found
        rows, cols, draws = (store[at + i * capacity : at + i * capacity + found] for i in range(3))
        views.append(Hits(rows, cols, draws.view(np.uint32)))
        at += 3 * capacity
    return views


def draw_flips(config: AcceleratorConfig, m: int, n: int, call: Call) -> Flips:
    """Draw all errors of one product.

    Parameters
    ----------
    config : AcceleratorConfig
    m, n : int
        Extents of the product.
    call : Call
        Its command and place in it.
    """
    options, errors = call.options, call.errors
    rates = tuple(errors.rate_of(domain) for domain in range(config.check_domain + 1))
    plan = _plan(config, m, n, rates, options.check)
    task = FlipTask.from_buffer_copy(plan.task)
    task.seed, task.error_key = errors.seed & WORD_MASK, options.error_key & WORD_MASK
    task.first_row, task.first_col = call.first_row & WORD_MASK, options.first_col & WORD_MASK
    task.threads = call.threads
    capacities = [int(count + 8 * math.sqrt(count)) + 16 if count else 0 for count in plan.expected]
    while True:
        store = _allocate(task, capacities)
        load_kernels().brownout_draw(task)
        found = [hits.found for hits in _lists(task)]
        if all(count <= capacity for count, capacity in zip(found, capacities, strict=True)):
            outputs, digits, checks = _views(task, store)
            return Flips(outputs, digits, checks, task, (plan, store))
        capacities = [max(count, capacity) for count, capacity in zip(found, capacities, strict=True)]


def inject_flips(
    config: AcceleratorConfig,
    a: NDArray[np.int8],
    w: NDArray[np.int8],
    sums: Matrix,
    flips: Flips,
    call: Call,
) -> Findings:
    """Put the errors of the `flip` model into a product, or with ``razor`` drop what errs; check and correct it.

    Parameters
    ----------
    config : AcceleratorConfig
    a, w : int8 arrays (M, K), (K, N)
        Any strides.
    sums : int32 array (M, N)
        The clean product; rows without gaps. Afterwards as the drain sees it, with errors and corrections.
    flips : Flips
        Draws that `draw_flips` has made.
    call : Call
        Command of the product and its place in it.
    """
    task = flips.task
    if flips.injected:
        thresholds = _thresholds(call.errors.bits)
        task.y, task.thresholds = address(sums), address(thresholds)
        task.a, (task.a_row, task.a_col) = address(a), a.strides
        task.w, (task.w_row, task.w_col), task.k = address(w), w.strides, a.shape[1]
        load_kernels().brownout_flip(task)
    outputs, digits, checks = task.outputs, task.digit_hits, task.check_hits
    errors = Errors(
        outputs=Deltas(outputs.found, outputs.rows, outputs.cols, task.output_deltas, held=flips.held),
        checks=Deltas(checks.found, checks.rows, checks.cols, task.check_deltas, held=flips.held),
        digits=Deltas(digits.found, task.digit_groups, digits.cols, task.digit_deltas, True, flips.held),
        injected=flips.injected,
    )
    if not config.razor:
        return check_errors(config, sums, errors, call)
    findings = check_errors(config, sums, dataclasses.replace(errors, outputs=_changed(errors.outputs)), call)
    findings.counts[DROPPED] = outputs.found + digits.found
    # Where a sum was zero, dropping it is no error, but a fact by which products can be compared.
    findings.errors = errors
    return findings


def _changed(deltas: Deltas) -> Deltas:
    """Those that are not zero."""
    rows, cols, changes = deltas.arrays()
    kept = np.flatnonzero(changes)
    return Deltas.of(rows[kept].astype(np.int32), cols[kept].astype(np.int32), changes[kept])


@lru_cache(maxsize=64)
def _thresholds(bits: tuple[int, ...]) -> NDArray[np.uint32]:
    return np.array(bits, np.uint32)


@TWIN_ERROR_MODELS.register
class FlipTwin(TwinErrorModel):
    """Inverted bits, from draws."""

    name = "flip"

    def draw(self, config: AcceleratorConfig, m: int, n: int, call: Call) -> Flips:
        return draw_flips(config, m, n, call)

    def inject(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        sums: Matrix,
        drawn: Flips,
        call: Call,
    ) -> Findings:
        return inject_flips(config, a, w, sums, drawn, call)
