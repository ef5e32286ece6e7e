"""One image on a fleet: interval after interval, with other plans where loads change or devices are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...errors import CheckpointError, FleetError, PlanError
from ..plan.coding import ExchangeCoding
from ..plan.device import DeviceSpec
from ..plan.plan import Plan
from ..plan.planner import Planner
from ..simulate.interval import Failure
from ..simulate.replanning import Replanner
from ..simulate.simulation import Observation, Simulation
from ..simulate.timeline import Timeline
from .checkpoint import RunLog, SyncPoint
from .executor import Adopt, Answer, Begin, Command, Done, Held, Keep, Restore
from .losses import last_heard, moment_of, time_of
from .measured import MeasuredCosts
from .solvers import SolverState
from .worker import Evaluation, Job, Task, WorkerReport
from .worker_group import WorkerGroup, at_fault, reason_of

SyncCallback = Callable[[int, torch.Tensor], None]
"""``callback(step, latents)`` at each sync point: steps that are done, and the latents (B, C, H, W)."""


@dataclass
class Generated:
    """Latents, and how they were made.

    Attributes
    ----------
    latents : torch.Tensor
        float32 (B, C, H, W).
    timeline : Timeline
        Events in simulated time, from the times that the accelerators counted.
    predicted_s : float
        Latency that the planner predicted.
    evaluations : dict of str to list of Evaluation
        Evaluations of each device, in order; without those of intervals that were in vain.
    lost : dict of str to str
        Devices that were lost on the way, and why.
    damaged : int
        Messages that came damaged and were sent again.
    coding : ExchangeCoding or None
        Coding of keys and values after synchronous steps.
    sent_bytes : int
        Bytes of the tensors that devices really sent each other, without intervals that were in vain: of a transformer
        as ``timeline.link_bytes`` without the latents of sync points, and 16 bytes more for each message of a
        self-attention.
    """

    latents: torch.Tensor
    timeline: Timeline
    predicted_s: float
    evaluations: dict[str, list[Evaluation]]
    lost: dict[str, str] = field(default_factory=dict)
    damaged: int = 0
    coding: ExchangeCoding | None = None
    sent_bytes: int = 0


@dataclass(frozen=True)
class _Reply:
    """What the planner said at a sync point or after a loss.

    Attributes
    ----------
    plan : Plan
        Plan to go on with.
    step : int
        Step at which the plan begins.
    gone : frozenset of str
        Devices that were lost since the last reply.
    """

    plan: Plan
    step: int
    gone: frozenset[str]


class FleetRun:
    """One call of `PlacedDenoiser.generate`.

    Parameters
    ----------
    workers : WorkerGroup
        The workers.
    planner : Planner
        Planner for the devices that were alive at the beginning.
    method : str
        Method of plans after the first.
    synchronous : bool
        Whether they have to be synchronous to the end.
    replan : bool
        Whether there may be any.
    resynchronise : bool
        Argument of `Replanner`.
    failures : sequence of Failure
        Devices that stop in simulated time.
    log : RunLog, optional
        Where the run is kept.
    """

    def __init__(
        self,
        workers: WorkerGroup,
        planner: Planner,
        method: str,
        *,
        synchronous: bool,
        replan: bool,
        resynchronise: bool,
        failures: Sequence[Failure],
        log: RunLog | None,
    ) -> None:
        self._workers, self._planner, self._method = workers, planner, method
        self._synchronous, self._replan, self._log = synchronous, replan, log
        self._resynchronise = resynchronise
        self._failures = list(failures)
        self._measured = MeasuredCosts(planner.costs)
        self._evaluations: dict[str, list[Evaluation]] = {}
        self._lost: dict[str, str] = {}
        self._damaged = self._sent_bytes = 0
        self._done: dict[str, int] = {}
        self._replies: list[_Reply] = []

    def generate(self, first: Plan, job: Job, state: SolverState, callback: SyncCallback | None, bar: Any) -> Generated:
        """All intervals, until the image is done."""
        timeline = self._simulate(first)
        predicted_s = timeline.latency_s
        step, plan = 0, first
        self._workers.epoch += 1
        begun = self._ask({name: Begin(job) for name in self._workers.alive})
        resumed = None if self._log is None else self._log.resume()
        if resumed is not None:
            step, plan, state = resumed.step, resumed.plan, resumed.state
            timeline = self._take_up(first, resumed)
            bar.update(step)
        if self._give_up(begun, timeline, step):
            timeline = self._after_loss(first, step)
        # Whoever was interrupted because another one could not begin has no part in what follows.
        self._workers.epoch += 1
        if resumed is not None and self._give_up(self._restore(resumed), timeline, step):
            timeline = self._after_loss(first, step)
        while step < first.steps:
            wanted = _plan_at(timeline.plans, step)
            if wanted != plan:
                if self._give_up(self._join(plan, wanted), timeline, step):
                    timeline = self._after_loss(first, step)
                    continue
                plan = wanted
                self._workers.epoch += 1
            end = next(stop for start, stop in plan.intervals if start == step)
            answers = self._ask(self._tasks(plan, step, end, state))
            if self._give_up(answers, timeline, step):
                timeline = self._after_loss(first, step)
                continue
            state, step = self._commit(plan, answers), end
            bar.update(step - bar.n)
            if self._give_up(self._keep(plan, step, state, answers), timeline, step):
                timeline = self._after_loss(first, step)
            if callback is not None:
                callback(step, state.latents)
        return Generated(
            state.latents,
            self._measure(first),
            predicted_s,
            self._evaluations,
            self._lost,
            self._damaged,
            job.coding,
            self._sent_bytes,
        )

    # Simulated time.

    def _replanner(self, replies: list[_Reply]) -> Callable[[Observation], Plan] | None:
        if not self._replan:
            return None
        replanner = Replanner(self._planner, self._method, resynchronise=self._resynchronise)
        known = set[str]()

        def reply(seen: Observation) -> Plan:
            plan = replanner(seen)
            if self._synchronous and plan is not seen.plan:
                plan = replace(plan, warmup=plan.steps - plan.first_step)
            replies.append(_Reply(plan, seen.step, frozenset(seen.lost - known)))
            known.update(seen.lost)
            return plan

        return reply

    def _simulate(self, first: Plan) -> Timeline:
        """What becomes of a plan under background loads and losses: which plans replace it, and where."""
        self._replies.clear()
        simulation = Simulation(self._planner.fleet, self._planner.costs)
        return simulation.run(first, self._replanner(self._replies), self._failures)

    def _measure(self, first: Plan) -> Timeline:
        """The same plans and losses, in the times that accelerators counted."""
        predicting = Simulation(self._planner.fleet, self._planner.costs)
        measuring = Simulation(self._planner.fleet, self._measured)
        failures = {failure.device: failure for failure in self._failures}
        predicted: list[Failure] = []
        measured: list[Failure] = []
        for count, reply in enumerate(self._replies):
            if not reply.gone:
                continue
            before = predicting.run(first, self._replanner([]), predicted)
            seen = measuring.run(first, _follow(self._replies[:count]), measured)
            for device in sorted(reply.gone):
                moment = moment_of(before, failures[device], reply.step)
                predicted.append(failures[device])
                measured.append(replace(failures[device], time_s=time_of(seen, device, reply.step, moment)))
        return measuring.run(first, _follow(self._replies), measured)

    # Workers.

    def _ask(self, commands: Mapping[str, Command]) -> dict[str, Answer]:
        self._done.clear()
        return self._workers.ask(commands, self._done.__setitem__)

    def _tasks(self, plan: Plan, start: int, end: int, state: SolverState) -> dict[str, Command]:
        scale = state.latents.shape[-2] // plan.rows
        synchronous = start < plan.async_start
        tasks: dict[str, Command] = {}
        for share in plan.shares:
            rows = share.warmup_rows if synchronous else share.rows
            part = state.rows(rows[0] * scale, rows[1] * scale)
            tasks[share.device] = Task(plan, self._workers.epoch, start, end, part)
        return tasks

    def _commit(self, plan: Plan, answers: Mapping[str, Answer]) -> SolverState:
        """Take the results of an interval in: returns the state of all rows."""
        reports = _reports(answers)
        self._count({device: report.evaluations for device, report in reports.items()})
        self._damaged += sum(report.damaged for report in reports.values())
        self._sent_bytes += sum(report.sent_bytes for report in reports.values())
        if plan.divides_batch:
            return reports[plan.shares[0].device].state
        return SolverState.join([reports[share.device].state for share in plan.shares])

    def _count(self, evaluations: Mapping[str, Iterable[Evaluation]]) -> None:
        devices: dict[str, DeviceSpec] = {device.name: device for device in self._planner.fleet.devices}
        for device, each in evaluations.items():
            self._measured.add(devices[device], each)
            self._evaluations.setdefault(device, []).extend(each)

    def _join(self, before: Plan, after: Plan) -> dict[str, Answer]:
        """Give devices that had no part before what the others hold."""
        old = [share.device for share in before.shares if share.device in self._workers.alive]
        new = [share.device for share in after.shares if share.device not in old]
        if not new or after.warmup or len(after.shares) == 1:
            return {}
        answers: dict[str, Answer] = {}
        for device in old:
            answers |= self._ask({device: Held(after.first_step)})
            answer = answers[device]
            if isinstance(answer, Done):
                return answers | self._ask({name: Adopt(answer.value, after.first_step) for name in new})
        reasons = "; ".join(f"{device}: {reason_of(answer)}" for device, answer in answers.items())
        raise FleetError(f"nobody is left at step {after.first_step} who holds keys and values for others: {reasons}")

    def _give_up(self, answers: Mapping[str, Answer], timeline: Timeline, step: int) -> bool:
        """Give up who is at fault: returns whether somebody is whom the plan from a step on needs.

        In simulated time a device stops where it was last heard of in the interval that begins there.
        """
        culprits = at_fault(answers)
        plan = _plan_at(timeline.plans, step)
        needed = [] if step == plan.steps else [share.device for share in plan.shares if share.device in culprits]
        for device in needed:
            if device not in self._workers.alive:
                raise FleetError(f"the plan from step {step} on uses {device}, which was lost: {culprits[device]}")
            moment = last_heard(timeline, device, step, self._done.get(device))
            self._failures = [failure for failure in self._failures if failure.device != device]
            self._failures.append(Failure(device, moment))
        for device, reason in culprits.items():
            if device in self._workers.alive:
                self._lost[device] = reason
                self._workers.lose(device, reason)
        return bool(needed)

    def _after_loss(self, first: Plan, step: int) -> Timeline:
        """The run again in simulated time, without those that are lost."""
        # Even an equal plan begins anew: what was sent before must not be mistaken for what is sent now.
        self._workers.epoch += 1
        if not self._workers.alive:
            raise FleetError(f"no device is left at step {step}: {self._workers.reasons}")
        reasons = "; ".join(f"{device}: {reason}" for device, reason in self._lost.items())
        if not self._replan:
            raise FleetError(
                f"devices were lost at step {step}, and replan=False: {reasons}; call generate again with those left"
            )
        try:
            return self._simulate(first)
        except PlanError as error:
            raise FleetError(f"the image cannot be finished from step {step} on: {error} ({reasons})") from error

    # Checkpoints.

    def _keep(self, plan: Plan, step: int, state: SolverState, answers: Mapping[str, Answer]) -> dict[str, Answer]:
        """Write what is due after an interval: returns what devices answered."""
        if self._log is None:
            return {}
        if not self._log.add_interval({device: report.evaluations for device, report in _reports(answers).items()}):
            return {}
        # Nothing of workers is needed once the image is done.
        names = [share.device for share in plan.shares] if step < plan.steps else []
        # All hold the same at a sync point, unless what they sent each other was coded.
        coded = self._planner.costs.model.coding is not None
        answers = self._ask({name: Keep(step, with_held=coded or name == names[0]) for name in names})
        kept = {device: answer.value for device, answer in answers.items() if isinstance(answer, Done)}
        # If somebody is lost the checkpoint before stays.
        if len(kept) == len(names):
            failures, lost = tuple(self._failures), dict(self._lost)
            self._log.add_state(SyncPoint(step, plan, state, kept, failures, lost, self._damaged, self._sent_bytes))
        return dict(answers)

    def _take_up(self, first: Plan, resumed: SyncPoint) -> Timeline:
        """Go on from a checkpoint."""
        assert self._log is not None
        self._failures = list(resumed.failures)
        self._damaged, self._sent_bytes = resumed.damaged, resumed.sent_bytes
        self._lost.update(resumed.lost)
        timeline = self._simulate(first)
        if resumed.plan not in timeline.plans:
            raise CheckpointError(
                f"{self._log.path} was written by a program that planned otherwise; begin anew with "
                "RunCheckpoint(folder, overwrite=True)"
            )
        for evaluations in self._log.intervals():
            self._count(evaluations)
        return timeline

    def _restore(self, resumed: SyncPoint) -> dict[str, Answer]:
        """Let workers take up a checkpoint."""
        held = next((kept.held for kept in resumed.kept.values() if kept.held is not None), None)
        return self._ask(
            {
                device: Restore(
                    replace(kept, held=held if kept.held is None else kept.held), resumed.step, self._workers.epoch
                )
                for device, kept in resumed.kept.items()
                if device in self._workers.alive
            }
        )


def _reports(answers: Mapping[str, Answer]) -> dict[str, WorkerReport]:
    """Of an interval in which nobody was at fault."""
    found: dict[str, WorkerReport] = {}
    for device, answer in answers.items():
        if not isinstance(answer, Done):
            raise FleetError(f"device {device} did not come to the sync point: {reason_of(answer)}")
        found[device] = answer.value
    return found


def _follow(replies: Sequence[_Reply]) -> Callable[[Observation], Plan]:
    """Says the same again, and nothing new afterwards."""
    left = iter(replies)

    def reply(seen: Observation) -> Plan:
        said = next(left, None)
        return seen.plan if said is None else said.plan

    return reply


def _plan_at(plans: Sequence[Plan], step: int) -> Plan:
    return next(plan for plan in reversed(plans) if plan.first_step <= step)
