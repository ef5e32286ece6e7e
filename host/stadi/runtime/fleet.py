"""One image over several accelerators: from devices and a model to latents, with a timeline of how they were made."""

from __future__ import annotations

import copy
import math
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from tqdm.auto import tqdm

from brownout.hw.config import AcceleratorConfig

from ...errors import FleetError, PlanError
from ...offloading import Calibration, calibrate
from ..coding import AUTO, AUTO_GAIN, ExchangeCoding
from ..costs import CostModel
from ..device import DeviceSpec, FleetSpec
from ..link import Links
from ..plan import Plan
from ..planner import Planner
from ..replanning import Replanner
from ..solvers import SolverState, solver_for
from ..timeline import Failure, Observation, Simulation, Timeline
from .denoiser import map_tensors
from .executor import Adopt, Answer, Begin, Command, Done, Executor, Failed, Held, Lost, Progress
from .inline import InlineExecutor
from .measured import MeasuredCosts
from .patching import patched
from .process import ProcessExecutor
from .worker import Evaluation, Job, Recipe, Report, Task

MODES = ("displaced", "full_sync")
MeetingCallback = Callable[[int, torch.Tensor], None]
"""``callback(step, latents)`` at each meeting: steps that are done, and the latents (B, C, H, W)."""


@dataclass
class Generated:
    """Latents, and how they were made.

    Attributes
    ----------
    latents : torch.Tensor
        float32 (B, C, H, W).
    timeline : Timeline
        In simulated time, from the times that the accelerators counted.
    predicted_s : float
        Latency that the planner predicted.
    evaluations : dict of str to list of Evaluation
        Of each device, in order; without those of intervals that were in vain.
    lost : dict of str to str
        Devices that were lost on the way, and why.
    damaged : int
        Messages that came damaged and were sent again.
    coding : ExchangeCoding or None
        In which keys and values were sent after synchronous steps.
    sent_bytes : int
        Of the tensors that devices really sent each other, without intervals that were in vain: as
        ``timeline.link_bytes`` without the latents of meetings, and 16 bytes more for each message of a self-attention.
    """

    latents: torch.Tensor
    timeline: Timeline
    predicted_s: float
    evaluations: dict[str, list[Evaluation]]
    lost: dict[str, str] = field(default_factory=dict)
    damaged: int = 0
    coding: ExchangeCoding | None = None
    sent_bytes: int = 0


class Fleet:
    """Accelerators that make images together.

    Parameters
    ----------
    devices : sequence of DeviceSpec or AcceleratorConfig
        At least one; a configuration alone is a device at the nominal operating point.
    links : Links
        From each to each other.
    backend : {"twin", "rtl", "mixed"}
        Of all accelerators.
    executor : {"process", "inline", "ray"}
        Where they live: each in a process, each in a thread of this process, or each in a Ray actor. All give the same
        bits.
    patience_s : float
        Wall-clock seconds without any sign of life after which a device is given up.
    threads : int
        Of torch in each process.

    Raises
    ------
    ValueError
        Names are not unique, or an option is unknown.
    """

    def __init__(
        self,
        devices: Sequence[DeviceSpec | AcceleratorConfig],
        links: Links | None = None,
        *,
        backend: str = "twin",
        executor: str = "process",
        patience_s: float = 120.0,
        threads: int = 1,
    ) -> None:
        specs = tuple(
            device if isinstance(device, DeviceSpec) else DeviceSpec(name=f"device{index}", config=device)
            for index, device in enumerate(devices)
        )
        self.spec = FleetSpec(specs, Links() if links is None else links)
        if executor not in EXECUTORS:
            raise ValueError(f"executor must be one of {', '.join(map(repr, EXECUTORS))}, not {executor!r}")
        if not patience_s > 0:
            raise ValueError(f"patience_s must be positive, not {patience_s!r}")
        if threads < 1:
            raise ValueError(f"threads must be at least 1, not {threads!r}")
        self.backend, self.executor, self.patience_s, self.threads = backend, executor, patience_s, threads

    def place(self, denoiser: nn.Module, calibration: Callable[[nn.Module], Any] | Calibration) -> PlacedDenoiser:
        """Offload a denoiser to all devices.

        Parameters
        ----------
        denoiser : nn.Module
            A float denoiser of diffusers; it is not changed.
        calibration : callable or Calibration
            As in `offload`.

        Returns
        -------
        PlacedDenoiser
            To be closed; a context manager.

        Raises
        ------
        FleetError
            A device could not be started, or the model does not fit it.
        """
        if not isinstance(calibration, Calibration):
            calibration = calibrate(denoiser, calibration)
        return PlacedDenoiser(self, denoiser, calibration)


