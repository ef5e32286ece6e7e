"""Products on the functional twin: the bits of the RTL at the speed of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from brownout.cosim.cycle_model import CycleModel
from brownout.hw.config import AcceleratorConfig

from ..operands import Product, ResidentWeights
from ..twin.matmul import exact_matmul
from ..twin.requantise import add_bias_, requantise
from .base import Backend
from .layout import Layout


class TwinBackend(Backend):
    """Computes on whatever torch device the operands are on, and counts what the RTL would count.

    Operands get the addresses that they would have in the accelerator's DRAM, because time and row activations depend
    on them; so the twin runs out of that memory when the RTL would.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator whose counters are reproduced.
    """

    name = "twin"

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._cycle_model = CycleModel(config)
        # The command ring begins where usable memory ends.
        self._layout = Layout(config, self._cycle_model.ring_base)

    def check_device(self, name: str, device: torch.device) -> None:
        if device.type == "meta":
            raise ValueError(f"{name} must hold data, but is on the meta device; make it on another device")

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        # Column-major: as fast as row-major for many rows of activations, three times as fast for one.
        values = w.detach().mT.clone(memory_format=torch.contiguous_format).mT
        weights = ResidentWeights(self, values if values.ndim == 3 else values.unsqueeze(0), tuple(w.shape))
        self._layout.place_weights(weights)
        return weights

    def gemm(self, product: Product) -> None:
        with self._layout.place_product(product) as command:
            self._compute(product)
            self._cycle_model.run([command])

    def _compute(self, product: Product) -> None:
        shape, bias, requant = product.shape, product.bias, product.requant
        w = product.w.values if isinstance(product.w, ResidentWeights) else product.w
        for a, b, out in zip(product.a, w, product.out, strict=True):
            sums = out if requant is None else torch.empty(shape.m, shape.n, dtype=torch.int32, device=a.device)
            exact_matmul(a, b, sums)
            if bias is not None:
                add_bias_(sums, bias)
            if requant is not None:
                out.copy_(requantise(sums, requant.mult, requant.shift))

    def counters(self) -> Mapping[str, int]:
        counts = self._cycle_model.counters()
        counts["dram_bytes"] = counts["dram_read_bytes"] + counts["dram_write_bytes"]
        return counts

    def restart(self) -> None:
        self._cycle_model.reset()

    def close(self) -> None:
        """Nothing is held."""
