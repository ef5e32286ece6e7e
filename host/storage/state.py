"""What something has to be given to go on as it would have gone on: tensors, and values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from .packable import packable


@packable("state.State")
@dataclass(frozen=True)
class State:
    """A state, as it is kept in files.

    Attributes
    ----------
    values : dict
        What JSON can hold, with names as keys: no tuples, no infinities.
    tensors : dict of str to torch.Tensor
        Any dtypes and devices. They may be the live ones: who keeps a state copies it at once.
    """

    values: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


class Stateful(Protocol):
    """What has a state."""

    def state(self) -> State:
        """The present state."""

    def load_state(self, state: State) -> None:
        """Take up a state that `state` returned, here or in another process. Tensors are on the CPU."""


def join(states: Mapping[str, State]) -> State:
    """One state of several; their names must have no ``/``."""
    values = {name: state.values for name, state in states.items()}
    tensors = {f"{name}/{key}": tensor for name, state in states.items() for key, tensor in state.tensors.items()}
    return State(values, tensors)


def split(state: State) -> dict[str, State]:
    """Undo `join`."""
    states = {name: State(values) for name, values in state.values.items()}
    for key, tensor in state.tensors.items():
        name, _, rest = key.partition("/")
        states[name].tensors[rest] = tensor
    return states
