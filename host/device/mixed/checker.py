"""Replays a pass on the RTL and on a second twin, and compares both with each other and with the whole product."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brownout.cosim.dram import BANDWIDTH_ONE, MemoryTiming
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import ErrorState, column_domain

from ..backends.base import Backend
from ..backends.rtl import RtlBackend
from ..backends.twin import TwinBackend
from ..product.compare import first_difference
from ..product.operands import Product
from ..product.protection import parse_log
from ..twin.findings import TRUTH, Findings
from ..twin.kernels import modulus_of
from .case import Case, Result
from .passes import TileErrors, tile_map

COUNTED_TOGETHER = 16
"""Passes after which counters are compared: to read them from the RTL takes longer than a pass."""


class ObservedTwin(TwinBackend):
    """A twin that remembers what erred in its last call.

    Attributes
    ----------
    findings : list of Findings
        Of each product of the batch; empty if nothing can err.
    """

    findings: list[Findings]

    def gemm(self, product: Product) -> bytes:
        self.findings = []
        return super().gemm(product)

    def compute(self, product: Product) -> bytes:
        self.findings = []
        return super().compute(product)

    def _observe(self, findings: Findings) -> None:
        self.findings.append(findings)


@dataclass(frozen=True)
class Verdict:
    """What came of the replay of a pass.

    Attributes
    ----------
    case : Case
        What was replayed; the k-tile has been found.
    difference : str or None
        The first one, in words; None if there is none.
    expected : Result
        Of the twin.
    faulty : bool
        Whether something erred in the pass.
    rtl_cycles : int
        Cycles of the pass.
    rtl_wall_s : float
        Seconds that it took there.
    """

    case: Case
    difference: str | None
    expected: Result
    faulty: bool
    rtl_cycles: int
    rtl_wall_s: float


class Checker:
    """Replays passes. Not for several threads at once.

    Parameters
    ----------
    config : AcceleratorConfig
    start : callable
        Starts the RTL, which is used for nothing else and closed with this.
    layout : {"row-major", "tiled"}
        How matrices lie in the memory of the RTL.
    """

    def __init__(
        self, config: AcceleratorConfig, start: Callable[[], RtlBackend], *, layout: str = "row-major"
    ) -> None:
        self.config, self._start, self._layout = config, start, layout
        # For sums of more than one pass: counts nothing that is compared.
        self._whole = ObservedTwin(config)
        self._begin()

    def _begin(self) -> None:
        self._uncounted: list[Case] = []
        # In step with the RTL, whose counters depend on what was done before.
        self._twin = ObservedTwin(self.config, layout=self._layout)
        self._state = ErrorState()
        self._rtl = self._start()
        try:
            # No result depends on the memory's timing, and to simulate waiting costs more than the pass.
            fastest = MemoryTiming(1, 2 * self.config.bus_bytes * BANDWIDTH_ONE)
            for backend in (self._rtl, self._twin):
                backend.set_memory_timing(fastest)
            self._before = self._counters()
            self._counted = self._twin.counters()
        except BaseException:
            self._rtl.close()
            raise

    def _counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """Of the RTL and of the twin; what only the host knows is left out."""
        on_rtl, on_twin = self._rtl.counters(), self._twin.counters()
        names = [name for name in on_rtl if name not in TRUTH]
        return {name: on_rtl[name] for name in names}, {name: on_twin[name] for name in names}

    def check(self, case: Case) -> Verdict:
        """Replay one pass. Counters are compared after every `COUNTED_TOGETHER` passes, and by `finish`.

        Raises
        ------
        brownout.cosim.errors.SimulatorError
            The simulator died, hung or refused the command.
        """
        verdict = self._replay(case)
        if verdict.difference is not None:
            return verdict
        self._uncounted.append(verdict.case)
        if len(self._uncounted) < COUNTED_TOGETHER:
            return verdict
        found = self.finish() or verdict
        return dataclasses.replace(verdict, case=found.case, difference=found.difference, expected=found.expected)

    def finish(self) -> Verdict | None:
        """Compare the counters of the passes since they were compared last; None if they are the same.

        If they are not, the passes are replayed one by one, and the verdict is on the first that differs alone.

        Raises
        ------
        brownout.cosim.errors.SimulatorError
            As for `check`.
        """
        cases, self._uncounted = self._uncounted, []
        difference = self._compare_counters() if cases else None
        if difference is None:
            return None
        for case in cases:
            verdict = self._replay(case)
            alone = self._compare_counters()
            if verdict.difference is not None or alone is not None:
                return dataclasses.replace(verdict, difference=verdict.difference or alone)
        return dataclasses.replace(
            verdict, difference=f"{difference}, of the last {len(cases)} passes, but of none alone"
        )

    def _replay(self, case: Case) -> Verdict:
        self._whole.settings.errors = case.state
        if case.search:
            case = self._find(case)
        for backend in (self._rtl, self._twin):
            self._move(backend, case.state)
        self._state = case.state
        first = case.product(case.k_tile, 1)
        second = dataclasses.replace(first, out=first.out.clone())
        began = time.perf_counter()
        log = self._rtl.execute(first)
        seconds = time.perf_counter() - began
        expected_log = self._twin.gemm(second)
        findings, before = self._twin.findings, self._counted
        self._counted = self._twin.counters()
        grown = {name: value - before[name] for name, value in self._counted.items() if name not in TRUTH}
        got, expected = Result(first.out[0], log, {}), Result(second.out[0], expected_log, grown)
        difference = compare(self.config, expected, got)
        if difference is None:
            difference = self._compare_whole(case, findings)
        faulty = any(found.counts["injected"] for found in findings)
        return Verdict(case, difference, expected, faulty, grown["cycles"], seconds)

    def _compare_counters(self) -> str | None:
        """First counter that has not grown alike since they were compared last."""
        before, self._before = self._before, self._counters()
        on_rtl, on_twin = (
            {name: value - earlier[name] for name, value in counts.items()}
            for counts, earlier in zip(self._before, before, strict=True)
        )
        return _compare_counts(on_twin, on_rtl, ("twin", "RTL"))

    def _move(self, backend: Backend, state: ErrorState) -> None:
        """Bring a device to the operating points of a case. Transitions take no time: nobody waits for them here."""
        now = self._state
        if self.config.error_model.draws:
            wanted = state.seed, state.rates, state.bits
            if wanted != (now.seed, now.rates, now.bits):
                backend.set_errors(*wanted)
        for domain in range(self.config.domains):
            point = _point(state, domain)
            lengths = _lengths(self.config, state, domain)
            known = _lengths(self.config, now, domain)
            same = lengths is None or (known is not None and np.array_equal(lengths, known))
            if point != _point(now, domain) or not same:
                backend.set_point(domain, point, lengths=state.lengths)

    def _injected(self, product: Product) -> int:
        self._whole.compute(product)
        return sum(found.counts["injected"] for found in self._whole.findings)

    def _find(self, case: Case) -> Case:
        """The case at a k-tile in which something errs, by halving, always towards `Case.k_tile` if that is possible.

        Errors of passes add up, so of two halves at least one errs.
        """
        first, count = 0, case.k_tiles
        while count > 1:
            half = count // 2
            parts = [(first, half), (first + half, count - half)]
            if case.k_tile >= first + half:
                parts.reverse()
            first, count = parts[0] if self._injected(case.product(*parts[0])) else parts[1]
        return dataclasses.replace(case, k_tile=first, search=False)

    def _compare_whole(self, case: Case, of_pass: list[Findings]) -> str | None:
        """Whether the pass is a part of the product that it was cut from."""
        tile = case.product()
        self._whole.compute(tile)
        if (difference := first_difference(case.output, tile.out[0], self.config)) is not None:
            return f"output of the product (expected) and of this tile alone: {difference}"
        if case.errors is None:
            return None
        places = tile_map(self.config, case.tile.rows, case.tile.cols)
        if text := _unequal(case.errors, places.errors_in(places.locate(self._whole.findings[0]), 0), _same):
            return f"errors of the product and of this tile alone: {text}"
        here = places.errors_in(places.locate(of_pass[0]), 0)
        if self.config.error_model.draws:
            text = _unequal(case.errors, here, _same_dropped if self.config.razor else _same_bits)
            return f"errors of the product in this tile and of the pass: {text}" if text else None
        self._whole.compute(case.rest())
        rest = places.errors_in(places.locate(self._whole.findings[0]), 0)
        text = _unadded(self.config, case.errors, here, rest)
        return f"errors of the product in this tile, and of the pass and all others: {text}" if text else None

    def restart(self) -> None:
        """Start the RTL anew."""
        self._rtl.close()
        self._begin()

    def interrupt(self) -> None:
        """Let a replay in another thread fail at once."""
        self._rtl.interrupt()

    def close(self) -> None:
        """End the simulator."""
        self._rtl.close()
        self._twin.close()
        self._whole.close()


def compare(
    config: AcceleratorConfig,
    expected: Result,
    got: Result,
    names: tuple[str, str] = ("twin", "RTL"),
) -> str | None:
    """First difference between two results of a pass, in words; None if there is none.

    Parameters
    ----------
    config : AcceleratorConfig
    expected, got : Result
        Counters are compared if the second has any.
    names : (str, str)
        What the two are called.
    """
    first, second = names
    if (difference := first_difference(expected.output, got.output, config)) is not None:
        return f"output, {first} (expected) and {second}: {difference}"
    if expected.log != got.log:
        logs = [parse_log(result.log, config.log_record_bytes) for result in (expected, got)]
        index = next((i for i, pair in enumerate(zip(*logs, strict=False)) if pair[0] != pair[1]), None)
        if index is None:
            return f"log: {len(logs[0])} records ({first}), {len(logs[1])} records ({second})"
        return f"log record {index}: {logs[0][index]} ({first}), {logs[1][index]} ({second})"
    return _compare_counts(expected.counters, got.counters, names) if got.counters else None


def _compare_counts(expected: Mapping[str, int], got: Mapping[str, int], names: tuple[str, str]) -> str | None:
    for name, value in expected.items():
        if got[name] != value:
            return f"counter {name!r}: {value} ({names[0]}), {got[name]} ({names[1]})"
    return None


def _point(state: ErrorState, domain: int) -> int:
    return state.points[domain] if domain < len(state.points) else 0


def _lengths(config: AcceleratorConfig, state: ErrorState, domain: int) -> NDArray[np.uint8] | None:
    """Settled carry lengths of a domain's columns."""
    if state.lengths is None:
        return None
    columns = [column for column in range(state.lengths.shape[1]) if column_domain(config, column) == domain]
    return state.lengths[:, columns]


