"""The products of one evaluation of a model, from its shapes alone: for cycle counts and power policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..device.product.operands import GemmShape
from ..offloading.attention import ROWS_AT_ONCE, split_heads
from ..offloading.layer_calibration import ATTENTION
from ..offloading.layer_types import layer_type_of
from ..offloading.selection import FilterFn, call_name, reason_against, supported_layers, watch_attention
from .product_site import block_of, is_of_pixels


@dataclass(frozen=True)
class ModelProduct:
    """A command of an offloaded model: one batched product.

    Attributes
    ----------
    name : str
        Name in `brownout.host.report`: the layer's; of attention with ``.qk`` or ``.pv``.
    kind : str
        `LayerType.kind` of the layer, or ``"attention"``.
    block : str
        See `brownout.host.workload.product_site.block_of`.
    shape : GemmShape
        Extents. Rows are those of the whole batch: tokens, or output pixels if it `is_of_pixels`; products of attention
        are batched over images and heads, and cut into `ROWS_AT_ONCE` query rows.
    first_row : int
        Argument that the model gives to `Accelerator.gemm`.
    masked : bool
        Whether it is of attention with a mask that may say other things to other queries, which no attention unit
        takes. One that is broadcast to them rules out keys, which are left out; here all of them count.
    causal : bool
        Whether it is of attention in which queries look back only.
    output_bits : int
        Of a layer's outputs as they leave the accelerator: 32 for sums, 16 or 8 for scaled ones.
    """

    name: str
    kind: str
    block: str
    shape: GemmShape
    first_row: int = 0
    masked: bool = False
    causal: bool = False
    output_bits: int = 32

    @property
    def is_of_attention(self) -> bool:
        """Whether both operands are activations."""
        return self.kind == ATTENTION

    @property
    def is_of_pixels(self) -> bool:
        """Whether rows are the output pixels of a layer."""
        return is_of_pixels(self.kind)

    @property
    def in_transformer(self) -> bool:
        """Whether it is a layer of a transformer block that works on tokens.

        In those the published experiments inject errors.
        """
        on_tokens = not self.is_of_attention and not self.is_of_pixels
        return on_tokens and "transformer_blocks" in self.name.split(".")


@dataclass(frozen=True)
class Workload:
    """What one evaluation of a model asks of an accelerator.

    Attributes
    ----------
    products : tuple of ModelProduct
        Products in the order of execution.
    weights : mapping of str to (int, int, int)
        Batch, K and N of the resident weights of each layer, in the order of upload. Layers that are not used in an
        evaluation are among them.
    """

    products: tuple[ModelProduct, ...]
    weights: Mapping[str, tuple[int, int, int]]

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates."""
        return sum(product.shape.macs for product in self.products)

    def with_outputs(self, bits: Callable[[ModelProduct], int]) -> Workload:
        """The same, with outputs of layers of so many bits: 32, 16 or 8.

        Parameters
        ----------
        bits : callable
            Called with each product of a layer. Those of several groups have 32 in any case, as `offload` has it.
        """
        products = tuple(
            each if each.is_of_attention or each.shape.batch > 1 else replace(each, output_bits=bits(each))
            for each in self.products
        )
        return replace(self, products=products)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks, in the order of execution."""
        return tuple(dict.fromkeys(product.block for product in self.products))


def trace_workload(model: nn.Module, run: Callable[[nn.Module], object], filter_fn: FilterFn | None = None) -> Workload:
    """List the products of an evaluation of a float model.

    Parameters
    ----------
    model : nn.Module
        Not offloaded; on the meta device it takes neither memory nor time.
    run : callable
        ``run(model)`` evaluates it once, with inputs on the model's device.
    filter_fn : callable, optional
        Selects layers and owners of attention, as in `offload`.

    Returns
    -------
    Workload
        The commands that the offloaded model would send.
    """
    layers = {
        layer: name
        for layer, name in supported_layers(model).items()
        if reason_against(layer) is None and (filter_fn is None or filter_fn(layer, name))
    }
    owners = {module: name for name, module in model.named_modules()}
    products: list[ModelProduct] = []

    def add(name: str, kind: str, shape: GemmShape, **of_call: Any) -> None:
        products.append(ModelProduct(name, kind, block_of(name), shape, **of_call))

    def after(layer: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        layer_type = layer_type_of(layer)
        add(layers[layer], layer_type.kind, layer_type.product_shape(layer, arguments[0], output))

    def attention(
        owner: nn.Module, index: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if filter_fn is None or filter_fn(owner, owners[owner]):
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            heads = split_heads(named["query"], named["key"], named["value"], None, named.get("enable_gqa", False))
            batch, count, length, depth = heads.query.shape
            keys, width = heads.value.shape[2:]
            name = call_name(owners[owner], index)
            mask = named.get("attn_mask", args[3] if len(args) > 3 else None)
            given = mask is not None and (mask.ndim > 1 and mask.shape[-2] > 1)
            causal = bool(named.get("is_causal", args[5] if len(args) > 5 else False))
            for start in range(0, length, ROWS_AT_ONCE):
                rows = min(ROWS_AT_ONCE, length - start)
                of_call = {"first_row": start * batch * count, "masked": given, "causal": causal}
                add(f"{name}.qk", ATTENTION, GemmShape(batch * count, rows, keys, depth), **of_call)
                add(f"{name}.pv", ATTENTION, GemmShape(batch * count, rows, width, keys), **of_call)
        return function(*args, **kwargs)

    handles = [layer.register_forward_hook(after) for layer in layers]
    try:
        with watch_attention(model, attention), torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return Workload(tuple(products), {name: layer_type_of(layer).matrix_shape(layer) for layer, name in layers.items()})
