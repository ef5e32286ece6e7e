"""Output tensors that have not been written yet."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch

from .operands import OUTPUT_DTYPES


class Slots:
    """Remembers which of the tensors that it made are still unwritten."""

    def __init__(self) -> None:
        # By identity: tensors compare by their elements.
        self._unwritten: dict[int, weakref.ref[torch.Tensor]] = {}

    def make(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
        """A tensor of zeros.

        Raises
        ------
        ValueError
            It could not be the output of a product.
        """
        if dtype not in OUTPUT_DTYPES:
            raise ValueError(f"dtype must be torch.int32, torch.int16 or torch.int8, not {dtype}")
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"a slot must have shape (M, N) or (B, M, N), not {tuple(shape)}")
        # Written to in inference mode and outside of it.
        with torch.inference_mode(False):
            slot = torch.zeros(*shape, dtype=dtype, device=device)
        key = id(slot)
        self._unwritten[key] = weakref.ref(slot, lambda _: self._unwritten.pop(key, None))
        return slot

    def is_unwritten(self, tensor: torch.Tensor) -> bool:
        """Whether this is an unwritten slot."""
        return id(tensor) in self._unwritten

    def take(self, tensor: torch.Tensor) -> bool:
        """Whether this is an unwritten slot; from now on it is not."""
        return self._unwritten.pop(id(tensor), None) is not None
