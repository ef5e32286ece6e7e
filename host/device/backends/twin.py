"""Products on the functional twin: the bits of the RTL at the speed of PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.cycle_model import Command, CycleModel, Found, Runs
from brownout.cosim.dram import MemoryTiming
from brownout.hw.commands import GemmFlag, SetPointCommand
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK

from ...storage.state import State
from ..product.attention import Attended, Attention
from ..product.operands import GemmShape, Product, ResidentWeights, Tally
from ..product.reload import Places
from ..twin.call import Call
from ..twin.error_models import TWIN_ERROR_MODELS
from ..twin.findings import COUNTERS, DROPPED, TRUTH, Findings
from ..twin.geometry import geometry
from ..twin.history import OverwrittenValues
from ..twin.matmul import exact_matmul
from ..twin.requantise import add_bias_, requantise
from ..twin.softmax import exponentials, means
from .base import Backend, device_lock
from .layout import Layout
from .settings import DeviceSettings

LOAD_ALONE = (os.cpu_count() or 1) + 0.5
"""Load average beyond which others are at work too: alone, the twin keeps all cores busy."""

MOST_UNTIMED_BYTES = 1 << 26
"""Memory of commands that wait for the cycle model, with what the checks found in them: some 60,000, fewer with
errors."""

COMMAND_BYTES = 1 << 10
"""Memory of a command alone, about."""

MOST_SCORES = 1 << 20
"""Scores of attention at once, at least those of a block."""


class TwinBackend(Backend):
    """Computes on whatever torch device the operands are on.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator whose counters are reproduced.
    layout : {"row-major", "tiled"}
        How matrices lie in its memory.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed.

    Attributes
    ----------
    settings : DeviceSettings
        What it has been told.
    """

    name = "twin"
    attends = True

    def __init__(self, config: AcceleratorConfig, *, layout: str = "row-major", loop_order: str = "searched") -> None:
        self.config, self._errs = config, config.error_model.errs
        if self._errs:
            # That it is there is known before anything is computed.
            TWIN_ERROR_MODELS.get(config.timing_model)
        self._cycle_model = CycleModel(config)
        # The command ring begins where usable memory ends.
        self._layout = Layout(config, self._cycle_model.ring_base, layout, loop_order)
        # Known names from the start, so that a counter never appears out of nothing.
        self._names = (
            *(COUNTERS if config.checksum is not None else ()),
            *((DROPPED,) if config.razor else ()),
            *(TRUTH if self._errs else ()),
        )
        # Buffers and counters are shared by calls from several threads.
        self._lock = device_lock()
        # Commands whose time nobody has asked for yet: to know it takes longer than the product itself when there are
        # errors.
        self._untimed: list[tuple[Command, Found | Runs | None, Tally | None]] = []
        self._scratch: dict[str, torch.Tensor] = {}
        self.settings = DeviceSettings(config)
        self.restart()

    @property
    def errors(self) -> ErrorState:
        """By which products err."""
        return self.settings.errors

    def check_device(self, name: str, device: torch.device) -> None:
        if device.type == "meta":
            raise ValueError(f"{name} must hold data, but is on the meta device; make it on another device")

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        # Column-major: as fast as row-major for many rows of activations, three times as fast for one.
        values = w.detach().mT.clone(memory_format=torch.contiguous_format).mT
        weights = ResidentWeights(self, values if values.ndim == 3 else values.unsqueeze(0), tuple(w.shape))
        with self._lock:
            self._layout.place_weights(weights)
        return weights

    def gemm(self, product: Product) -> bytes:
        with self._lock:
            # Nothing lies in this memory: where it would be is enough to know the time.
            command = self._layout.command(product)
            log, found = self._compute(product)
            self._time(command, found, product.tally)
        return log

    def _time(self, command: Command, found: Found | Runs | None = None, tally: Tally | None = None) -> None:
        self._untimed.append((command, found, tally))
        held = COMMAND_BYTES
        if found is not None:
            held += sum(array.nbytes for array in vars(found).values())
        self._untimed_bytes += held
        if self._untimed_bytes >= MOST_UNTIMED_BYTES:
            self._catch_up()

    def _catch_up(self) -> None:
        """Let the cycle model run what has been done since it last ran."""
        for command, found, tally in self._untimed:
            counts = self._cycle_model.run([command], [found])
            if tally is not None:
                tally.cycles += counts["cycles"]
        self._forget_untimed()

    def _forget_untimed(self) -> None:
        self._untimed.clear()
        self._untimed_bytes = 0

    def follow(self, command: Command, found: Found | Runs | None = None) -> None:
        """Note a command that another backend has carried out; `found` as `find` returns it."""
        with self._lock:
            self._time(command, found)

    def find(self, product: Product) -> Found | None:
        """Fill ``product.out`` and count errors, as `compute`; what the cycle model has to know of it."""
        with self._lock:
            return self._compute(product)[1]

    def compute(self, product: Product) -> bytes:
        """Fill ``product.out`` and count errors, without the time and the memory that it takes."""
        with self._lock:
            return self._compute(product)[0]

    def _compute(self, product: Product) -> tuple[bytes, Found | None]:
        """The log, and what the cycle model has to know."""
        shape, options = product.shape, product.options
        w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
        if not self._errs:
            # Nothing can err, so there is nothing to find either.
            for index in range(shape.batch):
                self._clean(product, product.a[index], w[index], product.out[index])
            if self.config.checksum is not None and options.check:
                self._counts["checks"] += shape.batch * shape.m * self._segments(shape.n)
            return b"", None
        room = options.log_bytes // self.config.log_record_bytes
        log = b""
        cut = self._layout.blocks_of(product)
        pieces = geometry(cut, shape.m, shape.n)
        records: list[NDArray[np.uint64]] = []
        suppressed: list[NDArray[np.uint64]] = []
        for index in range(shape.batch):
            a, b, out = product.a[index], w[index], product.out[index]
            # All that the hardware keeps of each block, whether it is written or not: writing takes time.
            most = LOG_RECORDS_PER_BLOCK * pieces.blocks
            call = Call(options, self.errors, options.first_row + index * shape.m, most, self._threads())
            findings = self._erring(product, a, b, out, call, cut)
            self._observe(findings)
            records.append(findings.block_records)
            if options.suppress:
                places = (index * shape.m + findings.uncorrectable_rows.astype(np.uint64)) * np.uint64(shape.n)
                suppressed.append(places + findings.uncorrectable_cols.astype(np.uint64))
            written = findings.log[: room * self.config.log_record_bytes - len(log)]
            unwritten = (len(findings.log) - len(written)) // self.config.log_record_bytes
            findings.counts["log_records"] -= unwritten
            findings.counts["log_dropped"] += unwritten
            log += written
            self._add(findings.counts)
        if not any(counts.any() for counts in records):
            return log, None
        return log, Found(np.concatenate(records), np.concatenate(suppressed) if suppressed else np.zeros(0, np.uint64))

    def blocks_of(self, product: Product) -> AcceleratorConfig:
        with self._lock:
            return self._layout.blocks_of(product)

    def attention(self, attention: Attention) -> Attended:
        with self._lock:
            command = self._layout.attention_command(attention)
            attended, found = self._attend(attention)
            self._time(command, found, attention.tally)
        return attended

    def find_attention(self, attention: Attention) -> Found | None:
        """Fill ``attention.out`` and count errors; what the cycle model has to know of it."""
        with self._lock:
            return self._attend(attention)[1]

    def _attend(self, attention: Attention) -> tuple[Attended, Found | None]:
        """What is told, and what the cycle model has to know."""
        values, heads, queries = attention.value_shape, attention.q.shape[0], attention.q.shape[1]
        room = attention.values.log_bytes // self.config.log_record_bytes
        log = b""
        records: list[NDArray[np.uint64]] = []
        suppressed: list[NDArray[np.uint64]] = []
        # Many blocks at once, because a block may be of few rows; a shorter one at the end, alone.
        whole = queries - queries % attention.block_rows
        at_once = attention.block_rows * max(1, MOST_SCORES // (attention.block_rows * values.k))
        pieces = [slice(first, min(first + at_once, whole)) for first in range(0, whole, at_once)]
        if whole < queries:
            pieces.append(slice(whole, queries))
        for head in range(heads):
            for rows in pieces:
                findings = self._attend_rows(attention, head, rows)
                records.append(findings.block_records)
                if attention.values.suppress:
                    row = head * queries + rows.start + findings.uncorrectable_rows.astype(np.uint64)
                    places = row * np.uint64(values.n) + findings.uncorrectable_cols.astype(np.uint64)
                    suppressed.append(places)
                size = self.config.log_record_bytes
                written = findings.log[: room * size - len(log)]
                unwritten = (len(findings.log) - len(written)) // size
                findings.counts["log_records"] -= unwritten
                findings.counts["log_dropped"] += unwritten
                log += written
                self._add(findings.counts)
        if not any(counts.any() for counts in records):
            return Attended(log), None
        places = np.concatenate(suppressed) if suppressed else np.zeros(0, np.uint64)
        return Attended(log, len(places)), Found(np.concatenate(records), places)

    def _attend_rows(self, attention: Attention, head: int, rows: slice) -> Findings:
        """Both products of whole blocks of queries; returns what the checks made of the second."""
        q, k, v = attention.q[head, rows], attention.k[head].mT, attention.v[head]
        first_row = attention.scores.first_row + head * attention.q.shape[1] + rows.start
        # Both are corrected here; what becomes of marked elements comes after.
        kept = GemmFlag.CHECK | GemmFlag.CORRECT
        cut = replace(self.config, block_rows=attention.block_rows)
        options = replace(attention.scores, flags=attention.scores.flags & kept)
        scores, marks = self._sums(cut, q, k, options, first_row)
        for name in ("log_records", "log_dropped"):
            marks.counts[name] = 0
        self._add(marks.counts)
        marked = None
        if len(marks.uncorrectable_rows):
            marked = np.zeros(scores.shape, np.uint8)
            marked[marks.uncorrectable_rows, marks.uncorrectable_cols] = 1
        weights, totals = exponentials(
            scores.cpu(),
            marked,
            attention.scales.score_factor,
            first_query=rows.start,
            causal=attention.causal,
            threads=self._threads(),
        )
        options = replace(attention.values, flags=attention.values.flags & kept)
        sums, findings = self._sums(cut, weights.to(q.device), v, options, first_row)
        means_of = means(sums.cpu(), totals, attention.scales.out_factor, self._threads()).to(q.device)
        places = findings.uncorrectable_rows, findings.uncorrectable_cols
        if len(places[0]) and (attention.values.suppress or attention.values.zero):
            at = tuple(torch.from_numpy(place.astype(np.int64)).to(q.device) for place in places)
            means_of[at] = attention.out[head, rows][at] if attention.values.suppress else 0
        attention.out[head, rows] = means_of
        return findings

    def _sums(
        self, cut: AcceleratorConfig, a: torch.Tensor, w: torch.Tensor, options: CommandOptions, first_row: int
    ) -> tuple[torch.Tensor, Findings]:
        """Corrected sums of a product in the blocks of `cut`, and what the checks made of it."""
        shape = GemmShape(1, a.shape[0], w.shape[1], a.shape[1])
        out = torch.empty((shape.m, shape.n), dtype=torch.int32, device=a.device)
        if not self._errs:
            exact_matmul(a, w, out)
            findings = Findings(np.zeros(geometry(cut, shape.m, shape.n).blocks, np.uint64))
            if options.check and self.config.checksum is not None:
                findings.counts["checks"] = shape.m * self._segments(shape.n)
            return out, findings
        most = LOG_RECORDS_PER_BLOCK * geometry(cut, shape.m, shape.n).blocks
        call = Call(options, self.errors, first_row, most, self._threads())
        product = Product(shape, a[None], w[None], None, None, out[None], options)
        findings = self._erring(product, a, w, out, call, cut)
        self._observe(findings)
        return out, findings

    def _segments(self, columns: int) -> int:
        """Segments of a row."""
        tiles, rest = divmod(columns, self.config.cols)
        return tiles * len(self.config.segments) + sum(segment.start < rest for segment in self.config.segments)

    def _observe(self, findings: Findings) -> None:
        """See what erred in a product of a batch; for subclasses."""

    def _add(self, counts: Mapping[str, int]) -> None:
        for name, value in counts.items():
            if name in self._counts:
                self._counts[name] += value

    def _threads(self) -> int:
        """Threads of the kernels.

        Those of drawn errors take a millisecond: too short to wait for a core that is busy with something else.
        """
        threads = torch.get_num_threads()
        alone = os.getloadavg()[0] < LOAD_ALONE
        return threads if alone or self.config.error_model.settles else max(1, threads // 2)

    def _buffer(self, name: str, product: Product) -> torch.Tensor:
        """int32 (m, n) that lives as long as the backend: fresh memory costs as much as the product."""
        m, n, device = product.shape.m, product.shape.n, product.a.device
        held = self._scratch.get(name)
        if held is None or held.numel() < m * n or held.device != device:
            # Written to in inference mode and outside of it.
            with torch.inference_mode(False):
                held = self._scratch[name] = torch.empty(m * n, dtype=torch.int32, device=device)
        return held[: m * n].view(m, n)

    def _clean(self, product: Product, a: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> None:
        sums = out if product.requant is None else self._buffer("sums", product)
        exact_matmul(a, w, sums)
        self._finish(product, sums, out)

    def _finish(self, product: Product, sums: torch.Tensor, out: torch.Tensor) -> None:
        """Bias and requantisation, from `sums`, which is overwritten, into `out`, which may be the same."""
        if product.bias is not None:
            add_bias_(sums, product.bias)
        if product.requant is not None:
            requantise(sums, product.requant.mult, product.requant.shift, out)
        elif sums is not out:
            out.copy_(sums)

    def _erring(
        self,
        product: Product,
        a: torch.Tensor,
        w: torch.Tensor,
        out: torch.Tensor,
        call: Call,
        cut: AcceleratorConfig | None = None,
    ) -> Findings:
        """Fill `out` of one product of a batch; `cut`: the accelerator with rows of blocks that are the command's."""
        options, shape = product.options, product.shape
        config = self.config if cut is None else cut
        on_cpu = out.device.type == "cpu"
        history = OverwrittenValues(self.config, out)
        model = TWIN_ERROR_MODELS.get(self.config.timing_model)
        if self.config.error_model.draws:
            drawn = model.draw(config, shape.m, shape.n, call)
            # In place where that is possible: a copy of the sums costs more than all checks.
            in_place = on_cpu and product.requant is None and out.is_contiguous()
            sums = out if in_place else self._buffer("sums", product)
            if options.suppress and in_place:
                history.save(drawn)
            exact_matmul(a, w, sums)
            known = sums if on_cpu else sums.cpu()
            findings = model.inject(config, a.cpu().numpy(), w.cpu().numpy(), known.numpy(), drawn, call)
        else:
            clean, sums = self._buffer("clean", product), self._buffer("sums", product)
            exact_matmul(a, w, clean)
            known = sums if on_cpu else torch.empty(sums.shape, dtype=torch.int32)
            left, right = a.cpu().numpy(), w.cpu().numpy()
            findings = model.compute(config, left, right, clean.cpu().numpy(), known.numpy(), call)
        if known is not sums:
            sums.copy_(known)
        keep = history.values_at(findings.uncorrectable_rows, findings.uncorrectable_cols) if options.suppress else None
        self._finish(product, sums, out)
        if len(findings.uncorrectable_rows) and (options.suppress or options.zero):
            history.write(findings.uncorrectable_rows, findings.uncorrectable_cols, keep)
        return findings

    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        with self._lock, self._layout.place_copy(source, places) as (command, runs):
            self._time(command, Runs(runs))
            if places is None:
                target.copy_(source)
                return
            rows, cols = (torch.from_numpy(x).to(source.device) for x in (places.rows, places.cols))
            product, row = rows // source.shape[1], rows % source.shape[1]
            target[product, row, cols] = source[product, row, cols]

    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        with self._lock:
            self.settings.set_errors(seed, rates, bits)
            self._send_errors()

    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        with self._lock:
            self.settings.move(domain, point, transition_cycles, lengths)
            self._send_point(domain)

    def set_memory_timing(self, timing: MemoryTiming) -> None:
        with self._lock:
            self._catch_up()
            self._cycle_model.set_memory_timing(timing)
            self.settings.memory_timing = timing

    def _send_errors(self) -> None:
        self._time(self.settings.errors_command)

    def _send_point(self, domain: int) -> None:
        point, transition_cycles, lengths = self.settings.moves[domain]
        if lengths is None:
            command = SetPointCommand(domain=domain, point=point, transition_cycles=transition_cycles)
            self._time(command)
            return
        with self._layout.place_lengths(domain, point, transition_cycles, *lengths.shape) as command:
            self._time(command)

    def counters(self) -> Mapping[str, int]:
        with self._lock:
            self._catch_up()
            counts = {**self._cycle_model.counters(), **self._counts}
        counts["dram_bytes"] = counts["dram_read_bytes"] + counts["dram_write_bytes"]
        return counts

    def check_counts(self) -> Mapping[str, int]:
        with self._lock:
            return {name: self._counts[name] for name in COUNTERS if name in self._counts}

    def state(self) -> State:
        with self._lock:
            return self.settings.state(*self.place())

    def place(self) -> tuple[int, list[int | None]]:
        """Place in the command ring, and the open row of each bank of the memory."""
        with self._lock:
            self._catch_up()
            return self._cycle_model.ring_index, self._cycle_model.open_rows

    def load_settings(self, state: State) -> None:
        """Take over the settings of a state; `restart` makes them effective."""
        self.settings = DeviceSettings.load(self.config, state)

    def load_state(self, state: State) -> None:
        with self._lock:
            self.load_settings(state)
            self.restart()
            self.load_place(state)

    def load_place(self, state: State) -> None:
        """Take over the place in the command ring and the open rows of a state."""
        with self._lock:
            self._catch_up()
            self._cycle_model.ring_index = state.values["ring_index"]
            self._cycle_model.open_rows = state.values["open_rows"]

    def restart(self) -> None:
        with self._lock:
            self._restart()

    def _restart(self) -> None:
        self._counts = dict.fromkeys(self._names, 0)
        self._forget_untimed()
        self._cycle_model.reset()
        # In the order of the other backend.
        if self.settings.memory_timing is not None:
            self._cycle_model.set_memory_timing(self.settings.memory_timing)
        if self.settings.errors_set:
            self._send_errors()
        for domain in self.settings.moves:
            self._send_point(domain)

    def close(self) -> None:
        # A product of another thread ends by itself.
        self._lock.close(self._free, lambda: None)

    def _free(self) -> None:
        # Who wants to know what his products cost may still ask.
        self._catch_up()
        self._scratch.clear()
