"""Extrapolation of a tensor from its last values."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def extrapolation_weights(nodes: Sequence[int], place: float) -> list[float]:
    """Weights of values at `nodes` in the value at `place` of the polynomial through all of them (Lagrange).

    It is the Taylor expansion about any node whose derivatives come from divided differences of all nodes: exact for
    polynomials of degree ``len(nodes) - 1``, also where nodes are unevenly spaced.
    """
    weights = []
    for node in nodes:
        weight = 1.0
        for other in nodes:
            if other != node:
                weight *= (place - other) / (node - other)
        weights.append(weight)
    return weights


class Series:
    """The last values of a tensor, each with the number of the evaluation that it is from.

    Parameters
    ----------
    order : int
        Degree of the polynomial by which values are extrapolated: ``order + 1`` values are kept.
    damping : float
        Share of the extrapolated change that is added to the latest value.

    Attributes
    ----------
    nodes : list of int
        Evaluations of the values that are kept, the latest last.
    values : list of torch.Tensor
        Copies, as they were recorded.
    bytes_written, bytes_read : int
        Memory traffic that recording and predicting values would cause.
    """

    def __init__(self, order: int, damping: float = 1.0) -> None:
        self.order, self.damping = order, damping
        self.nodes: list[int] = []
        self.values: list[torch.Tensor] = []
        self.bytes_written = self.bytes_read = 0

    def record(self, node: int, value: torch.Tensor) -> None:
        """Keep a copy of the value of evaluation `node`, and forget the oldest.

        Raises
        ------
        ValueError
            There is a value of that or a later evaluation already.
        """
        if self.nodes and node <= self.nodes[-1]:
            raise ValueError(
                f"evaluation {node} cannot follow evaluation {self.nodes[-1]}: a cached module was called twice in one "
                "evaluation, as with chunked feed-forward layers; switch that off, or cache whole blocks"
            )
        self.nodes.append(node)
        # A copy, because whoever called may write into it.
        self.values.append(value.detach().clone())
        self.bytes_written += value.nbytes
        del self.nodes[: -self.order - 1], self.values[: -self.order - 1]

    def predict(self, node: int) -> torch.Tensor:
        """Extrapolate to evaluation `node`, with as high an order as there are values for.

        Raises
        ------
        ValueError
            Nothing has been recorded.
        """
        if not self.nodes:
            raise ValueError("nothing can be predicted before a first full evaluation")
        weights = [self.damping * weight for weight in extrapolation_weights(self.nodes, node)]
        weights[-1] += 1 - self.damping
        result: torch.Tensor | None = None
        for weight, value in zip(weights, self.values, strict=True):
            self.bytes_read += value.nbytes
            exact = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
            result = exact * weight if result is None else result.add_(exact, alpha=weight)
        assert result is not None
        return result.to(self.values[-1].dtype)

    def clear(self) -> None:
        """Forget all values; traffic goes on being counted."""
        self.nodes.clear()
        self.values.clear()

    def restore(self, nodes: Sequence[int], values: Sequence[torch.Tensor]) -> None:
        """Take up nodes and values that another series had."""
        self.nodes = [int(node) for node in nodes]
        self.values = [value.clone() for value in values]
