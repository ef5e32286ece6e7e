"""Denoisers of which a device evaluates some rows."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..plan.divided import DividedModel
from ..plan.plan import Plan
from .exchange import Exchange
from .stale_cache import AnyKept, Ranges


def map_tensors(function: Callable[[torch.Tensor], torch.Tensor], values: Any) -> Any:
    """Apply a function to all tensors in nested mappings; what is no tensor stays."""
    if isinstance(values, torch.Tensor):
        return function(values)
    if isinstance(values, Mapping):
        return {name: map_tensors(function, value) for name, value in values.items()}
    return values


def traceable(
    module: nn.Module, inputs: torch.Tensor, conditions: Mapping[str, Any]
) -> tuple[nn.Module, Callable[[nn.Module], Any]]:
    """A denoiser like `module` on the meta device, float, and how to evaluate it with inputs of these shapes."""
    with torch.device("meta"):
        empty = type(module).from_config(module.config).eval()  # type: ignore[attr-defined]
    sample, arguments = inputs.to("meta"), map_tensors(lambda tensor: tensor.to("meta"), dict(conditions))
    timestep = torch.zeros(len(inputs), dtype=torch.int64, device="meta")
    return empty, lambda each: each(sample, timestep=timestep, **arguments)


class PatchedDenoiser(abc.ABC):
    """An offloaded denoiser, of which some rows are evaluated while others evaluate the rest.

    It remembers what others have sent, by the place in the model: that is used until something newer comes.

    Attributes
    ----------
    module : nn.Module
        The denoiser.
    rows : int
        Into which an image can be divided.
    latent_rows : int
        Rows of latents of each of them.
    kept : tuple of StalePeerCache
        What is remembered.
    resynchronise : bool
        Whether rows can be given to other devices only in a synchronous step.
    """

    module: nn.Module
    rows: int
    latent_rows: int
    kept: tuple[AnyKept, ...]
    resynchronise: bool = False

    @abc.abstractmethod
    def prepare(self) -> None:
        """Connect the offloaded module to the exchange; raises PlanError if it cannot be."""

    @abc.abstractmethod
    def workload(self, inputs: torch.Tensor, conditions: Mapping[str, Any]) -> DividedModel:
        """Products of an evaluation of the whole image with such inputs, for planners."""

    @abc.abstractmethod
    def evaluate(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, Any], exchange: Exchange
    ) -> torch.Tensor:
        """Evaluate the rows that the exchange's plan gives to this device.

        Parameters
        ----------
        latents : torch.Tensor
            float32 (B, C, h, W) of these rows.
        timestep : torch.Tensor
            int64 (B,).
        conditions : mapping
            Further arguments of the denoiser, for the whole image.
        exchange : Exchange
            Exchange with the others.

        Returns
        -------
        torch.Tensor
            float32 (B, C', h, W).
        """

    def meet(self, exchange: Exchange) -> None:
        """Receive all that the next evaluation would use of others."""
        for each in self.kept:
            each.meet(exchange)

    def redistribute(self, after: Ranges) -> None:
        """Rows belong to other devices from now on: divide anew what is held; raises PlanError if it cannot be."""
        for each in self.kept:
            each.redistribute(after)

    def held(self) -> Any:
        """What is held, to go back to (`restore`) or for a device that has nothing yet; it is not changed later."""
        return tuple(each.held() for each in self.kept)

    def restore(self, held: Any) -> None:
        """Hold what `held` returned, here or on another device."""
        for each, items in zip(self.kept, held, strict=True):
            each.restore(items)

    def forget(self) -> None:
        """Another image begins."""
        for each in self.kept:
            each.forget()


def ranges_of(plan: Plan, *, synchronous: bool) -> Ranges:
    """Rows of all devices of a plan."""
    return {share.device: share.warmup_rows if synchronous else share.rows for share in plan.shares}
