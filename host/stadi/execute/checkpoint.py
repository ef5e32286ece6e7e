"""What a run on a fleet goes on from, in the files of `brownout.host.checkpoints`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ...checkpoints import RunCheckpoint
from ...checkpoints.folder import RunFolder
from ...checkpoints.identity import identity
from ...storage.decoding import check_type
from ...storage.files import digest_of
from ...storage.packable import packable
from ...storage.packing import pack, unpack
from ...storage.state import State
from ..plan.plan import Plan
from ..simulate.interval import Failure
from .solvers import SolverState
from .worker import Evaluation, WorkerState


@packable("stadi.runtime.checkpoint.Meeting")
@dataclass(frozen=True)
class SyncPoint:
    """A run at a sync point.

    Attributes
    ----------
    step : int
        First step that is not done.
    plan : Plan
        Plan of the interval before.
    state : SolverState
        State of all rows.
    kept : dict of str to WorkerState
        Kept values of each device in the plan; what is held of others is in the first one alone, unless it is coded.
    failures : tuple of Failure
        Failures in simulated time, real losses among them.
    lost : dict of str to str
        Losses of `Generated.lost`.
    damaged, sent_bytes : int
        Counts of `Generated`.
    """

    step: int
    plan: Plan
    state: SolverState
    kept: dict[str, WorkerState]
    failures: tuple[Failure, ...]
    lost: dict[str, str]
    damaged: int
    sent_bytes: int


Evaluations = dict[str, tuple[Evaluation, ...]]
"""Those of an interval, by device."""


def run_identity(denoiser: nn.Module, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same for a run to go on with the same bits, as JSON: tensors by their checksums."""
    found = identity(denoiser, None)
    for name, value in facts.items():
        tensors: dict[str, torch.Tensor] = {}
        # What JSON changes, as tuples in configurations, would not compare equal after reading.
        tree = json.loads(json.dumps(pack(value, tensors)))
        found[name] = [tree, digest_of(tensors, None)] if tensors else tree
    return found


class RunLog:
    """The files of one run while it is made; a context manager.

    Parameters
    ----------
    options : RunCheckpoint
        Where and how often. An evaluation, in its terms, is an interval between sync points.
    identity : mapping
        Digest of `run_identity`.

    Raises
    ------
    CheckpointError
        As `RunFolder`.
    """

    def __init__(self, options: RunCheckpoint, identity: Mapping[str, Any]) -> None:
        self.path = Path(options.folder)
        self._every, self._overwrite, self._identity = options.every, options.overwrite, identity
        self._folder = RunFolder(self.path, options.keep)
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.close()

    def resume(self) -> SyncPoint | None:
        """Where to go on; None: at the beginning."""
        if self._overwrite:
            self._folder.clear()
        found = self._folder.find(self._identity, _try_state, _try_evaluations)
        if found is None:
            self._folder.begin(self._identity, State(), State())
            return None
        self._count = found.evaluations
        if not self._count:
            return None
        return _sync_point(found.state)

    def intervals(self) -> Iterator[Evaluations]:
        """Evaluations of all intervals until then."""
        for number in range(self._count):
            yield _evaluations(self._folder.read_evaluation(number))

    def add_interval(self, evaluations: Evaluations) -> bool:
        """Add an interval: returns whether a state is due."""
        self._folder.write_evaluation(self._count, State({"evaluations": pack(evaluations, {})}))
        self._count += 1
        return self._count % self._every == 0

    def add_state(self, sync_point: SyncPoint) -> None:
        """Add the state after all intervals that were added."""
        tensors: dict[str, torch.Tensor] = {}
        self._folder.write_state(self._count, State({"meeting": pack(sync_point, tensors)}, tensors))


def _sync_point(state: State) -> SyncPoint:
    found = unpack(state.values["meeting"], state.tensors, "the state")
    if not isinstance(found, SyncPoint):
        raise ValueError(f"there is a {type(found).__name__} instead of a sync point")
    return found


def _evaluations(values: State) -> Evaluations:
    found: Evaluations = unpack(values.values["evaluations"], {}, "the evaluations")
    check_type(found, Evaluations, "what is kept of an interval")
    return found


def _try_state(state: State) -> None:
    # The one before all intervals is empty.
    if state.values:
        sync_point = _sync_point(state)
        if not 0 < sync_point.step <= sync_point.plan.steps:
            raise ValueError(f"the sync point is at step {sync_point.step} of {sync_point.plan.steps}")


def _try_evaluations(values: State) -> None:
    _evaluations(values)
