"""A workload as an offloaded model that counts: its products go through the very execution that runs a model's."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..device.accelerator import Accelerator
from ..device.product.operands import ResidentWeights, Tally
from ..offloading.execution import Execution, ProductCall
from ..offloading.history import History
from ..offloading.products import EVALUATION_BITS, NUMBER_BITS, PART_BITS
from .trace import Workload

META = torch.device("meta")


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
        for each in self.workload.products:
            product, shape = self._products[each.name], each.shape
            key = 0
            for value, bits in (
                (product.number, NUMBER_BITS),
                (self.part, PART_BITS),
                (self.evaluation, EVALUATION_BITS),
            ):
                key = key << bits | value % (1 << bits)
            flat = product.weights is not None and len(product.weights.shape) == 2
            size = (shape.m, shape.k) if flat else (shape.batch, shape.m, shape.k)
            a = torch.empty(size, dtype=torch.int8, device=META)
            if product.weights is not None:
                self.execution.layer(ProductCall(product, a, product.weights, key))
                continue
            w = torch.empty((shape.batch, shape.k, shape.n), dtype=torch.int8, device=META)
            out = torch.empty((shape.batch, shape.m, shape.n), dtype=torch.int32, device=META)
            self.execution.attention_product(ProductCall(product, a, w, key, first_row=each.first_row), out)
