"""The accelerator as a PyTorch user sees it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import ideal_cycles

from ..storage.files import digest_of
from ..storage.state import State, join, split
from .backends.base import Backend
from .controls import OperatingControls
from .make import make_backend
from .mixed.options import Coverage, MixedOptions
from .power.energy import EnergyModel
from .power.timing import DelayModel
from .product.attention import SoftmaxScales, fits, make_attention
from .product.operands import (
    Requantisation,
    ResidentWeights,
    Tally,
    as_batch,
    check_like,
    check_output,
    check_weights,
    interface_bytes,
    make_product,
)
from .product.protection import LogRecord, Protection, check_protection, command_options, parse_log
from .product.reload import Places, uncorrectable_places
from .product.slots import Slots

SHAPES = 1024
"""Shapes of products whose cycles and bytes are remembered."""


class Accelerator(OperatingControls):
    """A systolic-array accelerator, on simulated RTL, on its bit-exact twin, or on both.

    Use it as a context manager: ``with Accelerator(config) as accelerator: y = accelerator.gemm(a, w)``.

    Threads may share it: their calls are served one after another, each as a whole, and `exclusive` keeps several calls
    together. Results and tallies are those of the call; `last_log` is the calling thread's; counts and settings are
    everybody's. A process that is forked from the one that opened it cannot use it: there every call raises
    `ForkedProcessError`, `close` does nothing, and another one can be opened, which puts PyTorch there on one thread.

    Parameters
    ----------
    config : AcceleratorConfig, optional
        The accelerator; by default ``AcceleratorConfig()``.
    backend : {"rtl", "twin", "mixed"} or Backend
        Where products are computed. All return the same bits; ``"twin"`` is thousands of times faster. ``"mixed"`` is
        the twin, of which chosen passes are executed by the RTL too and compared.
    waves : Path, optional
        Wave file to record, ``.vcd`` or ``.fst`` (not for ``"twin"``).
    check_axi : bool
        Watch the bus for violations of AXI (not for ``"twin"``).
    deadline_s : float
        Wall-clock seconds after which an unresponsive simulator is given up; long products get more.
    protection : Protection, optional
        Protection of products that name none; by default none.
    delay_model : DelayModel, optional
        What `set_operating_point` makes of voltage and frequency.
    energy_model : EnergyModel, optional
        Model of the energies in `stats`.
    mixed : MixedOptions, optional
        Which passes are replayed (``"mixed"`` only).
    layout : {"row-major", "tiled"}
        How matrices lie in the accelerator's DRAM. In tiles, what is fetched or written at once lies together, which
        opens fewer rows of DRAM; results are the same.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed: of each shape the one of least energy times time, or in the
        configuration's blocks with activations read for each of them (docs/loop-order.md). On accelerators that cannot
        keep activations both are the same. Sums are the same; a log is in the order of the blocks.

    Raises
    ------
    ValueError
        `backend` is unknown or does not support an option, or `protection` needs checksum units that `config` lacks.
    """

    def __init__(
        self,
        config: AcceleratorConfig | None = None,
        backend: str | Backend = "rtl",
        *,
        waves: Path | None = None,
        check_axi: bool = True,
        deadline_s: float = 120.0,
        protection: Protection | None = None,
        delay_model: DelayModel | None = None,
        energy_model: EnergyModel | None = None,
        mixed: MixedOptions | None = None,
        layout: str = "row-major",
        loop_order: str = "searched",
    ) -> None:
        config = AcceleratorConfig() if config is None else config
        check_protection(config, protection)
        if mixed is not None and backend != "mixed":
            raise ValueError(f"mixed= needs backend='mixed', not {backend!r}")
        if layout != "row-major" and not isinstance(backend, str):
            raise ValueError(
                f"layout={layout!r} needs a backend by name; give the backend's own constructor the layout"
            )
        if loop_order != "searched" and not isinstance(backend, str):
            raise ValueError(
                f"loop_order={loop_order!r} needs a backend by name; give the backend's own constructor the order"
            )
        delay_model = DelayModel() if delay_model is None else delay_model
        model = EnergyModel() if energy_model is None else energy_model
        if isinstance(backend, str):
            backend = make_backend(
                *(config, backend),
                waves=waves,
                check_axi=check_axi,
                deadline_s=deadline_s,
                mixed=mixed,
                layout=layout,
                loop_order=loop_order,
            )
        super().__init__(config, backend, delay_model, model)
        self.protection, self.layout, self.loop_order = protection, layout, loop_order
        self._slots = Slots()
        self._interface_bytes = lru_cache(maxsize=SHAPES)(interface_bytes)
        self._ideal_cycles = lru_cache(maxsize=SHAPES)(partial(ideal_cycles, config))
        # Ledger, slots and device belong together; each thread has a log.
        self._logs = threading.local()

    def __repr__(self) -> str:
        state = "" if self._device is not None else ", closed"
        return f"Accelerator({self.config.rows}x{self.config.cols}, backend={self.backend!r}{state})"

    @property
    def _log(self) -> bytes:
        log: bytes = getattr(self._logs, "last", b"")
        return log

    @_log.setter
    def _log(self, log: bytes) -> None:
        self._logs.last = log

    def gemm(
        self,
        a: torch.Tensor,
        w: torch.Tensor | ResidentWeights,
        *,
        bias: torch.Tensor | None = None,
        requant: Requantisation | None = None,
        out: torch.Tensor | None = None,
        checkpoint: torch.Tensor | None = None,
        protection: Protection | None = None,
        error_key: int = 0,
        first_row: int = 0,
        first_col: int = 0,
        tally: Tally | None = None,
    ) -> torch.Tensor:
        """Multiply int8 matrices.

        Parameters
        ----------
        a : torch.Tensor
            int8 (M, K), or (B, M, K); any strides.
        w : torch.Tensor or ResidentWeights
            int8 (K, N), or (B, K, N); any strides. Weights that are used again are cheaper when uploaded once.
        bias : torch.Tensor, optional
            int32 (N,), added modulo 2^32.
        requant : Requantisation, optional
            Per-channel scaling to int8 or int16.
        out : torch.Tensor, optional
            Written instead of a new tensor; suppressed elements keep the value that they have in it. See `new_slot`.
        checkpoint : torch.Tensor, optional
            Like `out`, and of its shape and dtype: with ``on_uncorrectable="reload"``, uncorrectable elements are
            copied from it. See `copy`.
        protection : Protection, optional
            Use of the checksum units; by default `Accelerator.protection`.
        error_key : int
            uint32 that names the call in draws of timing errors: same key, same errors.
        first_row, first_col : int
            uint32: place of the first element in a larger product of which this is a piece, for draws and log.
        tally : Tally, optional
            Gets the cycles of this product, at the latest when `stats` is read: knowing them may take longer than the
            product.

        Returns
        -------
        torch.Tensor
            int32, or int8 or int16 with `requant`: (M, N), or (B, M, N).

        Raises
        ------
        TypeError
            An operand is no tensor or has the wrong dtype.
        ValueError
            Shapes or devices do not fit, or an extent is out of range (K > 131071; M, N >= 2^24); the protection needs
            checksum units, `out` or `checkpoint`.
        DeviceMemoryError
            The operands do not fit the accelerator's DRAM.
        AcceleratorClosedError
            After `close`.
        brownout.cosim.errors.SimulatorError
            The simulator died or hung (not for ``"twin"``); `restart` recovers.
        MismatchError
            A replay has found that RTL and twin differ (``"mixed"`` only).
        """
        device = self._open()
        chosen = self.protection if protection is None else protection
        options = command_options(self.config, chosen, out, error_key, first_row, first_col)
        checks = chosen is not None and chosen.check
        reloads = chosen is not None and checks and chosen.on_uncorrectable == "reload"
        if reloads != (checkpoint is not None):
            raise ValueError(
                "on_uncorrectable='reload' needs checkpoint=, from which uncorrectable elements are copied"
                if reloads
                else "checkpoint= is used with on_uncorrectable='reload' only; leave it out"
            )
        product, result = make_product(a, w, bias, requant, out, options, tally)
        device.check_device("a", a.device)
        if isinstance(product.w, ResidentWeights) and product.w.backend is not device:
            raise ValueError("w was uploaded to another accelerator; upload it to this one")
        if checkpoint is not None:
            check_like("checkpoint", checkpoint, "out", result)
        with self._call:
            # A new tensor is no slot.
            fresh = out is not None and self._slots.take(out)
            before = device.check_counts()["suppressed"] if fresh and options.suppress else 0
            self._log = device.gemm(product)
            reloaded = 0
            if checkpoint is not None and self._log:
                places = uncorrectable_places(self.config, self._log, first_row, first_col)
                reloaded = len(places)
                if reloaded:
                    device.copy(as_batch(checkpoint), product.out, places)
                self._ledger.reloaded += reloaded
            if fresh and options.suppress:
                self._ledger.suppressed_unwritten += device.check_counts()["suppressed"] - before - reloaded
            shape = product.shape
            moved = self._interface_bytes(
                *(shape.batch, shape.m, shape.n, shape.k, result.element_size()),
                resident=isinstance(w, ResidentWeights),
                channels=bias is not None or requant is not None,
            )
            self._ledger.meter.add_operands(moved)
            if checks:
                self._logs.blocks = device.blocks_of(product)
                self._ledger.meter.add_checks(shape, self._logs.blocks)
            self._ledger.ideal_cycles += self._ideal_cycles(shape.m, shape.n, shape.k, shape.batch)
        return result

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        scales: SoftmaxScales,
        *,
        causal: bool = False,
        out: torch.Tensor | None = None,
        protection: Protection | None = None,
        error_key: int = 0,
        value_error_key: int = 1,
        first_row: int = 0,
        tally: Tally | None = None,
    ) -> torch.Tensor:
        """Attend: softmax of q k^T, times v, of a batch of heads, whose scores stay on the chip.

        Parameters
        ----------
        q, k, v : torch.Tensor
            int8 (B, L, E), (B, S, E), (B, S, V): queries, keys and values; any strides.
        scales : SoftmaxScales
            Factors of the scores and of the output.
        causal : bool
            Let queries attend to keys up to their own place only.
        out : torch.Tensor, optional
            int8 (B, L, V), written instead of a new tensor; suppressed elements keep the value that they have in it.
        protection : Protection, optional
            Use of the checksum units in both products; by default `Accelerator.protection`. Uncorrectable scores count
            for nothing; `on_uncorrectable` is about elements of the output, and must not be ``"reload"``.
        error_key, value_error_key : int
            uint32 that name the products of queries and keys, and of exponentials and values, in draws of timing
            errors.
        first_row : int
            uint32: place of the first query in a larger batch of which this is a piece, for draws and log.
        tally : Tally, optional
            Gets the cycles, as of `gemm`.

        Returns
        -------
        torch.Tensor
            int8 (B, L, V); docs/attention.md has the arithmetic.

        Raises
        ------
        TypeError
            An operand is no tensor or has the wrong dtype.
        ValueError
            The accelerator has no attention unit, shapes or devices do not fit, an extent is out of range, or the
            protection needs checksum units, or `out`, or is ``"reload"``.
        DeviceMemoryError, AcceleratorClosedError, brownout.cosim.errors.SimulatorError
            As of `gemm`.
        """
        device = self._open()
        chosen = self.protection if protection is None else protection
        if chosen is not None and chosen.check and chosen.on_uncorrectable == "reload":
            raise ValueError(
                "on_uncorrectable must not be 'reload' in attention, whose scores have no checkpoint; choose 'suppress'"
            )
        scores = replace(command_options(self.config, chosen, out, error_key, first_row, 0), log_bytes=0)
        values = command_options(self.config, chosen, out, value_error_key, first_row, 0)
        attention, result = make_attention(
            self.config, (q, k, v), scales, out, (scores, values), causal=causal, tally=tally
        )
        device.check_device("q", q.device)
        with self._call:
            # A new tensor is no slot.
            fresh = out is not None and self._slots.take(out)
            attended = device.attention(attention)
            self._log = attended.log
            self._ledger.suppressed_unwritten += attended.suppressed if fresh else 0
            operands = q.numel() + k.numel() + v.numel() + result.numel()
            self._ledger.meter.add_operands(operands)
            for shape in (attention.score_shape, attention.value_shape):
                if chosen is not None and chosen.check:
                    self._ledger.meter.add_checks(shape)
                self._ledger.ideal_cycles += self._ideal_cycles(shape.m, shape.n, shape.k, shape.batch)
        return result

    def can_attend(self, queries: int, keys: int, width: int, columns: int) -> bool:
        """Whether `attention` takes heads of these extents: queries, keys, head size, columns of values."""
        return self._device is not None and self._device.attends and fits(self.config, queries, keys, width, columns)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Let the accelerator copy an output to a checkpoint, to which ``on_uncorrectable="reload"`` goes back.

        It reads and writes device memory for that, which takes time and energy. The last product's log is gone.

        Parameters
        ----------
        source, target : torch.Tensor
            int32, int16 or int8, (M, N) or (B, M, N), of the same shape and dtype; any strides.

        Raises
        ------
        ValueError
            They do not fit together, or the accelerator has no checksum units.
        TypeError, DeviceMemoryError, AcceleratorClosedError
            As in `gemm`.
        """
        device = self._open()
        if self.config.checksum is None:
            raise ValueError("copy needs checksum units; give AcceleratorConfig a ChecksumConfig")
        check_output("source", source)
        check_like("target", target, "source", source)
        device.check_device("source", source.device)
        with self._using():
            self._log = b""
            self._slots.take(target)
            device.copy(as_batch(source), as_batch(target), None)

    @property
    def last_log(self) -> list[LogRecord]:
        """Flagged segments of this thread's last product, in the order in which the hardware found them.

        At most 64 of each block and `Protection.log_records` in all; ``stats["log_dropped"]`` counts the others.
        """
        return parse_log(self._log, self.config.log_record_bytes)

    @property
    def last_blocks(self) -> AcceleratorConfig:
        """`config` with the blocks of this thread's last checked product, in whose order `last_log` is."""
        blocks: AcceleratorConfig = getattr(self._logs, "blocks", self.config)
        return blocks

    def last_uncorrectable(self, first_row: int = 0, first_col: int = 0) -> Places:
        """Elements that `last_log` says are uncorrectable in the product, which had this first row and column."""
        return uncorrectable_places(self.config, self._log, first_row, first_col)

    @property
    def check_counts(self) -> Mapping[str, int]:
        """Counters of the checksum units since the device was started, empty without.

        Cheaper than `stats`, because nobody has to know the time: what a product has added says how it went.
        """
        with self._using() as device:
            return device.check_counts()

    def add_host_traffic(self, count: int) -> None:
        """Charge bytes of device memory that the host reads or writes because of timing errors.

        For example to compare two outputs, or to convert a history to another scale. They are in
        ``stats["host_bytes"]``, take their time at the memory's bandwidth and their energy.

        Raises
        ------
        ValueError
            `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count must not be negative, but is {count!r}")
        with self._lock:
            self._ledger.meter.add_traffic(count)

    def new_slot(
        self, *shape: int, dtype: torch.dtype = torch.int32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """Make a tensor of zeros to be used as `out` again and again.

        Elements that are suppressed in its first product stay zero, and are counted in
        ``stats["suppressed_unwritten"]`` too.

        Parameters
        ----------
        shape : int
            (M, N), or (B, M, N).
        dtype : torch.dtype
            int32, or int8 or int16 for requantised products.
        device : torch.device
            That of the operands.
        """
        with self._lock:
            return self._slots.make(shape, dtype, device)

    def load_slot(self, values: torch.Tensor, *, unwritten: bool, device: torch.device | str = "cpu") -> torch.Tensor:
        """Make a slot as one was in another process.

        Parameters
        ----------
        values : torch.Tensor
            int32, int16 or int8, (M, N) or (B, M, N).
        unwritten : bool
            Whether no product has been written to it (`is_unwritten`).
        device : torch.device
            That of the operands.
        """
        with self._lock:
            slot = self._slots.make(values.shape, values.dtype, device)
            slot.copy_(values)
            if not unwritten:
                self._slots.take(slot)
            return slot

    def is_unwritten(self, slot: torch.Tensor) -> bool:
        """Whether no product has been written to a tensor that `new_slot` made."""
        return self._slots.is_unwritten(slot)

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        """Copy weights to the device, to be used by any number of products.

        Parameters
        ----------
        w : torch.Tensor
            int8 (K, N), or (B, K, N); any strides.

        Returns
        -------
        ResidentWeights
            Takes the place of `w` in `gemm`. Its device memory is freed when the last reference goes.

        Raises
        ------
        TypeError, ValueError, DeviceMemoryError, AcceleratorClosedError
            As in `gemm`.
        """
        device = self._open()
        check_weights(w)
        device.check_device("w", w.device)
        with self._using():
            return device.upload(w)

    @property
    def stats(self) -> Mapping[str, float]:
        """Counters since the start, `restart` or the last `reset_stats`.

        While another thread computes this waits for the end of its product.

        Every hardware counter (`brownout.hw.registers.counters`) by its name, ``dram_row_activations``, ``dram_bytes``
        (read and written) and ``ideal_cycles`` (of an array that is never idle). The same calls give the same values
        on RTL and on the twin.

        With checksum units there are ``checks``, ``detected``, ``corrected``, ``suppressed`` (uncorrectable elements,
        whatever became of them), ``suppressed_unwritten``, ``reloaded`` (from a checkpoint), ``log_records``,
        ``log_dropped``. With a model of timing errors: ``injected``, and silent errors, outputs that nothing flagged
        (``missed``) or that a correction has made wrong (``wrong``); the host knows them from the clean product.

        ``host_bytes`` is what `add_host_traffic` was told, ``interface_bytes`` are operands that the host has written
        to the device's memory and outputs that it has read there.

        In simulated time: ``time_s``; ``memory_s``, for which all bytes, the host's too, occupy the memory's bandwidth:
        where it is longer, it is how long everything takes, as operands and outputs move while products run; and
        ``energy_j`` with its parts ``energy_PART_j`` (`brownout.host.device.power.energy.PARTS`).
        """
        with self._using() as device:
            return self._ledger.stats(device)

    def state(self) -> State:
        """What results and `stats` of later calls depend on, but for resident weights and slots: settings and counts.

        Raises
        ------
        AcceleratorClosedError, brownout.cosim.errors.SimulatorError
            As in `gemm`.
        """
        with self._using() as device:
            parts = {"device": device.state(), "points": self._points.state(), "meter": self._ledger.meter.state()}
            return join({**parts, "counts": self._ledger.state(device)})

    def load_state(self, state: State) -> None:
        """Restart the device with the settings of a state, of this or another accelerator of the same configuration.

        `stats` go on from where they were then.

        Raises
        ------
        AcceleratorClosedError, brownout.cosim.errors.SimulatorError
            As in `restart`.
        """
        with self._using() as device:
            parts = split(state)
            device.load_state(parts["device"])
            self._points.load_state(parts["points"])
            self._ledger.meter.load_state(parts["meter"])
            self._ledger.load_state(parts["counts"], device)
            self._logs = threading.local()

    @property
    def settings(self) -> dict[str, object]:
        """All settings on which results, times and energies depend, as JSON: configuration, models, points."""
        with self._using() as backend:
            device = backend.state()
            points = self._points.state().values
            return {
                "config": self.config.to_dict(),
                "rtl_hash": self.config.rtl_hash,
                "layout": self.layout,
                **({"loop_order": self.loop_order} if self.config.keeps_activations else {}),
                "protection": None if self.protection is None else self.protection.to_dict(),
                "timing_law": asdict(self._points.delay_model),
                "energy_model": asdict(self._ledger.meter.model),
                "operating_points": points["wanted"],
                "error_seed": points["seed"],
                "bit_thresholds": points["bits"],
                "carry_lengths": digest_of(device.tensors, None),
            }

    @property
    def coverage(self) -> Coverage:
        """How much of what was done since the start was replayed on the RTL; waits for replays that are under way.

        Raises
        ------
        ValueError
            The backend is not ``"mixed"``.
        MismatchError, brownout.cosim.errors.SimulatorError
            What these replays have found.
        AcceleratorClosedError
            After `close`.
        """
        from .mixed.backend import MixedBackend

        with self._using() as device:
            if not isinstance(device, MixedBackend):
                raise ValueError(f"coverage is what backend='mixed' replays, but the backend is {self.backend!r}")
            return device.coverage

    def reset_stats(self) -> None:
        """Count from zero again."""
        with self._using() as device:
            self._ledger.reset(device)

    def restart(self) -> None:
        """Start the device anew, for example after its simulator died.

        Weights uploaded before stay valid, and operating points stay as they are; `stats` begin at zero.

        Raises
        ------
        AcceleratorClosedError
            After `close`.
        """
        with self._using() as device:
            device.restart()
            self._ledger.restart()
