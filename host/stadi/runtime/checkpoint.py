"""What a run on a fleet goes on from, in the files of `brownout.host.checkpoints`."""

from __future__ import annotations

import dataclasses
import importlib
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
from ...files import digest_of
from ...state import State
from ..plan import Plan
from ..solvers import SolverState
from ..timeline import Failure
from .worker import Evaluation, WorkerState

_PACKAGE = "brownout.host."


@dataclass(frozen=True)
class Meeting:
    """A run at a meeting.

    Attributes
    ----------
    step : int
        First step that is not done.
    plan : Plan
        Of the interval before.
    state : SolverState
        Of all rows.
    kept : dict of str to WorkerState
        Of each device in the plan; what is held of others is in the first one alone, unless it
        is coded.
    failures : tuple of Failure
        In simulated time, real losses among them.
    lost : dict of str to str
        As `Generated.lost`.
    damaged, sent_bytes : int
        As in `Generated`.
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


def pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON that stands for a value; its tensors are added to `tensors`.

    Raises
    ------
    TypeError
        It is, or contains, something other than tensors, numbers, strings, None, tuples, lists, mappings, and
        dataclasses of Brownout.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value
        return ["tensor", name]
    if isinstance(value, tuple | list):
        return ["tuple" if isinstance(value, tuple) else "list", *(pack(each, tensors) for each in value)]
    if isinstance(value, Mapping):
        return ["dict", *([pack(name, tensors), pack(each, tensors)] for name, each in value.items())]
    kind = type(value)
    if dataclasses.is_dataclass(value) and kind.__module__.startswith(_PACKAGE):
        fields = {each.name: pack(getattr(value, each.name), tensors) for each in dataclasses.fields(value)}
        return ["dataclass", kind.__module__, kind.__qualname__, fields]
    raise TypeError(f"a checkpoint cannot hold a {kind.__name__}")


def unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `pack`."""
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree
    if kind == "tensor":
        return tensors[rest[0]]
    if kind == "dict":
        return {unpack(name, tensors): unpack(each, tensors) for name, each in rest}
    if kind == "dataclass":
        module, name, fields = rest
        found = getattr(importlib.import_module(module), name, None) if module.startswith(_PACKAGE) else None
        if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
            raise TypeError(f"{module}.{name} is no dataclass of Brownout")
        return found(**{field: unpack(each, tensors) for field, each in fields.items()})
    values = [unpack(each, tensors) for each in rest]
    return tuple(values) if kind == "tuple" else values


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
        Where and how often. An evaluation, in its terms, is an interval between meetings.
    identity : mapping
        Of `run_identity`.

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

    def resume(self) -> Meeting | None:
        """Where to go on; None: at the beginning."""
        if self._overwrite:
            self._folder.clear()
        found = self._folder.find(self._identity)
        if found is None:
            self._folder.begin(self._identity, State(), State())
            return None
        self._count = found.evaluations
        if not self._count:
            return None
        meeting: Meeting = unpack(found.state.values["meeting"], found.state.tensors)
        return meeting

    def intervals(self) -> Iterator[Evaluations]:
        """Evaluations of all intervals until then."""
        for number in range(self._count):
            yield unpack(self._folder.read_evaluation(number).values["evaluations"], {})

    def add_interval(self, evaluations: Evaluations) -> bool:
        """Add an interval: returns whether a state is due."""
        self._folder.write_evaluation(self._count, State({"evaluations": pack(evaluations, {})}))
        self._count += 1
        return self._count % self._every == 0

    def add_state(self, meeting: Meeting) -> None:
        """Add the state after all intervals that were added."""
        tensors: dict[str, torch.Tensor] = {}
        self._folder.write_state(self._count, State({"meeting": pack(meeting, tensors)}, tensors))
