"""A device of a fleet at work: its accelerator, its copy of the model, and the rows it evaluates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from brownout.hw.errors.model import BY_RATE

from ...device.accelerator import Accelerator
from ...device.power.timing import NOMINAL_FREQUENCY_HZ, NOMINAL_VOLTAGE_V
from ...device.product.protection import Protection
from ...offloading import Calibration, offload
from ...offloading.products import OffloadedModel
from ...storage.packable import packable
from ...storage.state import State
from ..plan.coding import ExchangeCoding
from ..plan.device import DeviceSpec
from ..plan.plan import Plan
from .denoiser import PatchedDenoiser, map_tensors, ranges_of
from .exchange import Exchange
from .mailbox import Mailbox
from .patching import patched
from .solvers import Solver, SolverState

GUIDANCE = "guidance"
"""Site of the exchange of halves of guidance."""


@packable("stadi.runtime.worker.Job")
@dataclass(frozen=True)
class Job:
    """An image, or several, as every worker must know it.

    Attributes
    ----------
    conditions : mapping
        Arguments of the denoiser beside latents and timestep, nested mappings of tensors (B, ...); with guidance those
        of the conditional half first, then those of the unconditional one.
    guidance_scale : float
        Weight of classifier-free guidance; 1: none.
    solver : Solver
        Integrates.
    size : (int, int)
        Height and width of the latents.
    coding : ExchangeCoding or None
        Coding of keys and values after synchronous steps.
    """

    conditions: Mapping[str, Any]
    guidance_scale: float
    solver: Solver
    size: tuple[int, int]
    coding: ExchangeCoding | None = None

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional half."""
        return self.guidance_scale != 1


@packable("stadi.runtime.worker.Task")
@dataclass(frozen=True)
class Task:
    """Part of a device in an interval.

    Attributes
    ----------
    plan : Plan
        Present one.
    epoch : int
        Its number; another one after each loss too.
    start, end : int
        First step and one after the last.
    state : SolverState
        State of the device's rows in the interval.
    """

    plan: Plan
    epoch: int
    start: int
    end: int
    state: SolverState


@packable("stadi.runtime.worker.Evaluation")
@dataclass(frozen=True)
class Evaluation:
    """What an evaluation cost.

    Attributes
    ----------
    step, rows : int
        Which.
    images : int or None
        Part of the batch, None for all of it.
    stage_s : tuple of float
        Simulated time of each stage between exchanges.
    energy_j : float
        Without leakage.
    """

    step: int
    rows: int
    images: int | None
    stage_s: tuple[float, ...]
    energy_j: float


@packable("stadi.runtime.worker.Report")
@dataclass(frozen=True)
class WorkerReport:
    """What became of a task.

    Attributes
    ----------
    state : SolverState
        State of the device's rows, at the sync point.
    evaluations : tuple of Evaluation
        Evaluations in order.
    damaged, sent_bytes : int
        Counts of `Mailbox`, since the last report.
    """

    state: SolverState
    evaluations: tuple[Evaluation, ...]
    damaged: int
    sent_bytes: int


