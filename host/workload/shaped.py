"""A workload as an offloaded model that counts: its products go through the very execution that runs a model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch

from ..device.accelerator import Accelerator
from ..device.product.attention import SoftmaxScales
from ..device.product.operands import Requantisation, ResidentWeights, Tally
from ..offloading.execution import AttentionProducts, Execution, ProductCall
from ..offloading.history import History
from ..offloading.products import EVALUATION_BITS, NUMBER_BITS, PART_BITS
from .trace import ModelProduct, Workload

META = torch.device("meta")

ANY_SCALES = SoftmaxScales(score_mult=1, score_shift=1, out_scale=1, out_shift=1)
"""Costs do not depend on them."""


@cache
def any_requantisation(channels: int, bits: int) -> Requantisation:
    """Scales to outputs of so many bits, on the meta device."""
    channel = torch.empty(channels, dtype=torch.int64, device=META)
    return Requantisation(channel, channel, bits)


@dataclass
class ShapedProduct:
    """A product of a `ShapedModel`, as `CalledProduct`."""

    model: ShapedModel
    name: str
    kind: str
    number: int
    weights: ResidentWeights | None
    tally: Tally = field(default_factory=Tally)


class ShapedModel:
    """What executions ask of an offloaded model, without its values.

    Operands, sums and histories are on the meta device. Inputs have one scale in all evaluations.

    Parameters
    ----------
    accelerator : Accelerator
        On a `ShapeBackend`; open as long as the model is used.
    workload : Workload
        One evaluation; its weights are uploaded.

    Attributes
    ----------
    execution : Execution
        Runs the products.
    evaluation, part, history
        As of `OffloadedModel`.

    Raises
    ------
    DeviceMemoryError
        The weights do not fit.
    """

    def __init__(self, accelerator: Accelerator, workload: Workload) -> None:
        self.accelerator, self.workload = accelerator, workload
        self.history = History(accelerator)
        self.execution = Execution()
        self.evaluation = self.part = 0
        weights = {
            name: accelerator.upload(torch.empty(shape if shape[0] > 1 else shape[1:], dtype=torch.int8, device=META))
            for name, shape in workload.weights.items()
        }
        self._products: dict[str, ShapedProduct] = {}
        for each in workload.products:
            if each.name not in self._products:
                number = len(self._products)
                self._products[each.name] = ShapedProduct(self, each.name, each.kind, number, weights.get(each.name))

    def scratch(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A tensor that takes no memory."""
        return torch.empty(shape, dtype=dtype, device=META)

    def begin_run(self) -> None:
        """Another image begins: histories are forgotten."""
        self.history.clear()
        self.evaluation = 0
        self.execution.begin_run()

    def evaluate(self) -> None:
        """Run the products of one evaluation, in their order."""
        products = self.workload.products
        place = 0
        while place < len(products):
            each = products[place]
            end = self._attend(place) if each.is_of_attention else 0
            if end:
                place = end
                continue
            # Both products of attention, so that the next one is the first of another call or piece.
            for _ in range(2 if each.is_of_attention else 1):
                self._run(products[place])
                place += 1

    def _key(self, product: ShapedProduct) -> int:
        key = 0
        for value, bits in (
            (product.number, NUMBER_BITS),
            (self.part, PART_BITS),
            (self.evaluation, EVALUATION_BITS),
        ):
            key = key << bits | value % (1 << bits)
        return key

    def _run(self, each: ModelProduct) -> None:
        product, shape = self._products[each.name], each.shape
        key = self._key(product)
        flat = product.weights is not None and len(product.weights.shape) == 2
        size = (shape.m, shape.k) if flat else (shape.batch, shape.m, shape.k)
        a = torch.empty(size, dtype=torch.int8, device=META)
        if product.weights is not None:
            narrow = each.output_bits < 32 and self.execution.narrows()
            requant = any_requantisation(shape.n, each.output_bits) if narrow else None
            self.execution.layer(ProductCall(product, a, product.weights, key, requant=requant))
            return
        w = torch.empty((shape.batch, shape.k, shape.n), dtype=torch.int8, device=META)
        out = torch.empty((shape.batch, shape.m, shape.n), dtype=torch.int32, device=META)
        self.execution.attention_product(ProductCall(product, a, w, key, first_row=each.first_row), out)

    def _attend(self, place: int) -> int:
        """Run a call of attention as one command, as an offloaded model would; returns where the next call begins.

        0 where it is run product by product.
        """
        products = self.workload.products
        first, second = products[place : place + 2]
        shape, columns = first.shape, second.shape.n
        end, rows = place, 0
        while end < len(products) and products[end].name == first.name and products[end].first_row >= rows:
            rows += products[end].shape.m
            end += 2
        scores, values = self._products[first.name], self._products[second.name]
        if first.masked or not self.accelerator.can_attend(rows, shape.n, shape.k, columns):
            return 0
        if not self.execution.attends(scores, values):
            return 0
        q, k, v, out = (
            torch.empty((shape.batch, *size), dtype=torch.int8, device=META)
            for size in ((rows, shape.k), (shape.n, shape.k), (shape.n, columns), (rows, columns))
        )
        keys = self._key(scores), self._key(values)
        call = AttentionProducts(scores, values, q, k, v, ANY_SCALES, first.causal, keys)
        self.execution.attention(call, out)
        return end
