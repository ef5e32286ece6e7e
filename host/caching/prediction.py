"""A better value than the last one for elements that are rolled back: extrapolated from the last two evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from brownout.hw.matrix_layout import row_major

from ..device.accelerator import Accelerator
from ..device.product.protection import LogRecord
from ..device.product.reload import Places

DAMPING = 0.5
"""Share of the last change that is expected to come again; docs/caching.md has the measurement."""


@dataclass(frozen=True)
class Writes:
    """What writing predictions has caused.

    Attributes
    ----------
    elements : int
        Elements written.
    bytes_read, bytes_written : int
        DRAM traffic in whole beats of the bus, of which each run of neighbouring elements takes its own.
    """

    elements: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    @property
    def bytes(self) -> int:
        """Both directions: times ``EnergyModel.dram_byte_j`` it is the energy."""
        return self.bytes_read + self.bytes_written

    def __add__(self, other: Writes) -> Writes:
        return Writes(
            self.elements + other.elements,
            self.bytes_read + other.bytes_read,
            self.bytes_written + other.bytes_written,
        )


def logged_places(log: Sequence[LogRecord], *, first_row: int = 0, first_col: int = 0) -> Places:
    """Elements that records of `Accelerator.last_log` say are uncorrectable; the others are not in it.

    Parameters
    ----------
    log : sequence of LogRecord
        Log of the last product.
    first_row, first_col : int
        Place of the product.
    """
    # The hardware numbers rows and columns modulo 2^32.
    pairs = sorted(
        ((record.row - first_row) % (1 << 32), (record.col - first_col) % (1 << 32) + position)
        for record in log
        for position in record.uncorrectable
    )
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Places(table[:, 0].copy(), table[:, 1].copy())


def write_predictions(
    slot: torch.Tensor,
    latest: torch.Tensor,
    earlier: torch.Tensor | None,
    places: Places,
    *,
    factor: float,
    bus_bytes: int = 16,
) -> Writes:
    """Write ``latest + factor * (latest - earlier)`` at `places` of `slot`, and nowhere else.

    Rounded half to even and saturated to the range of the slot's dtype. Places are read before any is written, so
    `earlier` may be `slot` itself.

    Parameters
    ----------
    slot : torch.Tensor
        int32, int16 or int8, (M, N) or (B, M, N), contiguous: the output of the present evaluation.
    latest, earlier : torch.Tensor
        Outputs of the same shape and dtype: the outputs of the evaluation before, and of the one before that; without
        an earlier one it is the latest value that is written.
    places : Places
        Uncorrectable elements.
    factor : float
        Damping times the distance from the latest to the present evaluation, over that from the earlier to the latest.
    bus_bytes : int
        Width of the bus in which traffic is counted.

    Raises
    ------
    ValueError
        Shapes or dtypes differ.
    """
    for name, other in (("latest", latest), ("earlier", earlier)):
        if other is not None and (other.shape != slot.shape or other.dtype != slot.dtype):
            raise ValueError(
                f"{name} must be {slot.dtype} {tuple(slot.shape)} as the slot, not {other.dtype} {tuple(other.shape)}"
            )
    if not len(places):
        return Writes()
    columns = slot.shape[-1]
    index = torch.from_numpy(places.rows * columns + places.cols).to(slot.device)
    predicted = latest.view(-1)[index]
    if earlier is not None:
        change = predicted.double() - earlier.view(-1)[index].double()
        limits = torch.iinfo(slot.dtype)
        extrapolated = (predicted.double() + factor * change).round()
        predicted = extrapolated.clamp(limits.min, limits.max).to(slot.dtype)
    slot.view(-1)[index] = predicted
    row_bytes = -(-columns * slot.element_size() // bus_bytes) * bus_bytes
    layout = row_major(slot.shape[-2], columns, row_bytes, slot.element_size())
    runs = places.runs(layout).astype(np.int64)
    beats = int(((runs[:, 0] + runs[:, 1] - 1) // bus_bytes - runs[:, 0] // bus_bytes + 1).sum()) * bus_bytes
    return Writes(len(places), beats * (1 if earlier is None else 2), beats)


class ProductPredictor:
    """Output slots of one product, and what uncorrectable elements of its next evaluation are expected to be.

    Two slots take turns. As a product is written into one, the other holds the values of the evaluation before, and
    uncorrectable elements, which are not written, still hold those of the evaluation before that. So both values are
    there without anything having been copied: the history costs one more slot of memory and no traffic, and only
    uncorrectable elements are read and written::

        slot = predictor.slot((m, n))
        accelerator.gemm(a, w, out=slot, error_key=key)  # with on_uncorrectable="suppress"
        writes = predictor.settle(logged_places(accelerator.last_log))

    In the first evaluation uncorrectable elements stay zero, in the second they get the value of the first.
    Uncorrectable elements that the log had no room for keep a value that is two evaluations old.

    Parameters
    ----------
    accelerator : Accelerator
        Makes the first slot, in which it counts what is suppressed before anything was written.
    damping : float
        0: the latest value, 1: undamped extrapolation.
    dtype : torch.dtype
        int32, or int8 or int16 for requantised products.

    Raises
    ------
    ValueError
        `damping` is not in 0..1.
    """

    def __init__(self, accelerator: Accelerator, *, damping: float = DAMPING, dtype: torch.dtype = torch.int32) -> None:
        if not 0 <= damping <= 1:
            raise ValueError(f"damping must be in 0..1, not {damping!r}")
        self.accelerator, self.damping, self.dtype = accelerator, damping, dtype
        self._slots: list[torch.Tensor] = []
        self._nodes: list[int] = []
        self._open = False

    def reset(self) -> None:
        """Forget all values, for example because another image begins."""
        self._slots, self._nodes, self._open = [], [], False

    def slot(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> torch.Tensor:
        """The tensor to give as ``out`` to the product that begins; another shape or device is a `reset`.

        Where the product of the slot that was given last has not been settled, it is given again.
        """
        if self._slots and (tuple(self._slots[0].shape) != shape or self._slots[0].device != torch.device(device)):
            self.reset()
        if not self._slots:
            first = self.accelerator.new_slot(*shape, dtype=self.dtype, device=device)
            # Written to in inference mode and outside of it.
            with torch.inference_mode(False):
                self._slots = [torch.zeros_like(first), first]
        if not self._open:
            self._slots.reverse()
            self._open = True
        return self._slots[0]

    def settle(self, places: Places, *, evaluation: int | None = None) -> Writes:
        """Write predictions at the uncorrectable elements of the product that has run in `slot`.

        Parameters
        ----------
        places : Places
            See `logged_places`.
        evaluation : int, optional
            Number of the denoiser's evaluation, above that of the last; by default one more. Where a step cache skips
            evaluations, distances differ.

        Raises
        ------
        ValueError
            No slot was asked for, or evaluations do not rise.
        """
        if not self._open:
            raise ValueError("there is no product to settle; give slot() as out= to gemm first")
        node = (self._nodes[-1] + 1 if self._nodes else 0) if evaluation is None else evaluation
        if self._nodes and node <= self._nodes[-1]:
            raise ValueError(f"evaluation must be above the last one, {self._nodes[-1]}, not {node}")
        present, latest = self._slots
        writes = Writes()
        if self._nodes:
            earlier, factor = None, 0.0
            if len(self._nodes) > 1 and self.damping:
                earlier = present
                factor = self.damping * (node - self._nodes[-1]) / (self._nodes[-1] - self._nodes[-2])
            bus_bytes = self.accelerator.config.bus_bytes
            writes = write_predictions(present, latest, earlier, places, factor=factor, bus_bytes=bus_bytes)
        self._nodes = [*self._nodes[-1:], node]
        self._open = False
        return writes

    @property
    def evaluations(self) -> int:
        """Evaluations whose values are held: 0, 1 or 2."""
        return len(self._nodes)

    @property
    def held_bytes(self) -> int:
        """Memory of both slots."""
        return sum(slot.nbytes for slot in self._slots)

    def state(self) -> dict[str, Any]:
        """Everything that is needed to go on between two products: tensors, and values that JSON can hold.

        Raises
        ------
        ValueError
            A product has begun and is not settled.
        """
        if self._open:
            raise ValueError("a product has begun; settle it before its state is taken")
        return {"nodes": list(self._nodes), **{f"slot{index}": slot for index, slot in enumerate(self._slots)}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._nodes = [int(node) for node in state["nodes"]]
        with torch.inference_mode(False):
            self._slots = [state[f"slot{index}"].clone() for index in range(len(state) - 1)]
        self._open = False
