"""A small denoiser with two blocks and every kind of product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from brownout.host import calibrate, offload

from ..small import CONFIG, RESIDUE

__all__ = ["CONFIG", "RESIDUE"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(8, 8)
        self.ff = nn.Linear(8, 8)

    def forward(self, x):
        query = self.to_q(x).unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, query, query).transpose(1, 2).flatten(2)
        return x + self.ff(mixed)


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, hidden_states, timestep):
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return hidden_states


def inputs(count, seed=5):
    """Inputs of evaluations, each a little away from the last, as in a sampling run."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, 8, generator=generator)
    return [x + 0.1 * step * torch.randn(2, 6, 8, generator=generator) for step in range(count)]


def offloaded(accelerator, count=4):
    net = Denoiser().requires_grad_(False)
    steps = inputs(count)
    offload(net, accelerator, calibration=calibrate(net, lambda m: [m(x, 0) for x in steps], measure_error=False))
    return net


def products(net, steps, observe):
    """Evaluate; returns all sums seen by name: lists of int32 tensors, one for each call."""
    seen = {}
    observe.observer = lambda name, sums: seen.setdefault(name, []).append(sums.clone())
    for index, x in enumerate(steps):
        net(x, 1000 - index)
    observe.observer = None
    return seen


def draw(net, evaluations=3):
    """How to draw "images" (count, 1, 6, 8) with the denoiser, in a few evaluations."""

    def run(seed, count):
        x = torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(seed))
        for step in range(evaluations):
            x = x - 0.2 * net(x, 1000 - step)
        return x.sigmoid()[:, None]

    return run
