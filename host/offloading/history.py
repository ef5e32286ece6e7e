"""What the products of one evaluation leave behind for the next: the value that a suppressed element keeps."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..accelerator import Accelerator


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

    def clear(self) -> None:
        """Forget all values, for example because another image begins."""
        self._slots.clear()

    def __len__(self) -> int:
        return len(self._slots)