EXECUTORS: dict[str, Callable[[], Executor]] = {"process": ProcessExecutor, "inline": InlineExecutor}


class PlacedDenoiser:
    """A denoiser on all devices of a fleet; made by `Fleet.place`.

    Attributes
    ----------
    fleet : Fleet
        The devices.
    alive : list of str
        Devices that have not been lost.
    """

    def __init__(self, fleet: Fleet, denoiser: nn.Module, calibration: Calibration) -> None:
        self.fleet, self._denoiser = fleet, denoiser
        self.alive = [device.name for device in fleet.spec.devices]
        self._executor = EXECUTORS[fleet.executor]()
        self._costs: dict[Any, CostModel] = {}
        recipes = [
            Recipe(
                device=device,
                denoiser=copy.deepcopy(denoiser),
                calibration=calibration,
                backend=fleet.backend,
                threads=fleet.threads,
                patience_s=fleet.patience_s,
            )
            for device in fleet.spec.devices
        ]
        try:
            self._executor.start(recipes)
            for device, answer in self._wait(self.alive).items():
                if not isinstance(answer, Done):
                    raise FleetError(f"device {device} could not be started: {_reason(answer)}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, with their accelerators."""
        self.alive = []
        self._executor.close()

    def costs(self, inputs: torch.Tensor, conditions: Mapping[str, Any]) -> CostModel:
        """Costs of evaluating some rows of the denoiser, for inputs (B, C, H, W) of this shape."""
        shapes = [tuple(inputs.shape)]

        def note(tensor: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(tensor.shape))
            return tensor

        map_tensors(note, conditions)
        key = tuple(shapes)
        if key not in self._costs:
            size = (inputs.shape[-2], inputs.shape[-1])
            workload = patched(self._denoiser, size).workload(inputs, conditions)
            # Sums go to the host, as `offload` has it.
            self._costs[key] = CostModel(workload, requantise=False)
        return self._costs[key]

    def planner(
        self, inputs: torch.Tensor, conditions: Mapping[str, Any], *, steps: int, warmup: int, max_stride: int = 4
    ) -> Planner:
        """Planner for the devices that are left."""
        left = tuple(device for device in self.fleet.spec.devices if device.name in self.alive)
        if not left:
            raise FleetError("no device is left; make a new fleet")
        fleet = FleetSpec(left, self.fleet.spec.links)
        return Planner(fleet, self.costs(inputs, conditions), steps=steps, warmup=warmup, max_stride=max_stride)

    def generate(
        self,
        latents: torch.Tensor,
        *,
        scheduler: Any,
        conditions: Mapping[str, Any],
        unconditional: Mapping[str, Any] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        plan: str | Plan = "stadi",
        mode: str = "displaced",
        warmup_steps: int = 4,
        max_stride: int = 4,
        coding: ExchangeCoding | str | None = None,
        replan: bool = True,
        failures: Sequence[Failure] = (),
        use_clipped_model_output: bool = False,
        callback: MeetingCallback | None = None,
        progress: bool = False,
    ) -> Generated:
        """Denoise latents.

        Parameters
        ----------
        latents : torch.Tensor
            float32 (B, C, H, W): noise to begin with.
        scheduler : DDIMScheduler or DPMSolverMultistepScheduler
            Of diffusers: its configuration counts, it is not changed.
        conditions : mapping
            Arguments of the denoiser beside latents and timestep; nested mappings of tensors (B, ...).
        unconditional : mapping, optional
            The same for the unconditional half of classifier-free guidance.
        guidance_scale : float
            Weight of guidance; 1: none.
        num_inference_steps : int
            Evaluations of a device with stride 1.
        plan : str or Plan
            One of `brownout.host.stadi.planner.METHODS`, or a plan of one's own for this fleet.
        mode : {"displaced", "full_sync"}
            ``"full_sync"`` makes all steps synchronous: the image is that of a single device, bit for bit.
        warmup_steps : int
            Synchronous steps of plans that are made here.
        max_stride : int
            Largest stride of them.
        coding : ExchangeCoding or "auto", optional
            In which keys and values are sent after synchronous steps; by default whole. ``"auto"`` takes
            `brownout.host.stadi.coding.AUTO` if it is predicted to save at least `AUTO_GAIN` of the latency.
        replan : bool
            Whether plans are changed when devices slow down, and when they are lost.
        failures : sequence of Failure
            Devices that stop at simulated times.
        use_clipped_model_output : bool
            As in ``DDIMScheduler.step``.
        callback : callable, optional
            Sees the latents at meetings.
        progress : bool
            Show a progress bar.

        Raises
        ------
        PlanError
            There is no such plan.
        FleetError
            Devices were lost, and those that are left cannot finish the image.
        ValueError
            An argument is wrong.
        """
        if latents.ndim != 4 or latents.dtype != torch.float32:
            raise ValueError(f"latents must be float32 (B, C, H, W), not {latents.dtype} {tuple(latents.shape)}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
        if (unconditional is None) != (guidance_scale == 1):
            remedy = "needs unconditional=" if unconditional is None else "makes no use of unconditional=; leave it out"
            raise ValueError(f"guidance_scale={guidance_scale:g} {remedy}")
        if isinstance(coding, str) and coding != "auto":
            raise ValueError(f"coding must be an ExchangeCoding, 'auto' or None, not {coding!r}")
        guided = unconditional is not None
        both = _both(conditions, unconditional) if unconditional is not None else dict(conditions)
        inputs = torch.cat([latents, latents]) if guided else latents
        # A plan of one's own has its warm-up.
        warmup = warmup_steps if isinstance(plan, str) else 0
        planner = self.planner(inputs, both, steps=num_inference_steps, warmup=warmup, max_stride=max_stride)
        # Latency that another coding than that of the planner must not exceed.
        chosen, limit_s = self._chosen(planner, plan, mode), math.inf
        if coding == "auto":
            coding, limit_s = AUTO, (1 - AUTO_GAIN) * planner.latency_s(chosen)
        if isinstance(coding, ExchangeCoding):
            coded = planner.coded(coding)
            candidate = self._chosen(coded, plan, mode)
            if coded.latency_s(candidate) <= limit_s:
                planner, chosen = coded, candidate
        solver = solver_for(scheduler, num_inference_steps, use_clipped_model_output=use_clipped_model_output)
        job = Job(both, guidance_scale, solver, (latents.shape[-2], latents.shape[-1]), planner.costs.model.coding)
        # Halves of guidance are for exactly two devices.
        method = plan if isinstance(plan, str) and plan != "guidance" else "stadi"
        run = _Run(self, planner, method, replan and mode == "displaced", failures)
        with tqdm(total=num_inference_steps, desc="generating", unit="step", disable=not progress) as bar:
            return run.generate(chosen, job, solver.begin(latents), callback, bar)

    def _chosen(self, planner: Planner, plan: str | Plan, mode: str) -> Plan:
        chosen = planner.plan(plan).plan if isinstance(plan, str) else plan
        if chosen.steps != planner.steps or chosen.first_step:
            raise PlanError(
                f"the plan covers steps {chosen.first_step}..{chosen.steps - 1}, but 0..{planner.steps - 1} are needed"
            )
        if chosen.rows != planner.costs.model.rows:
            raise PlanError(f"the plan divides {chosen.rows} rows, but the image has {planner.costs.model.rows}")
        if gone := sorted({share.device for share in chosen.shares} - set(self.alive)):
            raise PlanError(f"the plan uses {gone[0]!r}, but the fleet has {', '.join(self.alive)}")
        if mode == "full_sync" and not chosen.divides_batch:
            chosen = replace(chosen, warmup=chosen.steps)
        if not chosen.warmup and len(chosen.shares) > 1 and not chosen.divides_batch:
            raise PlanError("devices that share an image need at least one synchronous step; use warmup of 1 or more")
        return chosen

    def _wait(self, devices: Sequence[str], on_progress: Callable[[str, int], None] | None = None) -> dict[str, Answer]:
        """Last answers of some devices; who is silent for too long is lost."""
        waiting, found = set(devices), dict[str, Answer]()
        # Other workers notice first who keeps them waiting.
        patience = 1.5 * self.fleet.patience_s
        deadline = time.monotonic() + patience
        while waiting:
            try:
                device, answer = self._executor.answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                for device in waiting:
                    found[device] = Lost(f"no sign of life for {patience:g} s")
                return found
            if device not in waiting:
                continue
            deadline = time.monotonic() + patience
            if isinstance(answer, Progress):
                if on_progress is not None:
                    on_progress(device, answer.step)
                continue
            found[device] = answer
            waiting.discard(device)
            if isinstance(answer, Failed | Lost):
                # Whoever needs that device would wait in vain.
                for other in waiting:
                    self._executor.interrupt(other)
        return found

    def ask(
        self, commands: Mapping[str, Command], on_progress: Callable[[str, int], None] | None = None
    ) -> dict[str, Answer]:
        """Send commands and wait for the answers of all devices."""
        for device, command in commands.items():
            self._executor.tell(device, command)
        return self._wait(list(commands), on_progress)

    def lose(self, device: str) -> None:
        """Give a device up."""
        self.alive.remove(device)
        self._executor.kill(device)


class _Run:
    """One call of `PlacedDenoiser.generate`."""

    def __init__(
        self,
        placed: PlacedDenoiser,
        planner: Planner,
        method: str,
        replan: bool,
        failures: Sequence[Failure],
    ) -> None:
        self.placed, self.planner, self.method, self.replan = placed, planner, method, replan
        self.failures = list(failures)
        self.measured = MeasuredCosts(planner.costs)
        self.evaluations: dict[str, list[Evaluation]] = {}
        self.lost: dict[str, str] = {}
        self.damaged = self.sent_bytes = 0
        self.progress: dict[str, int] = {}
        self._replanned: dict[tuple[int, frozenset[str]], Plan] = {}

    def _simulate(self, plan: Plan) -> Timeline:
        """What becomes of a plan under background loads and losses: which plans replace it, and where."""
        simulation = Simulation(self.planner.fleet, self.planner.costs)
        if not self.replan:
            return simulation.run(plan, None, self.failures)
        replanner = Replanner(self.planner, self.method)
        self._replanned.clear()

        def note(seen: Observation) -> Plan:
            chosen = self._replanned[seen.step, seen.lost] = replanner(seen)
            return chosen

        return simulation.run(plan, note, self.failures)

    def _measure(self, first: Plan) -> Timeline:
        """The same plans, in the times that accelerators counted."""

        def follow(seen: Observation) -> Plan:
            return self._replanned[seen.step, seen.lost]

        simulation = Simulation(self.planner.fleet, self.measured)  # type: ignore[arg-type]
        return simulation.run(first, follow if self.replan else None, self.failures)

    def generate(
        self, first: Plan, job: Job, state: SolverState, callback: MeetingCallback | None, bar: Any
    ) -> Generated:
        """All intervals, until the image is done."""
        timeline = self._simulate(first)
        predicted_s = timeline.latency_s
        self._require(self.placed.ask({name: Begin(job) for name in self.placed.alive}))
        epoch, step, plan = 0, 0, first
        while step < first.steps:
            wanted = _plan_at(timeline.plans, step)
            if wanted != plan:
                self._join(plan, wanted)
                plan, epoch = wanted, epoch + 1
            end = next(stop for start, stop in plan.intervals if start == step)
            done = self._interval(plan, epoch, step, end, state)
            if done is None:
                timeline = self._without_lost(first, plan, step)
                # Even an equal plan begins anew: what was sent before must not be mistaken for what is sent now.
                epoch += 1
                continue
            state = done
            bar.update(end - step)
            step = end
            if callback is not None:
                callback(step, state.latents)
        measured = self._measure(first)
        return Generated(
            state.latents,
            measured,
            predicted_s,
            self.evaluations,
            self.lost,
            self.damaged,
            job.coding,
            self.sent_bytes,
        )

    def _require(self, answers: Mapping[str, Answer]) -> None:
        for device, answer in answers.items():
            if not isinstance(answer, Done):
                raise FleetError(f"device {device} cannot begin: {_reason(answer)}")

    def _join(self, before: Plan, after: Plan) -> None:
        """Give devices that were left out before what the others hold."""
        old = [share.device for share in before.shares if share.device in self.placed.alive]
        new = [share.device for share in after.shares if share.device not in old]
        if not new or after.warmup or not old or len(after.shares) == 1:
            return
        answer = self.placed.ask({old[0]: Held()})[old[0]]
        if isinstance(answer, Done):
            self._require(self.placed.ask({name: Adopt(answer.value) for name in new}))

    def _interval(self, plan: Plan, epoch: int, start: int, end: int, state: SolverState) -> SolverState | None:
        """Evaluate from one meeting to the next; None if devices were lost."""
        scale = state.latents.shape[-2] // plan.rows
        synchronous = start < plan.async_start
        tasks: dict[str, Command] = {}
        for share in plan.shares:
            rows = share.warmup_rows if synchronous else share.rows
            tasks[share.device] = Task(plan, epoch, start, end, state.rows(rows[0] * scale, rows[1] * scale))
        self.progress.clear()
        answers = self.placed.ask(tasks, self.progress.__setitem__)
        reports: dict[str, Report] = {}
        culprits: dict[str, str] = {}
        for device, answer in answers.items():
            if isinstance(answer, Done):
                reports[device] = answer.value
            elif isinstance(answer, Failed) and answer.culprit is not None:
                culprits.setdefault(answer.culprit, answer.reason)
            elif isinstance(answer, Failed | Lost):
                culprits[device] = _reason(answer)
        if culprits:
            for device, reason in culprits.items():
                if device in self.placed.alive:
                    self.lost[device] = reason
                    self.placed.lose(device)
            return None
        devices = {device.name: device for device in self.placed.fleet.spec.devices}
        for device, report in reports.items():
            self.measured.add(devices[device], report.evaluations)
            self.evaluations.setdefault(device, []).extend(report.evaluations)
            self.damaged += report.damaged
            self.sent_bytes += report.sent_bytes
        if plan.divides_batch:
            return reports[plan.shares[0].device].state
        return SolverState.join([reports[share.device].state for share in plan.shares])

    def _without_lost(self, first: Plan, plan: Plan, step: int) -> Timeline:
        """The run again in simulated time, in which devices stop where they were last heard of."""
        reasons = "; ".join(f"{device}: {reason}" for device, reason in self.lost.items())
        if not self.placed.alive:
            raise FleetError(f"no device is left at step {step}: {reasons}")
        if not self.replan:
            raise FleetError(
                f"devices were lost at step {step}, and replan=False: {reasons}; call generate again with those left"
            )
        known = {failure.device for failure in self.failures}
        before = self._simulate(first)
        for device in self.lost:
            if device not in known and any(share.device == device for share in plan.shares):
                self.failures.append(Failure(device, _last_seen(before, device, step, self.progress.get(device))))
        try:
            return self._simulate(first)
        except PlanError as error:
            raise FleetError(f"the image cannot be finished from step {step} on: {error} ({reasons})") from error


def _last_seen(timeline: Timeline, device: str, start: int, done: int | None) -> float:
    """Simulated time at which a device had done an evaluation, or began the interval."""
    own = [segment for segment in timeline.segments if segment.device == device and segment.kind == "compute"]
    if done is None:
        return min(segment.start_s for segment in own if segment.step >= start)
    # Before the meeting, which may be at that very moment.
    return math.nextafter(max(segment.end_s for segment in own if segment.step == done), 0.0)


def _plan_at(plans: Sequence[Plan], step: int) -> Plan:
    return next(plan for plan in reversed(plans) if plan.first_step <= step)


def _reason(answer: Answer) -> str:
    return answer.reason if isinstance(answer, Failed | Lost) else str(answer)


def _both(conditional: Mapping[str, Any], unconditional: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions of both halves of guidance, the conditional one first."""
    if conditional.keys() != unconditional.keys():
        odd = sorted(conditional.keys() ^ unconditional.keys())
        raise ValueError(f"conditions and unconditional must name the same arguments, but {odd[0]!r} is in one of them")
    found: dict[str, Any] = {}
    for name, value in conditional.items():
        other = unconditional[name]
        if isinstance(value, torch.Tensor):
            found[name] = torch.cat([value, other])
        else:
            found[name] = _both(value, other) if isinstance(value, Mapping) else value
    return found
