"""What two runs of one model must agree on, and where they first do not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch


@dataclass
class Trace:
    """Everything that a run computed, in order.

    Attributes
    ----------
    reference : Trace or None
        A run to agree with; the sums of the first layer call that does not are kept.
    keep_index : int or None
        Keep the sums of this layer call.
    layers : list of (str, str)
        Name of each layer call and a hash of its int32 sums.
    latents : list of torch.Tensor
        float32 (N, C, H, W) after each step.
    kept : torch.Tensor or None
        int32 (M, N) or (B, M, N).
    """

    reference: Trace | None = None
    keep_index: int | None = None
    layers: list[tuple[str, str]] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    kept: torch.Tensor | None = None

    def see_layer(self, name: str, sums: torch.Tensor) -> None:
        """Observer for `offload`: int32 (M, N) or (B, M, N)."""
        digest = hashlib.blake2b(repr(tuple(sums.shape)).encode(), digest_size=16)
        digest.update(sums.contiguous().numpy().data)
        index = len(self.layers)
        self.layers.append((name, digest.hexdigest()))
        if self.kept is None and (index == self.keep_index or self._departs(index)):
            self.kept = sums.clone()

    def see_step(self, _step: int, _timestep: int, latents: torch.Tensor) -> None:
        """Callback for `sample`: float32 (N, C, H, W)."""
        self.latents.append(latents.clone())

    def _departs(self, index: int) -> bool:
        if self.reference is None:
            return False
        return index >= len(self.reference.layers) or self.layers[index] != self.reference.layers[index]

    def first_departing_layer(self) -> int | None:
        """Index of the first layer call that is not the reference's."""
        return next((index for index in range(len(self.layers)) if self._departs(index)), None)

    def first_departing_step(self) -> int | None:
        """Index of the first step whose latents are not bit-identical to the reference's."""
        assert self.reference is not None
        for step, (mine, other) in enumerate(zip(self.latents, self.reference.latents, strict=True)):
            # Not torch.equal: it takes 0.0 for -0.0.
            if mine.numpy().tobytes() != other.numpy().tobytes():
                return step
        return None