@packable("stadi.runtime.worker.WorkerState")
@dataclass(frozen=True)
class WorkerState:
    """All that the next interval of a worker depends on, beside the state of the solver.

    Attributes
    ----------
    held : Any
        Held values of others, as `PatchedDenoiser.held`; None if it was not asked for.
    model : State
        State of the offloaded model and its accelerator.
    synchronous : bool
        Whether the interval before was.
    """

    held: Any
    model: State
    synchronous: bool


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker is made of.

    Attributes
    ----------
    device : DeviceSpec
        Its hardware and operating point.
    denoiser : nn.Module
        The float model; the worker changes it in place.
    calibration : Calibration
        Its scales.
    backend : str
        Backend of the accelerator.
    threads : int
        Threads of torch in a process of its own.
    patience_s : float
        Wall-clock seconds for a message of another worker.
    """

    device: DeviceSpec
    denoiser: nn.Module
    calibration: Calibration
    backend: str
    threads: int
    patience_s: float


def open_accelerator(device: DeviceSpec, backend: str) -> Accelerator:
    """Start a device at its operating point; where that errs, products are corrected or keep their old values."""
    config = device.config
    nominal = (device.voltage_v, device.frequency_hz) == (NOMINAL_VOLTAGE_V, NOMINAL_FREQUENCY_HZ)
    if not nominal and not config.error_model.errs:
        # Only hardware that may err can be moved to another point, even if it does not err there.
        config = replace(config, timing_model=BY_RATE)
    protection = Protection(on_uncorrectable="suppress") if device.error_rate > 0 else None
    accelerator = Accelerator(config, backend, protection=protection, delay_model=device.delay_model)
    try:
        if not nominal:
            accelerator.set_operating_point(voltage_v=device.voltage_v, frequency_hz=device.frequency_hz)
            if device.error_rate > 0:
                accelerator.set_operating_point(voltage_v=device.voltage_v, domain="check")
    except BaseException:
        accelerator.close()
        raise
    return accelerator


@dataclass
class _Clock:
    """Simulated time and energy of an accelerator, stage by stage."""

    accelerator: Accelerator
    stages: list[float] = field(default_factory=list)
    last_s: float = 0.0
    start_j: float = 0.0

    def begin(self) -> None:
        self.accelerator.reset_stats()
        self.stages, self.last_s = [], 0.0

    def mark(self) -> None:
        now = self.accelerator.stats["time_s"]
        self.stages.append(now - self.last_s)
        self.last_s = now

    def energy_j(self) -> float:
        stats = self.accelerator.stats
        return stats["energy_j"] - stats["energy_leakage_j"]


class Worker:
    """Evaluates its rows.

    Parameters
    ----------
    worker_config : WorkerConfig
        What it is made of.
    mailbox : Mailbox
        Its correspondence.
    """

    def __init__(self, worker_config: WorkerConfig, mailbox: Mailbox) -> None:
        self.worker_config, self.mailbox = worker_config, mailbox
        self.accelerator = open_accelerator(worker_config.device, worker_config.backend)
        try:
            self.model: OffloadedModel = offload(
                worker_config.denoiser, self.accelerator, calibration=worker_config.calibration
            )
            # Its evaluations exchange values with other devices.
            self.model.awaits_trial = False
        except BaseException:
            self.accelerator.close()
            raise
        self._clock = _Clock(self.accelerator)
        self._denoiser: PatchedDenoiser | None = None
        self._job: Job | None = None
        # What is held at sync points, by step: one may have to go back to the last but one, as others failed to come.
        self._sync_points: dict[int, Any] = {}
        # Epoch of the last interval, and whether it was synchronous.
        self._at: tuple[int, bool] | None = None
        self._told = (0, 0)

    def begin(self, job: Job) -> None:
        """Another image begins."""
        self._job, self._at = job, None
        self._sync_points.clear()
        self._denoiser = patched(self.worker_config.denoiser, job.size)
        self._denoiser.prepare()
        self.model.begin_run()

    def held(self, step: int) -> Any:
        """What is held of others at the sync point at a step, for a device that joins."""
        return self._sync_points[step]

    def adopt(self, held: Any, step: int) -> None:
        """Hold at a sync point what another device holds."""
        self._sync_points[step] = held

    def keep(self, step: int, with_held: bool) -> WorkerState:
        """What the interval after the last sync point, at a step, depends on."""
        assert self._at is not None
        state = self.model.state()
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        held = self._sync_points[step] if with_held else None
        return WorkerState(held, State(copy.deepcopy(state.values), tensors), self._at[1])

    def restore(self, kept: WorkerState, step: int, epoch: int) -> None:
        """Take up at a sync point what `keep` returned, under the same plan; raises as `Accelerator.load_state`."""
        self.model.load_state(kept.model)
        self._sync_points[step], self._at = kept.held, (epoch, kept.synchronous)

    @torch.no_grad()
    def run(self, task: Task, progress: Callable[[int], None]) -> WorkerReport:
        """Evaluate from one sync point to the next.

        Parameters
        ----------
        task : Task
            What to do.
        progress : callable
            Called with the step of each evaluation that is done.

        Raises
        ------
        Interrupted
            The coordinator gives the interval up; the next one may begin where this one did.
        ExchangeError
            A message did not come.
        """
        assert self._job is not None
        assert self._denoiser is not None
        plan, denoiser = task.plan, self._denoiser
        self.mailbox.begin(task.epoch)
        exchange = Exchange(self.mailbox, plan, task.epoch, self._clock.mark, self._job.coding)
        synchronous = task.start < plan.async_start
        # Synchronous steps use nothing of what was before.
        denoiser.forget()
        if task.start in self._sync_points and not synchronous:
            denoiser.restore(self._sync_points[task.start])
        if self._at != (task.epoch, synchronous):
            # Whoever held rows before: histories belong to others.
            self.model.history.clear()
            if not exchange.alone and not synchronous:
                denoiser.redistribute(ranges_of(plan, synchronous=False))
        stride = 1 if synchronous else exchange.me.stride
        state, evaluations = task.state, []
        for step in range(task.start, task.end, stride):
            exchange.begin(step, synchronous=synchronous)
            state, evaluation = self._step(self._job, denoiser, exchange, state, step, stride)
            evaluations.append(evaluation)
            progress(step)
        if task.end < plan.steps and not exchange.alone and not synchronous:
            exchange.begin(task.end, synchronous=False)
            denoiser.meet(exchange)
        self.mailbox.check()
        before = {task.start: self._sync_points[task.start]} if task.start in self._sync_points else {}
        self._sync_points, self._at = {**before, task.end: denoiser.held()}, (task.epoch, synchronous)
        told, self._told = self._told, (self.mailbox.damaged, self.mailbox.sent_bytes)
        return WorkerReport(state, tuple(evaluations), self._told[0] - told[0], self._told[1] - told[1])

    def _step(
        self, job: Job, denoiser: PatchedDenoiser, exchange: Exchange, state: SolverState, step: int, stride: int
    ) -> tuple[SolverState, Evaluation]:
        latents = state.latents
        conditions, inputs = job.conditions, torch.cat([latents, latents]) if job.guided else latents
        half = exchange.me.images is not None
        if half:
            place = exchange.plan.shares.index(exchange.me)
            inputs = latents
            conditions = map_tensors(lambda tensor: tensor.chunk(2)[place], conditions)
        # Keys of errors depend on the step alone, not on what else a worker has evaluated.
        for product in self.model.products:
            product.evaluations[self.model.part] = step
        self.model.evaluation = step
        timestep = torch.full((len(inputs),), job.solver.timesteps[step], dtype=torch.int64)
        self._clock.begin()
        predicted = denoiser.evaluate(inputs, timestep, conditions, exchange)
        self._clock.mark()
        rows = exchange.rows(exchange.me)
        evaluation = Evaluation(
            step, rows[1] - rows[0], exchange.me.images, tuple(self._clock.stages), self._clock.energy_j()
        )
        # Denoisers that also predict variances do so in further channels.
        predicted = predicted[:, : latents.shape[1]]
        if half:
            other = exchange.others[0]
            theirs = exchange.swap(GUIDANCE, {"predicted": predicted}, other)["predicted"]
            predicted = torch.cat([predicted, theirs] if place == 0 else [theirs, predicted])
        if job.guided:
            conditional, unconditional = predicted.chunk(2)
            predicted = unconditional + job.guidance_scale * (conditional - unconditional)
        return job.solver.step(state, predicted, step, stride), evaluation

    def close(self) -> None:
        """Stop the accelerator."""
        self.accelerator.close()
