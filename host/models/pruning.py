"""Structured pruning: MLPs of transformer blocks with fewer hidden columns, which stay dense products."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)

COMPENSATIONS = ("mean", "least_squares")

RIDGE = 1e-6
"""Of the least squares, relative to the mean square of a hidden activation."""


@dataclass(frozen=True)
class HiddenStatistics:
    """Second moments of the H hidden activations of an MLP.

    Attributes
    ----------
    moments : torch.Tensor
        float64 (H + 1, H + 1): means of the products of two activations, the last of which is the constant 1.
    """

    moments: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """float64 (H,)."""
        return self.moments[:-1, -1]

    @property
    def root_mean_square(self) -> torch.Tensor:
        """float64 (H,)."""
        return self.moments.diagonal()[:-1].sqrt()


@dataclass(frozen=True)
class _Mlp:
    """A ``FeedForward`` of diffusers: `halves` is 2 where the first layer computes gates too (GEGLU)."""

    activation: Any
    first: nn.Linear
    second: nn.Linear

    @property
    def hidden(self) -> int:
        return self.second.in_features

    @property
    def halves(self) -> int:
        return self.first.out_features // self.hidden


def _mlps(model: nn.Module) -> dict[str, tuple[Any, _Mlp]]:
    from diffusers.models.attention import FeedForward

    found: dict[str, tuple[Any, _Mlp]] = {}
    for name, module in model.named_modules():
        if isinstance(module, FeedForward):
            first, second = getattr(module.net[0], "proj", None), module.net[2]
            if not isinstance(first, nn.Linear) or not isinstance(second, nn.Linear):
                raise ValueError(f"layers of {name!r} are not Linear; prune before offload, or restore first")
            found[name] = (module, _Mlp(module.net[0], first, second))
    if not found:
        raise ValueError(f"{type(model).__name__} has no MLP of diffusers (FeedForward) to prune")
    return found


@torch.no_grad()
def hidden_statistics(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, HiddenStatistics]:
    """Second moments of hidden activations of every MLP, on representative data.

    Parameters
    ----------
    model : nn.Module
        A float model of diffusers.
    run : callable
        ``run(model)`` evaluates it on representative data, for example draws pictures.

    Returns
    -------
    dict of str to HiddenStatistics
        By dotted name of the MLP. Each takes 8 (H + 1)^2 bytes.

    Raises
    ------
    ValueError
        The model has no MLPs of diffusers or is offloaded, or one was not evaluated.
    """
    sums: dict[str, torch.Tensor] = {}
    rows: dict[str, int] = {}
    handles = []
    for name, (_, mlp) in _mlps(model).items():

        def add(_module: nn.Module, arguments: tuple[torch.Tensor, ...], name: str = name) -> None:
            hidden = arguments[0].detach().flatten(0, -2).double()
            extended = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)
            product = extended.T @ extended
            sums[name] = sums[name].add_(product) if name in sums else product
            rows[name] = rows.get(name, 0) + len(hidden)

        handles.append(mlp.second.register_forward_pre_hook(add))
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()
    for name in _mlps(model):
        if name not in sums:
            raise ValueError(f"MLP {name!r} was not evaluated by run; give a run that uses all of the model")
    return {name: HiddenStatistics(total / rows[name]) for name, total in sums.items()}


def importance(model: nn.Module, statistics: Mapping[str, HiddenStatistics] | None = None) -> dict[str, torch.Tensor]:
    """How much each hidden unit of each MLP matters.

    The length of its column in the second layer, times that of its row in the first (of both its rows, with gates), or
    with `statistics` times the root mean square of its activation.

    Returns
    -------
    dict of str to torch.Tensor
        float64 (H,), by dotted name of the MLP.

    Raises
    ------
    ValueError
        The model has no MLPs of diffusers, or is offloaded.
    """
    result = {}
    for name, (_, mlp) in _mlps(model).items():
        column = mlp.second.weight.detach().double().norm(dim=0)
        if statistics is None:
            rows = mlp.first.weight.detach().double().unflatten(0, (mlp.halves, mlp.hidden))
            result[name] = column * rows.norm(dim=-1).prod(0)
        else:
            result[name] = column * statistics[name].root_mean_square.to(column.device)
    return result


@torch.no_grad()
def prune_mlp(
    model: Model,
    share: float,
    *,
    statistics: Mapping[str, HiddenStatistics] | None = None,
    compensation: str | None = None,
) -> Model:
    """Copy a model, and leave out the least important hidden units of each of its MLPs.

    Parameters
    ----------
    model : nn.Module
        A float model of diffusers (DiT, PixArt, U-Nets with transformer blocks); it is not changed.
    share : float
        Share of the hidden units of each MLP, 0 to below 1.
    statistics : mapping, optional
        What `hidden_statistics` returned; weights the importance, and is needed for `compensation`.
    compensation : {"mean", "least_squares"}, optional
        What the second layer does about units that are gone: gets what they contribute on average as bias; or gets
        weights and bias anew, so that its output on the calibration data has the least squared error.

    Returns
    -------
    nn.Module
        Of the same class, with smaller Linear layers. Its ``state_dict`` fits models that were pruned to the same share
        only, and ``from_pretrained`` does not know about that: save what it was pruned from.

    Raises
    ------
    ValueError
        `share` or `compensation` is not one of those, statistics are missing or of another model, or the model cannot
        be pruned.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in 0 to below 1, not {share!r}")
    if compensation is not None and compensation not in COMPENSATIONS:
        raise ValueError(
            f"compensation must be None or one of {', '.join(map(repr, COMPENSATIONS))}, not {compensation!r}"
        )
    if compensation is not None and statistics is None:
        raise ValueError(f"compensation={compensation!r} needs statistics=hidden_statistics(model, run)")
    for name, (_, mlp) in _mlps(model).items():
        if statistics is not None and (name not in statistics or len(statistics[name].mean) != mlp.hidden):
            raise ValueError(f"statistics do not fit MLP {name!r}, of {mlp.hidden} hidden units; collect them anew")
    scores = importance(model, statistics)
    pruned = copy.deepcopy(model)
    for name, (module, mlp) in _mlps(pruned).items():
        count = max(1, round(mlp.hidden * (1 - share)))
        kept = scores[name].argsort(descending=True, stable=True)[:count].sort().values
        if count == mlp.hidden:
            continue
        weight: torch.Tensor = mlp.second.weight[:, kept]
        bias: torch.Tensor | None = mlp.second.bias
        if compensation is not None and statistics is not None:
            weight, bias = _compensated(mlp.second, kept, statistics[name], compensation)
        rows = torch.cat([kept + half * mlp.hidden for half in range(mlp.halves)])
        first_bias = None if mlp.first.bias is None else mlp.first.bias[rows]
        mlp.activation.proj = _linear(mlp.first, mlp.first.weight[rows], first_bias)
        module.net[2] = _linear(mlp.second, weight, bias)
    return pruned


def _linear(like: nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=weight.device, dtype=like.weight.dtype)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer.requires_grad_(like.weight.requires_grad).train(like.training)


def _compensated(
    layer: nn.Linear, kept: torch.Tensor, statistics: HiddenStatistics, compensation: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 weights (N, kept) and bias (N,) of the second layer."""
    weight, moments = layer.weight.double(), statistics.moments.to(layer.weight.device)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.double()
    if compensation == "mean":
        gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        gone[kept] = False
        return weight[:, kept], bias + weight[:, gone] @ moments[:-1, -1][gone]
    seen = torch.cat([kept, kept.new_tensor([weight.shape[1]])])
    inner = moments[seen][:, seen].clone()
    # Not on the constant, so that the mean is kept.
    inner.diagonal()[:-1] += RIDGE * moments.diagonal()[:-1].mean()
    solution = torch.linalg.solve(inner, (weight @ moments[:-1, seen]).T).T
    return solution[:, :-1], bias + solution[:, -1]
