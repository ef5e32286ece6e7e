"""A U-Net's evaluation divided into rows: products, borders, moments and keys of a patch, from shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ...offloading.layer_types import layer_type_of
from ...offloading.row_window import RowWindow
from ...offloading.selection import supported_layers
from ...workload.trace import ModelProduct, Workload, trace_workload
from .coding import ExchangeCoding
from .divided import LATENT_BYTES, Stage, StageExchange, check_part, cut_attention, merge_blocks, queries

MOMENT_BYTES = VALUE_BYTES = 4
"""Moments of a group norm (mean and variance of each group) are float32, and so are its values."""


@dataclass(frozen=True)
class ConvLayout:
    """Geometry of a convolution.

    Attributes
    ----------
    channels, width : int
        Channels and width of its input.
    height, out_height : int
        Rows of pixels of its input and output.
    before, after : int
        Rows of pixels of its input that an output patch needs beyond its own.
    """

    channels: int
    width: int
    height: int
    out_height: int
    before: int
    after: int


@dataclass(frozen=True)
class NormLayout:
    """What a group norm normalises.

    Attributes
    ----------
    groups : int
        Groups of channels.
    values : int
        Values of an image.
    """

    groups: int
    values: int


@dataclass(frozen=True)
class UnetLayout:
    """What the products of a U-Net do not tell.

    Attributes
    ----------
    convolutions : mapping of str to ConvLayout
        Convolutions by name.
    norms : mapping of str to tuple of NormLayout
        Norms by the name of the layer that is evaluated next: the norms before it.
    from_context : frozenset of str
        Layers that are given a prompt, and modules whose attention looks at it.
    """

    convolutions: Mapping[str, ConvLayout]
    norms: Mapping[str, tuple[NormLayout, ...]]
    from_context: frozenset[str]


@dataclass(frozen=True)
class PatchedUnet:
    """A U-Net whose latents lie in rows, of which a device computes some; make it with `trace`.

    A row is what one row of pixels of the deepest level becomes at every other one: 8 rows of latents where there are
    four levels. A device computes the output pixels of its own rows. A convolution whose kernel is larger than a pixel
    needs the borders of the neighbours' inputs, a group norm the moments of all devices (in synchronous steps their
    values), and self-attention the keys and values of all rows; so each of these begins a new stage. What is computed
    once per image (embedding of the timestep, keys of a prompt) every device computes itself.

    Attributes
    ----------
    workload : Workload
        One evaluation of the whole image.
    layout : UnetLayout
        Its geometry.
    images : int
        Batch of the evaluation: 2 with guidance.
    value_bytes : int
        Bytes of each element of borders, keys and values: 1 for int8, as convolutions and attention quantise them
        anyway.
    coding : ExchangeCoding, optional
        Coding of keys and values after the synchronous steps; by default they are always sent whole.

    Raises
    ------
    ValueError
        Its levels have no common rows.
    """

    workload: Workload
    layout: UnetLayout
    images: int = 1
    value_bytes: int = 1
    coding: ExchangeCoding | None = None
    _parts: tuple[tuple[StageExchange | None, tuple[ModelProduct, ...]], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("images", "value_bytes"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"PatchedUnet.{name} must be at least 1, not {getattr(self, name)!r}")
        for name, conv in self.layout.convolutions.items():
            if conv.height % self.rows or conv.out_height % self.rows:
                raise ValueError(
                    f"{name} has {conv.height} rows of pixels in and {conv.out_height} out, which are not multiples of "
                    f"the {self.rows} of the deepest level; choose a size of image that all levels divide"
                )
        object.__setattr__(self, "_parts", tuple(self._divide()))

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        run: Callable[[nn.Module], object],
        *,
        images: int = 1,
        coding: ExchangeCoding | None = None,
    ) -> PatchedUnet:
        """Divide a U-Net.

        Parameters
        ----------
        model : nn.Module
            A diffusers ``UNet2DConditionModel``, not offloaded; on the meta device it takes neither memory nor time.
        run : callable
            ``run(model)`` evaluates it once, with inputs on the model's device.
        images : int
            Batch that it is given.
        coding : ExchangeCoding, optional
            See the class.

        Raises
        ------
        ValueError
            A convolution does not keep rows of pixels in place: it is padded otherwise than its kernel and stride need.
        """
        recorder = _Recorder(model)
        with recorder:
            workload = trace_workload(model, run)
        return cls(workload, recorder.layout(), images, coding=coding)

    @cached_property
    def rows(self) -> int:
        """Of an image: rows of pixels of the deepest level."""
        return min(conv.out_height for conv in self.layout.convolutions.values())

    @cached_property
    def exchanges(self) -> tuple[StageExchange, ...]:
        """Borders, moments, keys and values, in order."""
        return tuple(exchange for exchange, _ in self._parts if exchange is not None)

    @property
    def exchange_bytes_per_row(self) -> tuple[int, ...]:
        """Bytes of whole keys and values of a row in each exchange, 0 where it is of borders or moments."""
        return tuple(each.row_bytes for each in self.exchanges)

    @cached_property
    def latent_bytes_per_row(self) -> int:
        """Bytes of a row of latents: what devices tell each other when they meet."""
        first = next(iter(self.layout.convolutions.values()))
        return first.height // self.rows * first.width * first.channels * LATENT_BYTES

    @property
    def kv_bytes(self) -> int:
        """Memory for keys and values of all rows and for borders, which every device keeps."""
        return sum(self.rows * each.row_bytes + each.before_bytes + each.after_bytes for each in self.exchanges)

    def stages(self, rows: int, images: int | None = None) -> tuple[Stage, ...]:
        """Products of an evaluation of some rows.

        Parameters
        ----------
        rows : int
            Rows of the patch.
        images : int, optional
            Less than the whole batch where guidance is divided.

        Returns
        -------
        tuple of Stage
            One more than there are exchanges. Some are empty: borders of a convolution follow the moments of its norm.

        Raises
        ------
        ValueError
            There are no such patches.
        """
        count = check_part(rows, images, self)
        stages: list[list[ModelProduct]] = [[]]
        for exchange, group in self._parts:
            if exchange is not None:
                stages.append([])
            if len(group) > 1:
                own = queries(group) // self.rows * rows
                stages[-1].extend(cut_attention(group, own, group[0].shape.batch // self.images * count))
            elif group:
                stages[-1].append(self._layer(group[0], rows, count))
        return tuple(map(tuple, stages))

    @cached_property
    def _tokens(self) -> frozenset[int]:
        """Pixels of an image at all levels."""
        convolutions = self.layout.convolutions.values()
        return frozenset(conv.height * conv.width for conv in convolutions)

    def _layer(self, product: ModelProduct, rows: int, images: int) -> ModelProduct:
        m = product.shape.m // self.images
        spatial = product.is_of_pixels or (m in self._tokens and product.name not in self.layout.from_context)
        own = m // self.rows * rows if spatial else m
        return replace(product, shape=replace(product.shape, m=own * images))

    def _divide(self) -> Iterator[tuple[StageExchange | None, tuple[ModelProduct, ...]]]:
        """Products with what is exchanged before them; an exchange that another one follows has none."""
        for group in merge_blocks(self.workload.products):
            before = list(self._before(group))
            for exchange in before[:-1]:
                yield exchange, ()
            yield before[-1] if before else None, group

    def _before(self, group: tuple[ModelProduct, ...]) -> Iterator[StageExchange]:
        name = group[0].name
        for norm in self.layout.norms.get(name, ()):
            yield StageExchange(
                fixed_bytes=self.images * norm.groups * 2 * MOMENT_BYTES,
                synchronous_row_bytes=self.images * norm.values // self.rows * VALUE_BYTES,
            )
        conv = self.layout.convolutions.get(name)
        if conv is not None and (conv.before or conv.after):
            row = self.images * conv.channels * conv.width * self.value_bytes
            # Who comes after needs the last rows of pixels, who comes before the first ones.
            yield StageExchange(before_bytes=conv.after * row, after_bytes=conv.before * row)
        if group[0].is_of_attention and name.rpartition(".")[0].partition("#")[0] not in self.layout.from_context:
            qk, pv = group[0].shape, group[1].shape
            count = queries(group) // self.rows * qk.batch * (qk.k + pv.n)
            coded = None if self.coding is None else self.coding.bytes(count)
            yield StageExchange(row_bytes=count * self.value_bytes, coded_row_bytes=coded)


class _Recorder:
    """Sees what a `Workload` does not tell while a model is evaluated."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.layers = model, supported_layers(model)
        self.convolutions: dict[str, ConvLayout] = {}
        self.norms: dict[str, tuple[NormLayout, ...]] = {}
        self.from_context: set[str] = set()
        self._pending: tuple[NormLayout, ...] = ()
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self.model.named_modules():
            if isinstance(module, nn.GroupNorm):
                self._handles.append(module.register_forward_pre_hook(self._norm))
            elif module in self.layers:
                self._handles.append(module.register_forward_hook(self._layer))
            elif hasattr(module, "to_k") and hasattr(module, "to_v"):
                self._handles.append(module.register_forward_pre_hook(self._attention(name), with_kwargs=True))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def layout(self) -> UnetLayout:
        return UnetLayout(self.convolutions, self.norms, frozenset(self.from_context))

    def _norm(self, norm: nn.GroupNorm, arguments: tuple[Any, ...]) -> None:
        self._pending = (*self._pending, NormLayout(norm.num_groups, arguments[0][0].numel()))

    def _layer(self, layer: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        name = self.layers[layer]
        if self._pending:
            self.norms[name], self._pending = self._pending, ()
        window = layer_type_of(layer).row_window(layer)
        if window is not None:
            self.convolutions[name] = _conv_layout(name, window, arguments[0], output)

    def _attention(self, name: str) -> Callable[..., None]:
        def enter(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            context = named.get("encoder_hidden_states", arguments[1] if len(arguments) > 1 else None)
            if context is not None:
                self.from_context |= {name, f"{name}.to_k", f"{name}.to_v"}

        return enter


def _conv_layout(name: str, window: RowWindow, values: torch.Tensor, output: torch.Tensor) -> ConvLayout:
    kernel, stride, before = window.kernel, window.stride, window.above
    after = kernel - stride - before
    channels, height, width = values.shape[-3:]
    out_height = output.shape[-2]
    if after < 0 or height != stride * out_height or window.dilation != 1:
        raise ValueError(
            f"{name} makes {out_height} rows of pixels of {height} with kernel {kernel}, stride {stride} and padding "
            f"{before}; only convolutions whose padding keeps rows in place can be divided"
        )
    return ConvLayout(channels, width, height, out_height, before, after)
