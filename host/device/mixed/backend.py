"""Products on the twin, of which chosen passes are executed by the RTL too, and compared: see docs/mixed.md."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.cache import results_root
from brownout.cosim.dram import MemoryTiming
from brownout.cosim.errors import BuildFolderError
from brownout.cosim.logs import writable_folder
from brownout.hw.config import AcceleratorConfig

from ...errors import MismatchError
from ...storage.state import State
from ..backends.base import Backend, device_lock
from ..backends.rtl import RtlBackend
from ..product.operands import Product, ResidentWeights
from ..product.reload import Places
from .case import Case, cut, save_case
from .checker import Checker, ObservedTwin, Verdict
from .options import Coverage, MixedOptions
from .passes import choose, pass_count, tile_map

REPLAYED_TOGETHER = 8
"""Passes that are gathered: one after the other they take a third less time than between large products, which leave
nothing of the simulator in the caches."""


class MixedBackend(Backend):
    """Computes on the twin; a thread of its own replays chosen passes on the RTL while the twin goes on.

    What a replay finds is raised by the next call after it has ended. Passes are gathered, and replayed when those
    before have been.

    Parameters
    ----------
    config : AcceleratorConfig
    options : MixedOptions
    start : callable
        Function that starts the backend of the RTL.
    layout : {"row-major", "tiled"}
        How matrices lie in the memory of twin and RTL.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed. Replayed pieces have one column tile, and so one order.

    Raises
    ------
    ValueError
        Faulty passes are wanted, but nothing can err; or the accelerator has an attention unit.
    """

    name = "mixed"

    def __init__(
        self,
        config: AcceleratorConfig,
        options: MixedOptions,
        start: Callable[[], RtlBackend],
        *,
        layout: str = "row-major",
        loop_order: str = "searched",
    ) -> None:
        if config.attention:
            raise ValueError(
                "backend='mixed' replays products, not attention on the chip, and without the unit images are others; "
                "choose backend='twin' or 'rtl', or an AcceleratorConfig with attention=False"
            )
        if options.selection == "faulty" and not config.error_model.errs:
            raise ValueError(
                "MixedOptions.selection='faulty' needs an AcceleratorConfig with a timing_model, in which passes can "
                "be faulty; choose selection='random'"
            )
        self.config, self.options = config, options
        self._twin = ObservedTwin(config, layout=layout, loop_order=loop_order)
        self._checker = Checker(config, start, layout=layout)
        self._worker = ThreadPoolExecutor(1, "brownout-replay")
        # Products of one pass are not worth threads that the next large product wants. Torch makes the number that is
        # set last that of all threads to come.
        threads = torch.get_num_threads()
        self._worker.submit(torch.set_num_threads, 1).result()
        torch.set_num_threads(threads)
        # A product, what erred in it, the choice of its passes and their replay belong together.
        self._lock = device_lock()
        self._waiting: list[Case] = []
        self._open: Future[list[Verdict]] | None = None
        self._failure: BaseException | None = None
        self._told = True
        self._chosen = 0
        self._coverage = Coverage()
        self._closed = False

    @property
    def coverage(self) -> Coverage:
        """How much has been replayed; waits for what is open.

        Raises
        ------
        MismatchError, brownout.cosim.errors.SimulatorError
            What the replays have found, unless it was raised before.
        """
        with self._lock:
            self._settle()
            self._tell()
            return self._coverage

    def check_device(self, name: str, device: torch.device) -> None:
        self._twin.check_device(name, device)

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        with self._lock:
            weights = self._twin.upload(w)
        weights.backend = self
        return weights

    def gemm(self, product: Product) -> bytes:
        with self._lock:
            self._poll()
            if self._failure is not None:
                self._told = True
                raise self._failure
            log = self._twin.gemm(product)
            cases = self._choose(product)
            self._waiting += cases
            if len(self._waiting) >= REPLAYED_TOGETHER:
                self._collect()
                self._tell()
                self._begin()
            return log

    def blocks_of(self, product: Product) -> AcceleratorConfig:
        return self._twin.blocks_of(product)

    def _begin(self) -> None:
        """Let the worker replay what waits."""
        cases, self._waiting = self._waiting, []
        self._open = self._worker.submit(self._replay, cases)

    def _choose(self, product: Product) -> list[Case]:
        shape, seen = product.shape, self._coverage
        blocks = self._twin.blocks_of(product)
        places = tile_map(blocks, shape.m, shape.n)
        located = [places.locate(found) for found in self._twin.findings]
        faulty = [places.faulty(found) for found in located]
        number = seen.products
        self._coverage = dataclasses.replace(
            seen,
            products=number + 1,
            passes=seen.passes + pass_count(blocks, shape),
            faulty_seen=seen.faulty_seen + sum(map(len, faulty)),
        )
        left = None if self.options.max_passes is None else self.options.max_passes - self._chosen
        chosen = choose(blocks, self.options, shape, number, faulty)[:left]
        self._chosen += len(chosen)
        return [
            cut(
                self.config,
                product,
                places.tile(choice.tile, choice.batch),
                choice.k_tile,
                choice.search,
                number,
                self._twin.errors,
                places.errors_in(located[choice.batch], choice.tile) if located else None,
            )
            for choice in chosen
        ]

    def _replay(self, cases: Sequence[Case]) -> list[Verdict]:
        """In the worker: up to the first difference."""
        verdicts = []
        # Their tensors may have been made in inference mode, which is each thread's own.
        with torch.inference_mode():
            for case in cases:
                verdicts.append(self._checker.check(case))
                if verdicts[-1].difference is not None:
                    break
        return verdicts

    def _finish(self) -> Verdict | None:
        with torch.inference_mode():
            return self._checker.finish()

    def _poll(self) -> None:
        if self._open is not None and self._open.done():
            self._collect()

    def _collect(self) -> None:
        """Wait for the open replays, and count them."""
        if self._open is None:
            return
        try:
            verdicts = self._open.result()
        except Exception as error:
            self._open = None
            self._fail(error)
            return
        self._open = None
        seen = self._coverage
        self._coverage = dataclasses.replace(
            seen,
            replayed=seen.replayed + len(verdicts),
            faulty_replayed=seen.faulty_replayed + sum(verdict.faulty for verdict in verdicts),
            mismatches=seen.mismatches + sum(verdict.difference is not None for verdict in verdicts),
            rtl_cycles=seen.rtl_cycles + sum(verdict.rtl_cycles for verdict in verdicts),
            rtl_wall_s=seen.rtl_wall_s + sum(verdict.rtl_wall_s for verdict in verdicts),
        )
        if verdicts and verdicts[-1].difference is not None:
            self._fail(self._mismatch(verdicts[-1]))

    def _settle(self) -> None:
        """Replay what waits, and compare the counters of the last ones."""
        self._collect()
        if self._failure is None and self._waiting:
            self._begin()
            self._collect()
        if self._failure is not None:
            return
        try:
            verdict = self._worker.submit(self._finish).result()
        except Exception as error:
            self._fail(error)
            return
        if verdict is not None:
            self._coverage = dataclasses.replace(self._coverage, mismatches=self._coverage.mismatches + 1)
            self._fail(self._mismatch(verdict))

    def _fail(self, error: Exception) -> None:
        self._failure, self._told = error, False

    def _tell(self) -> None:
        """Raise what was found, once."""
        if self._failure is not None and not self._told:
            self._told = True
            raise self._failure

    def _mismatch(self, verdict: Verdict) -> MismatchError:
        case, difference = verdict.case, str(verdict.difference)
        tile = case.tile
        place = f"b{tile.batch}-r{tile.first_row}-c{tile.first_col}-k{case.k_tile}"
        try:
            folder = self.options.folder
            if folder is None:
                folder = writable_folder(results_root() / "mismatches")
            path = folder.resolve() / f"product-{case.number}-{place}-{os.getpid()}.safetensors"
            save_case(path, case, difference, verdict.expected)
        except (OSError, BuildFolderError) as error:
            return MismatchError(f"{case}", difference, None, str(error))
        return MismatchError(f"{case}", difference, path)

    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        with self._lock:
            self._twin.copy(source, target, places)

    def set_memory_timing(self, timing: MemoryTiming) -> None:
        # Replays have their own, on which no result depends.
        with self._lock:
            self._twin.set_memory_timing(timing)

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        with self._lock:
            self._twin.set_errors(seed, rates, bits)

    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        with self._lock:
            self._twin.set_point(domain, point, transition_cycles=transition_cycles, lengths=lengths)

    def counters(self) -> Mapping[str, int]:
        with self._lock:
            self._poll()
            self._tell()
            return self._twin.counters()

    def check_counts(self) -> Mapping[str, int]:
        with self._lock:
            return self._twin.check_counts()

    def restart(self) -> None:
        """Start twin and RTL anew. Coverage goes on.

        Raises
        ------
        MismatchError
            An open replay has found one; nothing has been restarted, and calling again does it.
        """
        with self._lock:
            self._restart_checker()
            self._twin.restart()

    def _restart_checker(self) -> None:
        self._settle()
        if isinstance(self._failure, MismatchError):
            self._tell()
        self._checker.restart()
        self._waiting.clear()
        self._failure, self._told = None, True

    def state(self) -> State:
        with self._lock:
            return self._twin.state()

    def load_state(self, state: State) -> None:
        """Start twin and RTL anew, the twin with a state; raises as `restart`."""
        with self._lock:
            self._restart_checker()
            self._twin.load_state(state)

    def close(self) -> None:
        """Wait for the open replays and end the simulator.

        Raises
        ------
        MismatchError, brownout.cosim.errors.SimulatorError
            What the replays have found, unless it was raised before; everything is closed all the same.
        """
        self._lock.close(self._free, self._interrupt)

    def _interrupt(self) -> None:
        self._checker.interrupt()

    def _free(self) -> None:
        if self._closed:
            return
        self._closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(self._tell)
            stack.callback(self._twin.close)
            stack.callback(self._checker.close)
            stack.callback(self._worker.shutdown)
            self._settle()
