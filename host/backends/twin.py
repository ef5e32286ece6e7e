"""Products on the functional twin: the bits of the RTL at the speed of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from brownout.hw.config import AcceleratorConfig

from ..operands import GemmShape, Product, ResidentWeights
from ..twin.counts import gemm_counts
from ..twin.matmul import exact_matmul
from ..twin.requantise import add_bias_, requantise
from .base import Backend


class TwinBackend(Backend):
    """Computes on whatever torch device the operands are on.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator whose counters are reproduced.
    """

    name = "twin"

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        # Known names from the start, so that a counter never appears out of nothing.
        self._names = tuple(gemm_counts(config, GemmShape(1, 1, 1, 1), channels=False, requant=False))
        self.restart()

    def check_device(self, name: str, device: torch.device) -> None:
        if device.type == "meta":
            raise ValueError(f"{name} must hold data, but is on the meta device; make it on another device")

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        # Column-major: as fast as row-major for many rows of activations, three times as fast for one.
        values = w.detach().mT.clone(memory_format=torch.contiguous_format).mT
        return ResidentWeights(self, values if values.ndim == 3 else values.unsqueeze(0), tuple(w.shape))

    def gemm(self, product: Product) -> None:
        shape, bias, requant = product.shape, product.bias, product.requant
        w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
        for a, b, out in zip(product.a, w, product.out, strict=True):
            sums = out if requant is None else torch.empty(shape.m, shape.n, dtype=torch.int32, device=a.device)
            exact_matmul(a, b, sums)
            if bias is not None:
                add_bias_(sums, bias)
            if requant is not None:
                out.copy_(requantise(sums, requant.mult, requant.shift))
        channels = bias is not None or requant is not None
        for name, value in gemm_counts(self.config, shape, channels=channels, requant=requant is not None).items():
            self._counts[name] += value

    def counters(self) -> Mapping[str, int]:
        return dict(self._counts)

    def restart(self) -> None:
        self._counts = dict.fromkeys(self._names, 0)

    def close(self) -> None:
        """Nothing is held."""
