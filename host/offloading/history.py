"""What the products of one evaluation leave behind for the next: the value that a suppressed element keeps."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

from ..accelerator import Accelerator
from ..state import State


@dataclass(frozen=True)
class HistoryKey:
    """Whose values they are.

    Attributes
    ----------
    product : int
        Number of the product in its model.
    part : int
        Part of the batch, as the caller numbers them (`OffloadedModel.part`).
    group : int
        Timestep group, each of which has input scales of its own.
    """

    product: int
    part: int
    group: int


class History:
    """One output slot for each key, of the shape that was last asked for.

    Parameters
    ----------
    accelerator : Accelerator
        Makes the slots, and counts what is suppressed in those that are new.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._slots: dict[HistoryKey, torch.Tensor] = {}

    def slot(self, key: HistoryKey, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """int32 tensor of the key's values: those of the evaluation before, or zeros.

        A new shape or device makes a new slot, and the values that were in the old one are gone.
        """
        slot = self._slots.get(key)
        if slot is None or tuple(slot.shape) != shape or slot.device != device:
            slot = self._slots[key] = self.accelerator.new_slot(*shape, device=device)
        return slot

    def state(self) -> State:
        """All values, and which of their slots no product has been written to."""
        slots = [
            [*astuple(key), str(slot.device), self.accelerator.is_unwritten(slot)] for key, slot in self._slots.items()
        ]
        return State({"slots": slots}, {str(place): slot for place, slot in enumerate(self._slots.values())})

    def load_state(self, state: State) -> None:
        """Make the slots of a state anew; those that were there are gone."""
        self._slots.clear()
        for place, (product, part, group, device, unwritten) in enumerate(state.values["slots"]):
            values = state.tensors[str(place)]
            slot = self.accelerator.load_slot(values, unwritten=unwritten, device=device)
            self._slots[HistoryKey(product, part, group)] = slot

    def clear(self) -> None:
        """Forget all values, for example because another image begins."""
        self._slots.clear()

    def __len__(self) -> int:
        return len(self._slots)
