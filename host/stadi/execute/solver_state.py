"""What a solver remembers of the rows of an image; it can be cut, joined and sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ...storage.packable import packable

NO_HISTORY = -1
"""In `SolverState.denoised_at`: the row has not been evaluated yet."""


@packable("stadi.solver_state.SolverState")
@dataclass(frozen=True, eq=False, kw_only=True)
class SolverState:
    """What a solver goes on from: latents of some rows, and what it remembers of each.

    Attributes
    ----------
    latents : torch.Tensor
        (B, C, H, W) at the noise level of the step that comes next.
    denoised : torch.Tensor or None
        (B, C, H, W) image that each row's last evaluation predicted; None where the solver has no use for it.
    denoised_at : torch.Tensor or None
        int64 (H,) on the CPU: step of that evaluation; `NO_HISTORY` before the first one. None with `denoised`.

    Raises
    ------
    ValueError
        Shapes or dtypes are others.
    """

    latents: Tensor
    denoised: Tensor | None = None
    denoised_at: Tensor | None = None

    def __post_init__(self) -> None:
        if self.latents.ndim != 4 or not self.latents.numel() or not self.latents.is_floating_point():
            raise ValueError(
                f"latents must be floating-point numbers of shape (B, C, H, W), none of them 0, "
                f"not {self.latents.dtype} {tuple(self.latents.shape)}"
            )
        if (self.denoised is None) != (self.denoised_at is None):
            raise ValueError("denoised and denoised_at belong together: give both or neither")
        if self.denoised is None or self.denoised_at is None:
            return
        if self.denoised.shape != self.latents.shape or self.denoised.dtype != self.latents.dtype:
            raise ValueError(
                f"denoised must be {self.latents.dtype} {tuple(self.latents.shape)} as latents are, "
                f"not {self.denoised.dtype} {tuple(self.denoised.shape)}"
            )
        at = self.denoised_at
        if at.shape != (self.height,) or at.dtype != torch.int64 or at.device.type != "cpu":
            raise ValueError(
                f"denoised_at must be torch.int64 ({self.height},) on cpu, "
                f"not {at.dtype} {tuple(at.shape)} on {at.device}"
            )

    @property
    def height(self) -> int:
        """Rows of the latents."""
        return self.latents.shape[2]

    def rows(self, start: int, stop: int) -> SolverState:
        """Rows `start` to `stop` - 1 of the latents, in memory of their own.

        Raises
        ------
        ValueError
            There are no such rows.
        """
        if not 0 <= start < stop <= self.height:
            raise ValueError(f"rows must be within 0..{self.height} and at least one, not {start}..{stop}")
        return SolverState(
            latents=_cut(self.latents, start, stop),
            denoised=None if self.denoised is None else _cut(self.denoised, start, stop),
            denoised_at=None if self.denoised_at is None else self.denoised_at[start:stop].clone(),
        )

    @staticmethod
    def join(states: Sequence[SolverState]) -> SolverState:
        """Rows of several states, one below the other.

        Raises
        ------
        ValueError
            There is no state, or they differ in more than their height.
        """
        if not states:
            raise ValueError("there must be at least one state to join")
        parts = [state.tensors() for state in states]
        kinds = [
            (sorted(part), state.latents.dtype, (*state.latents.shape[:2], state.latents.shape[3]))
            for part, state in zip(parts, states, strict=True)
        ]
        for kind in kinds:
            if kind != kinds[0]:
                raise ValueError(
                    f"states must agree in (tensors, dtype, (B, C, W)) to be joined, not {kinds[0]} and {kind}"
                )
        return SolverState(
            **{
                name: torch.cat([part[name] for part in parts], 0 if parts[0][name].ndim == 1 else 2)
                for name in parts[0]
            }
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the names of the attributes, without those that are None: for messages and checkpoints."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SolverState:
        """Inverse of `tensors`.

        Raises
        ------
        ValueError
            Names or shapes are not those of a state.
        """
        names = {each.name for each in fields(cls)}
        if "latents" not in tensors or not names.issuperset(tensors):
            raise ValueError(f"a state has latents, and of {sorted(names)} what it needs, not {sorted(tensors)}")
        return cls(**tensors)


def _cut(tensor: Tensor, start: int, stop: int) -> Tensor:
    # A view would drag the whole tensor along into pickles.
    return tensor[:, :, start:stop].clone(memory_format=torch.contiguous_format)