_KINDS = ("outputs", "checks", "digits")

_Same = Callable[[str, NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


def _same(kind: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    return (first == second).all(axis=0)


def _same_bits(kind: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the same bits were inverted at the same places, whatever the sums were."""
    sizes = []
    for deltas in (first[2], second[2]):
        # Those of digit rows are modulo 2^32: the sign is in the highest bits.
        sizes.append(np.minimum(deltas, (1 << 32) - deltas) if kind == "digits" else np.abs(deltas))
    return (first[:2] == second[:2]).all(axis=0) & (sizes[0] == sizes[1])


def _same_dropped(kind: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the same sums were dropped, and bits of checks inverted, whatever the sums were."""
    return _same_bits(kind, first, second) if kind == "checks" else (first[:2] == second[:2]).all(axis=0)


def _unequal(whole: TileErrors, part: TileErrors, same: _Same) -> str | None:
    for kind in _KINDS:
        first, second = getattr(whole, kind), getattr(part, kind)
        count = min(first.shape[1], second.shape[1])
        wrong = np.flatnonzero(~same(kind, first[:, :count], second[:, :count]))
        if len(wrong) or first.shape != second.shape:
            index = int(wrong[0]) if len(wrong) else count
            counts = f"{first.shape[1]} and {second.shape[1]} errors"
            return f"{kind}: {counts}, first {_at(first, index)} and {_at(second, index)}"
    return None


def _at(errors: NDArray[np.int64], index: int) -> str:
    if index >= errors.shape[1]:
        return "none"
    row, col, delta = (int(value) for value in errors[:, index])
    return f"{delta} at ({row}, {col})"


def _unadded(config: AcceleratorConfig, whole: TileErrors, one: TileErrors, rest: TileErrors) -> str | None:
    """First place where the errors of a pass and of the rest are not those of the product."""
    for kind in _KINDS:
        parts = [getattr(errors, kind) for errors in (one, rest, whole)]
        places = np.concatenate([part[:2] for part in parts], axis=1)
        if not places.size:
            continue
        sums = np.zeros(places.max(axis=1) + 1, np.int64)
        for part, sign in zip(parts, (1, 1, -1), strict=True):
            np.add.at(sums, (part[0], part[1]), sign * part[2])
        wrong = np.argwhere(sums % _moduli(config, kind, sums.shape[1]))
        if len(wrong):
            row, col = (int(value) for value in wrong[0])
            return f"{kind}: at ({row}, {col}) the product lacks {int(sums[row, col])}"
    return None


def _moduli(config: AcceleratorConfig, kind: str, columns: int) -> NDArray[np.int64]:
    """What the sums of each column are computed modulo."""
    if kind != "checks":
        return np.full(columns, 1 << 32, np.int64)
    checksum = config.checksum
    assert checksum is not None
    per_check = [modulus_of(checksum, j) or 1 << checksum.check_bits(j) for j in range(checksum.checks)]
    return np.array([per_check[column % checksum.checks] for column in range(columns)], np.int64)
