"""What the products of one evaluation leave behind for the next: the value that a suppressed element keeps."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

from ..device.accelerator import Accelerator
from ..device.product.operands import OUTPUT_DTYPES
from ..storage.decoding import Count, Form, Positive, check, check_tensors
from ..storage.state import State

INT32_LIMIT = (1 << 31) - 1


@dataclass(frozen=True)
class HistoryKey:
    """Whose values they are.

    Attributes
    ----------
    product : int
        Number of the product in its model.
    part : int
        Part of the batch, as the caller numbers them (`OffloadedModel.part`).
    occurrence : int
        Which of its calls in an evaluation it is, if a layer is called several times.
    """

    product: int
    part: int
    occurrence: int = 0


@dataclass
class HistorySlot:
    """Sums of the last evaluation.

    Attributes
    ----------
    sums : torch.Tensor
        int32, int16 or int8 (M, N) or (B, M, N).
    scale : float
        Scale of the input with which they were made; 1 of narrow outputs, which have a scale of their own.
    evaluation : int
        Evaluation of the model, that wrote it last.
    """

    sums: torch.Tensor
    scale: float
    evaluation: int


@dataclass(frozen=True)
class _Values:
    """State of a history, without the sums: key, scale, evaluation, device, and whether nothing was written there."""

    slots: list[tuple[Count, int, Count, Positive, int, str, bool]]
    ages: list[tuple[int, Count]]


class History:
    """One output slot for each key, of the shape that was last asked for.

    Parameters
    ----------
    accelerator : Accelerator
        Makes the slots, and counts what is suppressed in those that are new.

    Attributes
    ----------
    ages : dict of int to int
        How often a slot was used whose values were so many evaluations old.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.ages: dict[int, int] = {}
        self._slots: dict[HistoryKey, HistorySlot] = {}

    def slot(
        self,
        key: HistoryKey,
        shape: tuple[int, ...],
        device: torch.device,
        *,
        scale: float = 1.0,
        evaluation: int = 0,
        dtype: torch.dtype = torch.int32,
    ) -> tuple[torch.Tensor, bool]:
        """Output of an evaluation that is about to be written.

        A new shape, dtype or device makes a new slot, and the values that were in the old one are gone. If the input's
        scale has changed, the values are converted to the new one: the host reads and writes them.

        Parameters
        ----------
        key : HistoryKey
            Whose.
        shape : tuple of int
            (M, N) or (B, M, N).
        device : torch.device
            Device of the operands.
        scale : float
            Scale of the input now.
        evaluation : int
            Evaluation of the model, now.
        dtype : torch.dtype
            int32, int16 or int8.

        Returns
        -------
        sums : torch.Tensor
            `dtype`: those of the evaluation before, or zeros.
        valid : bool
            Whether there was one.
        """
        held = self._slots.get(key)
        if held is None or (tuple(held.sums.shape), held.sums.dtype, held.sums.device) != (shape, dtype, device):
            sums = self.accelerator.new_slot(*shape, dtype=dtype, device=device)
            self._slots[key] = HistorySlot(sums, scale, evaluation)
            return sums, False
        if held.scale != scale:
            limits = torch.iinfo(dtype)
            rescaled = (held.sums.double() * (held.scale / scale)).round_().clamp_(limits.min, limits.max)
            held.sums.copy_(rescaled)
            self.accelerator.add_host_traffic(2 * held.sums.numel() * held.sums.element_size())
        age = evaluation - held.evaluation
        self.ages[age] = self.ages.get(age, 0) + 1
        held.scale, held.evaluation = scale, evaluation
        return held.sums, True

    def forget(self, key: HistoryKey) -> None:
        """Forget the values of a key: for example because its product failed half way."""
        self._slots.pop(key, None)

    def forget_product(self, number: int) -> None:
        """Forget the values of a product: its weights are others, and so is the meaning of sums."""
        for key in [key for key in self._slots if key.product == number]:
            del self._slots[key]

    def state(self) -> State:
        """All values, and which of their slots no product has been written to."""
        slots = [
            [
                *astuple(key),
                slot.scale,
                slot.evaluation,
                str(slot.sums.device),
                self.accelerator.is_unwritten(slot.sums),
            ]
            for key, slot in self._slots.items()
        ]
        ages = [[age, count] for age, count in self.ages.items()]
        tensors = {str(place): slot.sums for place, slot in enumerate(self._slots.values())}
        return State({"slots": slots, "ages": ages}, tensors)

    def load_state(self, state: State) -> None:
        """Make the slots of a state anew; those that were there are gone."""
        values = check(state.values, _Values, "the state of the histories")
        forms = {str(place): Form(OUTPUT_DTYPES) for place in range(len(values.slots))}
        check_tensors(state.tensors, forms, "the state of the histories")
        self._slots.clear()
        self.ages = dict(state.values["ages"])
        for place, (*key, scale, evaluation, device, unwritten) in enumerate(state.values["slots"]):
            sums = self.accelerator.load_slot(state.tensors[str(place)], unwritten=unwritten, device=device)
            self._slots[HistoryKey(*key)] = HistorySlot(sums, scale, evaluation)

    def clear(self) -> None:
        """Forget all values, for example because another image begins."""
        self._slots.clear()
        self.ages.clear()

    def __len__(self) -> int:
        return len(self._slots)
