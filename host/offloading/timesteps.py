"""Groups of timesteps, each with input scales of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def timestep_reader(module: nn.Module) -> Callable[[tuple[Any, ...], dict[str, Any]], torch.Tensor | None]:
    """How the timestep of a call of `module` is found.

    It is the argument ``timestep``, by name or at the place that ``forward`` gives it; the second positional argument
    if ``forward`` has no argument of that name. Of a tensor of timesteps the first counts: a denoiser's batch shares
    one.

    Returns
    -------
    callable
        ``read(args, kwargs)``: float32 (1,) on the CPU; None in a call without a timestep.
    """
    names = list(inspect.signature(module.forward).parameters)
    place = names.index("timestep") if "timestep" in names else 1

    def read(arguments: tuple[Any, ...], named: dict[str, Any]) -> torch.Tensor | None:
        timestep = named.get("timestep", arguments[place] if len(arguments) > place else None)
        return None if timestep is None else torch.as_tensor(timestep).detach().reshape(-1)[:1].to("cpu", torch.float32)

    return read


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
        # Written to in inference mode and outside of it.
        with torch.inference_mode(False):
            self.present = torch.zeros((), dtype=torch.int64) if len(bounds) else None

    def __len__(self) -> int:
        return len(self.bounds) + 1

    @property
    def index(self) -> int:
        """The present group."""
        return 0 if self.present is None else int(self.present)

    def watch(self, module: nn.Module) -> RemovableHandle:
        """Let each call of `module` choose the group by its timestep, as `timestep_reader` finds it.

        Raises
        ------
        ValueError
            In a call without a timestep.
        """
        read = timestep_reader(module)
        owner = type(module).__name__
        present, bounds = self.present, self.bounds

        def choose(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            timestep = read(arguments, named)
            if timestep is None:
                raise ValueError(
                    f"{owner} was called without a timestep, by which input scales are chosen; "
                    "pass it as timestep=..., or calibrate with timestep_groups=1"
                )
            assert present is not None
            present.copy_(torch.bucketize(timestep, bounds, right=True)[0])

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
