"""One image over several accelerators: from devices and a model to latents, with a timeline of how they were made."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from brownout.hw.config import AcceleratorConfig

from ...checkpoints import RunCheckpoint
from ...errors import FleetError, PlanError
from ...offloading import Calibration, calibrate
from ...progress import progress_bar
from ..plan.coding import AUTO, AUTO_GAIN, ExchangeCoding
from ..plan.costs import CostModel
from ..plan.device import DeviceSpec, FleetSpec
from ..plan.link import Links
from ..plan.plan import Plan
from ..plan.planner import Planner
from ..simulate.interval import Failure
from .checkpoint import RunLog, run_identity
from .denoiser import map_tensors
from .executor import Executor
from .inline import InlineExecutor
from .patching import patched
from .process import ProcessExecutor
from .run import FleetRun, Generated, SyncCallback
from .solvers import solver_for
from .worker import Job, WorkerConfig
from .worker_group import WorkerGroup

MODES = ("displaced", "full_sync")


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


def _ray_executor() -> Executor:
    # Ray is an extra.
    try:
        from .ray import RayExecutor
    except ModuleNotFoundError as error:
        raise FleetError(f"executor='ray' needs Ray ({error}); install brownout[ray]") from error
    return RayExecutor()


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "process": ProcessExecutor,
    "inline": InlineExecutor,
    "ray": _ray_executor,
}


class PlacedDenoiser:
    """A denoiser on all devices of a fleet; made by `Fleet.place`.

    After a loss it goes on with the devices that are left.

    Attributes
    ----------
    fleet : Fleet
        The devices.
    """

    def __init__(self, fleet: Fleet, denoiser: nn.Module, calibration: Calibration) -> None:
        self.fleet, self._denoiser, self._calibration = fleet, denoiser, calibration
        self._costs: dict[Any, CostModel] = {}
        worker_configs = [
            WorkerConfig(
                device=device,
                denoiser=denoiser,
                calibration=calibration,
                backend=fleet.backend,
                threads=fleet.threads,
                patience_s=fleet.patience_s,
            )
            for device in fleet.spec.devices
        ]
        self._workers = WorkerGroup(EXECUTORS[fleet.executor](), worker_configs, fleet.patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> list[str]:
        """Devices that have not been lost, as far as is known."""
        return list(self._workers.alive)

    @property
    def lost(self) -> dict[str, str]:
        """Devices that were lost, and why."""
        return dict(self._workers.lost)

    def close(self) -> None:
        """End all workers, with their accelerators; in a forked process nothing happens."""
        self._workers.close()

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
        self,
        inputs: torch.Tensor,
        conditions: Mapping[str, Any],
        *,
        steps: int,
        warmup: int | None = None,
        max_stride: int = 4,
    ) -> Planner:
        """Planner for the devices that are left; `steps` and `warmup` as there."""
        left = tuple(device for device in self.fleet.spec.devices if device.name in self._workers.alive)
        if not left:
            reasons = self._workers.reasons
            raise FleetError(f"no device is left ({reasons or 'they were closed'}); make a new fleet")
        names, links = {device.name for device in left}, self.fleet.spec.links
        special = {pair: link for pair, link in links.special.items() if names.issuperset(pair)}
        fleet = FleetSpec(left, replace(links, special=special))
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
        warmup_steps: int | None = None,
        max_stride: int = 4,
        coding: ExchangeCoding | str | None = None,
        replan: bool = True,
        failures: Sequence[Failure] = (),
        use_clipped_model_output: bool = False,
        checkpoint: RunCheckpoint | Path | str | None = None,
        callback: SyncCallback | None = None,
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
            One of `brownout.host.stadi.plan.planner.METHODS`, or a plan of one's own for this fleet.
        mode : {"displaced", "full_sync"}
            ``"full_sync"`` makes all steps synchronous: the image is that of a single device, bit for bit.
        warmup_steps : int, optional
            Synchronous steps of plans that are made here; by default as in `Planner`: 4, or all of fewer.
        max_stride : int
            Largest stride of them.
        coding : ExchangeCoding or "auto", optional
            In which keys and values are sent after synchronous steps; by default whole. ``"auto"`` takes
            `brownout.host.stadi.plan.coding.AUTO` if it is predicted to save at least `AUTO_GAIN` of the latency.
        replan : bool
            Whether plans are changed when devices slow down, and when they are lost.
        failures : sequence of Failure
            Devices that stop at simulated times.
        use_clipped_model_output : bool
            As in ``DDIMScheduler.step``.
        checkpoint : RunCheckpoint, Path or str, optional
            Keep the run in a folder, a state at each sync point; a run that is there already is taken up, to the same
            bits. ``RunCheckpoint.every`` counts sync points.
        callback : callable, optional
            Sees the latents at sync points.
        progress : bool
            Show a progress bar.

        Raises
        ------
        PlanError
            There is no such plan.
        FleetError
            Devices were lost, and those that are left cannot finish the image; or a worker cannot use an argument.
        CheckpointError
            The folder is in use, holds another run, or has no state to go on from.
        ValueError
            An argument is wrong.
        ForkedProcessError
            Another process has placed the denoiser.
        """
        self._workers.check()
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
        with contextlib.ExitStack() as stack:
            log = None
            if checkpoint is not None:
                facts = {
                    "devices": [_device_facts(device) for device in planner.fleet.devices],
                    "links": planner.fleet.links,
                    "calibration": self._calibration,
                    "scheduler": [type(scheduler).__name__, _scheduler_facts(scheduler)],
                    "use_clipped_model_output": use_clipped_model_output,
                    "guidance_scale": guidance_scale,
                    "conditions": both,
                    "latents": latents,
                    "plan": chosen,
                    "method": method,
                    "mode": mode,
                    "replan": replan,
                    "max_stride": max_stride,
                    "coding": job.coding,
                    "failures": list(failures),
                }
                options = checkpoint if isinstance(checkpoint, RunCheckpoint) else RunCheckpoint(checkpoint)
                log = stack.enter_context(RunLog(options, run_identity(self._denoiser, facts)))
            run = FleetRun(
                self._workers,
                planner,
                method,
                synchronous=mode == "full_sync",
                replan=replan,
                resynchronise=patched(self._denoiser, job.size).resynchronise,
                failures=failures,
                log=log,
            )
            bar = stack.enter_context(
                progress_bar(total=num_inference_steps, desc="generating", unit="step", show=progress)
            )
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


def _scheduler_facts(scheduler: Any) -> dict[str, Any]:
    """Configuration of a scheduler, without what diffusers notes for itself: lists made of sets, in another order in
    each process.
    """
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


def _device_facts(device: DeviceSpec) -> dict[str, Any]:
    # Checkpoints hold these names: what is renamed keeps its own there.
    names = {"delay_model": "law"}
    facts = {names.get(each.name, each.name): getattr(device, each.name) for each in fields(device)}
    return facts | {"config": device.config.to_dict()}


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
