"""A journal of a denoiser's evaluations: with it, the program around the denoiser runs again without computing them."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ..errors import CheckpointError
from ..offloading import OffloadedModel, offloaded_model
from ..storage.decoding import Form, check
from ..storage.state import State
from .folder import FoundRun, RunFolder
from .identity import identity
from .options import RunCheckpoint
from .values import decode, describe, difference, encode


@dataclass(frozen=True)
class _Evaluation:
    """Values of an evaluation in its file."""

    inputs: dict[str, str]
    output: Any


def _check_generator(state: State, source: Path | str) -> None:
    """Refuse what is no state of PyTorch's generator on the CPU."""
    if "generator" in state.tensors:
        Form(torch.uint8, tuple(torch.get_rng_state().shape)).check("generator", state.tensors["generator"], source)


class Journal:
    """Keeps the evaluations of a module in a folder while it is open; those that are there already are not computed.

    The program that calls the module need know nothing of it. When it is run again with the same arguments, the first
    evaluations return what they returned before; then the state of the offloaded model is loaded, and the next one is
    computed as it would have been. The state of PyTorch's generator on the CPU at the beginning is part of the run.

    Parameters
    ----------
    module : nn.Module
        The denoiser.
    model : OffloadedModel or None
        If it is offloaded. Opening the journal begins a run (`OffloadedModel.begin_run`).
    options : RunCheckpoint
        Where to keep them.
    facts : dict, optional
        JSON, kept from the beginning of the run; see `facts`.

    Attributes
    ----------
    facts : dict
        Facts of the process that began the run.
    replayed : int
        Evaluations that need not be computed.

    Raises
    ------
    CheckpointError
        The folder is in use, holds another run, or has no state to go on from.
    """

    def __init__(
        self,
        module: nn.Module,
        model: OffloadedModel | None,
        options: RunCheckpoint,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.module, self.model, self.options = module, model, options
        self.facts: dict[str, Any] = dict(facts or {})
        self.replayed = 0
        self._index = 0
        self._pending: State | None = None
        self._folder: RunFolder | None = None
        self._identity: dict[str, Any] = {}
        self._instance_forward: Any = None
        self._forward: Any = None
        self._signature = inspect.signature(module.forward)

    def __enter__(self) -> Self:
        self._folder = RunFolder(Path(self.options.folder), self.options.keep)
        try:
            self._identity = identity(self.module, self.model)
            if self.options.overwrite:
                self._folder.clear()
            self._resume(self._find())
        except BaseException:
            self._folder.close()
            raise
        self._instance_forward = self.module.__dict__.get("forward")
        self._forward = self.module.forward
        # A compiler must not follow it into files.
        self.module.forward = torch.compiler.disable(self._evaluate)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._instance_forward is None:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self._instance_forward
        self._open().close()
        self._folder = None

    def _open(self) -> RunFolder:
        assert self._folder is not None, "the journal is not open"
        return self._folder

    def _state(self) -> State:
        return State() if self.model is None else self.model.state()

    def _load(self, state: State) -> None:
        if self.model is not None:
            self.model.load_state(state)

    def rewind(self) -> None:
        """Let the program run from its beginning once more, with what has been kept until now.

        Raises
        ------
        CheckpointError
            There is no state to go on from.
        """
        self._resume(self._find())

    def _find(self) -> FoundRun | None:
        found = self._open().find(self._identity, self._try_state, self._try_evaluation)
        if found is not None:
            _check_generator(found.facts, self.options.folder)
        return found

    def _try_state(self, state: State) -> None:
        """Load a state once; whatever comes of it, the model is as before."""
        before = self._state()
        before = State(copy.deepcopy(before.values), {name: each.clone() for name, each in before.tensors.items()})
        try:
            self._load(state)
        finally:
            self._load(before)

    @staticmethod
    def _try_evaluation(values: State) -> None:
        check(values.values, _Evaluation, "an evaluation")
        decode(values.values["output"], values.tensors)
        _check_generator(values, "an evaluation")

    def _resume(self, found: FoundRun | None) -> None:
        if self.model is not None:
            self.model.begin_run()
        self._index = 0
        if found is None:
            self.replayed, self._pending = 0, None
            facts = State(self.facts, {"generator": torch.get_rng_state()})
            self._open().begin(self._identity, facts, self._state())
            return
        self.facts, self.replayed, self._pending = found.facts.values, found.evaluations, found.state
        torch.set_rng_state(found.facts.tensors["generator"])
        self._load_when_due()

    def _load_when_due(self) -> None:
        if self._pending is not None and self._index == self.replayed:
            self._load(self._pending)
            self._pending = None

    def _evaluate(self, *arguments: Any, **named: Any) -> Any:
        """Take the place of the module's ``forward``."""
        if self.model is not None and self.model.on_trial:
            # It is no evaluation of the run, and leaves nothing behind.
            return self._forward(*arguments, **named)
        inputs = describe(self._signature, arguments, named)
        index, folder = self._index, self._open()
        self._index += 1
        if index < self.replayed:
            kept = folder.read_evaluation(index)
            self._check_inputs(index, kept.values["inputs"], inputs)
            if "generator" in kept.tensors:
                torch.set_rng_state(kept.tensors["generator"])
            output = decode(kept.values["output"], kept.tensors)
            self._load_when_due()
            return output
        before = torch.get_rng_state()
        output = self._forward(*arguments, **named)
        tensors: dict[str, torch.Tensor] = {}
        values = {"inputs": inputs, "output": encode(output, tensors)}
        after = torch.get_rng_state()
        if not torch.equal(before, after):
            tensors["generator"] = after
        folder.write_evaluation(index, State(values, tensors))
        if (index + 1) % self.options.every == 0:
            folder.write_state(index + 1, self._state())
        return output

    def _check_inputs(self, index: int, before: Mapping[str, str], now: Mapping[str, str]) -> None:
        if (other := difference(before, now)) is not None:
            raise CheckpointError(
                f"{self.options.folder} holds another run: in evaluation {index}, {other}; call it as that run was "
                "called, choose another folder, or begin anew with RunCheckpoint(folder, overwrite=True)"
            )


@contextlib.contextmanager
def journal(module: nn.Module, checkpoint: RunCheckpoint | Path | str) -> Iterator[Journal]:
    """Keep the evaluations of a denoiser, offloaded or not, so that what runs inside can be resumed.

    Run the same program again after a loss: ``with journal(model, folder): images = sample(model, ...)``.

    Parameters
    ----------
    module : nn.Module
        The denoiser. If it is offloaded a run begins, as with `OffloadedModel.begin_run`.
    checkpoint : RunCheckpoint, Path or str
        Where; a folder stands for ``RunCheckpoint(folder)``.

    Raises
    ------
    CheckpointError
        The folder is in use, holds another run, or has no state to go on from.
    """
    options = checkpoint if isinstance(checkpoint, RunCheckpoint) else RunCheckpoint(checkpoint)
    try:
        model = offloaded_model(module)
    except ValueError:
        model = None
    with Journal(module, model, options) as opened:
        yield opened
