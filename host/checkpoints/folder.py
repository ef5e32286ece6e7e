"""The files of one run.

``run.safetensors`` says which run it is. ``evaluation-N`` has the output of evaluation N of the denoiser, and names the
checksum of the one before: so one of another run, or of another past, is found out. ``state-N`` is what has to be
loaded after N evaluations, and names the checksum of the last of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from brownout.cosim.descriptors import reserve_standard_descriptors

from ..errors import CheckpointError, CheckpointWarning, FileRefusedError, FileUnwrittenError
from ..storage.decoding import Count
from ..storage.files import TEMPORARY, read_tensors, read_with_digest, sync_folder, write_tensors
from ..storage.state import State
from .values import difference

RUN, EVALUATION, STATE = "run", "evaluation", "state"
_KINDS = {kind: f"checkpoint: {kind}" for kind in (RUN, EVALUATION, STATE)}
_ENDING = ".safetensors"
_LEFT_OVER = re.compile(r"\.tmp[A-Za-z0-9]{6}")
"""Names of what safetensors was writing when its process was killed."""


@dataclass(frozen=True)
class _Run:
    """Details of the first file."""

    run: str
    identity: dict[str, Any]
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Evaluation:
    """Details of an evaluation."""

    run: str
    number: Count
    before: str
    values: dict[str, Any]


@dataclass(frozen=True)
class _State:
    """Details of a state."""

    run: str
    number: Count
    last: str
    values: dict[str, Any]


@dataclass(frozen=True)
class FoundRun:
    """What a folder has of a run.

    Attributes
    ----------
    facts : State
        What was known when it began.
    evaluations : int
        How many evaluations the state is after.
    state : State
        What has to be loaded then.
    """

    facts: State
    evaluations: int
    state: State


def _nothing(_: State) -> None:
    """Everything can be used."""


def _try(path: Path, use: Callable[[State], None], values: State) -> None:
    try:
        use(values)
    except (ValueError, TypeError, LookupError) as error:
        raise FileRefusedError(path, f"has values that cannot be used: {error}") from error


class RunFolder:
    """Writes and reads the files of a run; no other process can do so at the same time.

    Parameters
    ----------
    path : Path
        Made if need be.
    keep : int
        States kept.

    Raises
    ------
    CheckpointError
        Another process, or another run of this one, has it.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self._run, self._last, self._written = "", "", 0
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Freed by the system when the process ends, however it ends.
            reserve_standard_descriptors()
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CheckpointError(str(FileUnwrittenError(path, error))) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise CheckpointError(
                f"{path} is in use by process {owner}; wait until it ends, or choose another folder"
            ) from error
        # On a full disk there is no room for the number, but the lock holds all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let others use the folder."""
        os.close(self._lock)

    def _file(self, kind: str, number: int) -> Path:
        return self.path / f"{kind}-{number:06d}{_ENDING}"

    def _numbers(self, kind: str) -> list[int]:
        """Numbers of what is there under exactly the names that are written here."""
        pattern = re.compile(rf"{kind}-([0-9]{{6,18}}){re.escape(_ENDING)}")
        found = ((file, pattern.fullmatch(file.name)) for file in self.path.iterdir())
        numbers = ((file, int(match[1])) for file, match in found if match)
        return sorted(number for file, number in numbers if file == self._file(kind, number))

    def clear(self) -> None:
        """Delete the run; other files stay."""
        # What a folder without a run may have goes first.
        for kind in (STATE, EVALUATION):
            for number in self._numbers(kind):
                _remove(self._file(kind, number))
        _remove(self.path / f"{RUN}{_ENDING}")
        sync_folder(self.path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what is left if something cannot be written."""
        try:
            yield
        except FileUnwrittenError as error:
            raise CheckpointError(
                f"{error}; the run is kept up to state {self._written}, where the same program, run again, goes on"
            ) from error

    def begin(self, identity: Mapping[str, Any], facts: State, state: State) -> None:
        """Write the beginning of a run; `state` is that after no evaluation."""
        self._run, self._last = secrets.token_hex(16), ""
        details = {"run": self._run, "identity": dict(identity), "facts": facts.values}
        try:
            write_tensors(self.path / f"{RUN}{_ENDING}", _KINDS[RUN], facts.tensors, details)
        except FileUnwrittenError as error:
            raise CheckpointError(str(error)) from error
        self.write_state(0, state)

    def find(
        self,
        identity: Mapping[str, Any],
        try_state: Callable[[State], None] = _nothing,
        try_evaluation: Callable[[State], None] = _nothing,
    ) -> FoundRun | None:
        """What the folder has of a run; None if it has none.

        What cannot be used is warned of, and the state before is taken. What comes after that is deleted; folders of
        such names, which are not the run's, get other names.

        Parameters
        ----------
        identity : mapping
            What must be the same for the run to go on.
        try_state, try_evaluation : callable, optional
            Raise ValueError, TypeError or LookupError for values that cannot be used.

        Raises
        ------
        CheckpointError
            It is another run, or no state can be used.
        """
        for file in list(self.path.iterdir()):
            if file.name.endswith(f"{_ENDING}{TEMPORARY}") or _LEFT_OVER.fullmatch(file.name):
                _remove(file)
        states = self._numbers(STATE)
        if not states and not self._numbers(EVALUATION):
            return None
        try:
            tensors, run = read_tensors(self.path / f"{RUN}{_ENDING}", _KINDS[RUN], _Run)
        except (FileRefusedError, FileNotFoundError) as error:
            raise CheckpointError(f"{error}, {self._remedy()}") from error
        if (other := difference(run.identity, identity)) is not None:
            raise CheckpointError(f"{self.path} holds another run: {other}; {self._remedy(another=True)}")
        self._run = run.run
        digests, broken = self._check_evaluations(try_evaluation)
        reasons = []
        for number in reversed(states):
            try:
                if number > len(digests):
                    raise FileRefusedError(self._file(STATE, number), f"needs an evaluation of which {broken}")
                state = self._read_state(number, digests[number - 1] if number else "")
                _try(self._file(STATE, number), try_state, state)
            except (FileRefusedError, FileNotFoundError) as error:
                reasons.append(str(error))
                continue
            for reason in reasons:
                warnings.warn(f"{reason}; going on from state {number}", CheckpointWarning, stacklevel=2)
            self._forget_after(number)
            self._last, self._written = digests[number - 1] if number else "", number
            return FoundRun(State(run.facts, tensors), number, state)
        reason = "; ".join(reasons) if reasons else "there are evaluations, but no states"
        raise CheckpointError(f"{self.path} has no state to go on from: {reason}; {self._remedy()}")

    def _remedy(self, another: bool = False) -> str:
        what = "call it as that run was called" if another else "put the file back"
        return f"{what}, choose another folder, or begin anew with RunCheckpoint(folder, overwrite=True)"

    def _check_evaluations(self, try_evaluation: Callable[[State], None]) -> tuple[list[str], str]:
        """Checksums of the evaluations up to the first that cannot be used, and what is wrong with that."""
        digests: list[str] = []
        while True:
            number, before = len(digests), digests[-1] if digests else ""
            try:
                tensors, values, digest = self._read_evaluation(number, before)
                _try(self._file(EVALUATION, number), try_evaluation, State(values, tensors))
                digests.append(digest)
            except (FileRefusedError, FileNotFoundError) as error:
                return digests, str(error)

    def _require(self, path: Path, details: _Evaluation | _State, **wanted: Any) -> None:
        for name, value in wanted.items():
            if (found := getattr(details, name)) != value:
                raise FileRefusedError(path, f"is of another run: its {name!r} is {found!r}, not {value!r}")

    def _read_evaluation(self, number: int, before: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], str]:
        path = self._file(EVALUATION, number)
        tensors, details, digest = read_with_digest(path, _KINDS[EVALUATION], _Evaluation)
        self._require(path, details, run=self._run, number=number, before=before)
        return tensors, details.values, digest

    def _read_state(self, number: int, last: str) -> State:
        path = self._file(STATE, number)
        tensors, details = read_tensors(path, _KINDS[STATE], _State)
        self._require(path, details, run=self._run, number=number, last=last)
        return State(details.values, tensors)

    def _forget_after(self, number: int) -> None:
        for kind, first in ((STATE, number + 1), (EVALUATION, number)):
            for each in self._numbers(kind):
                if each >= first:
                    _remove(self._file(kind, each))

    def read_evaluation(self, number: int) -> State:
        """An evaluation that `find` has found in order.

        Raises
        ------
        FileRefusedError, FileNotFoundError
            It was changed since.
        """
        tensors, details = read_tensors(self._file(EVALUATION, number), _KINDS[EVALUATION], _Evaluation)
        return State(details.values, tensors)

    def write_evaluation(self, number: int, values: State) -> None:
        """Add an evaluation."""
        details = {"run": self._run, "number": number, "before": self._last, "values": values.values}
        with self._writing():
            self._last = write_tensors(self._file(EVALUATION, number), _KINDS[EVALUATION], values.tensors, details)

    def write_state(self, number: int, state: State) -> None:
        """Add the state after `number` evaluations, all of which are there, and delete what is older than needed."""
        details = {"run": self._run, "number": number, "last": self._last, "values": state.values}
        with self._writing():
            write_tensors(self._file(STATE, number), _KINDS[STATE], state.tensors, details)
        self._written = number
        for old in self._numbers(STATE)[: -self.keep]:
            _remove(self._file(STATE, old))


def _remove(path: Path) -> None:
    """Free a name: files are deleted, folders get another name, because they may be somebody's."""
    if path.is_dir() and not path.is_symlink():
        names = (path.with_name(f"{path.name}.refused{number or ''}") for number in itertools.count())
        path.rename(next(name for name in names if not os.path.lexists(name)))
        return
    path.unlink(missing_ok=True)
