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
from .request import Sampling, Sharing
from .run import FleetRun, Generated, SyncCallback
from .solvers import solver_for
from .worker import Job, WorkerConfig
from .worker_group import WorkerGroup


class Fleet:
    """Accelerators that make images together.

    Parameters
    ----------
    devices : sequence of DeviceSpec or AcceleratorConfig
        Devices, at least one; a configuration alone is a device at the nominal operating point.
    links : Links
        Links from each to each other.
    backend : {"twin", "rtl", "mixed"}
        Backend of all accelerators.
    executor : {"process", "inline", "ray"}
        Where they live: each in a process, each in a thread of this process, or each in a Ray actor. All give the same
        bits.
    patience_s : float
        Wall-clock seconds without any sign of life after which a device is given up.
    threads : int
        Threads of torch in each process.

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
            Argument of `offload`.

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
        sampling: Sampling,
        sharing: Sharing | None = None,
        *,
        failures: Sequence[Failure] = (),
        checkpoint: RunCheckpoint | Path | str | None = None,
        callback: SyncCallback | None = None,
        progress: bool = False,
    ) -> Generated:
        """Denoise latents.

        Parameters
        ----------
        latents : torch.Tensor
            float32 (B, C, H, W): noise to begin with.
        sampling : Sampling
            Scheduler, conditions, guidance and number of steps.
        sharing : Sharing, optional
            Plan, or the method that makes it, and how devices keep to it; by default ``Sharing()``.
        failures : sequence of Failure
            Devices that stop at simulated times.
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
        sharing = Sharing() if sharing is None else sharing
        conditions, steps = sampling.all_conditions, sampling.num_inference_steps
        planner, first = self._first_plan(sampling.inputs(latents), conditions, steps, sharing)
        solver = solver_for(sampling.scheduler, steps, use_clipped_model_output=sampling.use_clipped_model_output)
        size = (latents.shape[-2], latents.shape[-1])
        job = Job(conditions, sampling.guidance_scale, solver, size, planner.costs.model.coding)
        with contextlib.ExitStack() as stack:
            log = None
            if checkpoint is not None:
                options = checkpoint if isinstance(checkpoint, RunCheckpoint) else RunCheckpoint(checkpoint)
                facts = {
                    "devices": [_device_facts(device) for device in planner.fleet.devices],
                    "links": planner.fleet.links,
                    "calibration": self._calibration,
                    **sampling.facts,
                    "conditions": conditions,
                    "latents": latents,
                    "plan": first,
                    **sharing.facts,
                    "coding": job.coding,
                    "failures": list(failures),
                }
                log = stack.enter_context(RunLog(options, run_identity(self._denoiser, facts)))
            run = FleetRun(
                self._workers,
                planner,
                sharing.next_method,
                synchronous=sharing.synchronous,
                replan=sharing.replan,
                resynchronise=patched(self._denoiser, size).resynchronise,
                failures=failures,
                log=log,
            )
            bar = stack.enter_context(progress_bar(total=steps, desc="generating", unit="step", show=progress))
            return run.generate(first, job, solver.begin(latents), callback, bar)

    def _first_plan(
        self, inputs: torch.Tensor, conditions: Mapping[str, Any], steps: int, sharing: Sharing
    ) -> tuple[Planner, Plan]:
        """What an image begins with, and the planner of what follows."""
        # A plan of one's own has its warm-up.
        warmup = sharing.warmup_steps if isinstance(sharing.plan, str) else 0
        planner = self.planner(inputs, conditions, steps=steps, warmup=warmup, max_stride=sharing.max_stride)
        # Latency that another coding than that of the planner must not exceed.
        first, limit_s, coding = self._chosen(planner, sharing), math.inf, sharing.coding
        if coding == "auto":
            coding, limit_s = AUTO, (1 - AUTO_GAIN) * planner.latency_s(first)
        if isinstance(coding, ExchangeCoding):
            coded = planner.coded(coding)
            candidate = self._chosen(coded, sharing)
            if coded.latency_s(candidate) <= limit_s:
                return coded, candidate
        return planner, first

    def _chosen(self, planner: Planner, sharing: Sharing) -> Plan:
        chosen = planner.plan(sharing.plan).plan if isinstance(sharing.plan, str) else sharing.plan
        if chosen.steps != planner.steps or chosen.first_step:
            raise PlanError(
                f"the plan covers steps {chosen.first_step}..{chosen.steps - 1}, but 0..{planner.steps - 1} are needed"
            )
        if chosen.rows != planner.costs.model.rows:
            raise PlanError(f"the plan divides {chosen.rows} rows, but the image has {planner.costs.model.rows}")
        if gone := sorted({share.device for share in chosen.shares} - set(self.alive)):
            raise PlanError(f"the plan uses {gone[0]!r}, but the fleet has {', '.join(self.alive)}")
        if sharing.synchronous and not chosen.divides_batch:
            chosen = replace(chosen, warmup=chosen.steps)
        if not chosen.warmup and len(chosen.shares) > 1 and not chosen.divides_batch:
            raise PlanError("devices that share an image need at least one synchronous step; use warmup of 1 or more")
        return chosen


def _device_facts(device: DeviceSpec) -> dict[str, Any]:
    # Checkpoints hold these names: what is renamed keeps its own there.
    names = {"delay_model": "law"}
    facts = {names.get(each.name, each.name): getattr(device, each.name) for each in fields(device)}
    return facts | {"config": device.config.to_dict()}
