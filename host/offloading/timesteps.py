"""Groups of timesteps, each with input scales of its own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class TimestepGroups:
    """Which group of timesteps the model is in.

    The group is a tensor, not a number: compiled code updates and reads it like any other.

    Parameters
    ----------
    bounds : sequence of float
        Group g is that of timesteps below ``bounds[g]`` and not below ``bounds[g - 1]``; empty: one group for all.

    Attributes
    ----------
    present : torch.Tensor or None
        int64 (): the group; None if there is only one.
    """

    def __init__(self, bounds: Sequence[float] = ()) -> None:
        self.bounds = torch.tensor(bounds, dtype=torch.float32)
        self.present = torch.zeros((), dtype=torch.int64) if len(bounds) else None

    def __len__(self) -> int:
        return len(self.bounds) + 1

    @property
    def index(self) -> int:
        """The present group."""
        return 0 if self.present is None else int(self.present)

    def watch(self, module: nn.Module) -> RemovableHandle:
        """Let each call of `module` choose the group by its timestep.

        That is its argument ``timestep``, by name or at the place that ``forward`` gives it; the second positional
        argument if ``forward`` has no argument of that name. Of a tensor of timesteps the first counts: a denoiser's
        batch shares one.

        Raises
        ------
        ValueError
            In a call without a timestep.
        """
        names = list(inspect.signature(module.forward).parameters)
        place = names.index("timestep") if "timestep" in names else 1
        owner = type(module).__name__
        present, bounds = self.present, self.bounds

        def choose(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            timestep = named.get("timestep", arguments[place] if len(arguments) > place else None)
            if timestep is None:
                raise ValueError(
                    f"{owner} was called without a timestep, by which input scales are chosen; "
                    "pass it as timestep=..., or calibrate with timestep_groups=1"
                )
            first = torch.as_tensor(timestep).detach().reshape(-1)[:1].to("cpu", torch.float32)
            assert present is not None
            present.copy_(torch.bucketize(first, bounds, right=True)[0])

        return module.register_forward_pre_hook(choose, with_kwargs=True)


def equal_bounds(groups: int, num_train_timesteps: float) -> tuple[float, ...]:
    """Bounds of groups of equal length in 0..num_train_timesteps.

    Raises
    ------
    ValueError
        There is not at least one group.
    """
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
        raise ValueError(f"timestep_groups must be a positive integer, not {groups!r}")
    return tuple(num_train_timesteps * group / groups for group in range(1, groups))
