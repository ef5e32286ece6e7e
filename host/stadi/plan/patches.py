"""A transformer's evaluation divided into rows of tokens: products and exchanges of a patch, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from ...workload.trace import ModelProduct, Workload
from .coding import ExchangeCoding
from .divided import LATENT_BYTES, Stage, StageExchange, check_part, cut_attention, merge_blocks, queries


@dataclass(frozen=True)
class PatchedWorkload:
    """A transformer whose tokens lie in rows, of which a device computes some.

    A device evaluates Linear layers on the tokens of its own rows; their weights are read whole each time. In
    self-attention its own queries meet the keys of all tokens, so keys and values of other rows come from other
    devices. What is computed once per image (embedding of the timestep, keys of a prompt) every device computes itself.

    Attributes
    ----------
    workload : Workload
        One evaluation of the whole image; see `trace_workload`.
    rows, tokens_per_row : int
        How the tokens of an image lie.
    images : int
        Batch of the evaluation: 2 with guidance.
    value_bytes : int
        Bytes of each element of exchanged keys and values: 1 for int8, as attention quantises them anyway.
    coding : ExchangeCoding, optional
        Coding of keys and values after the synchronous steps; by default they are always sent whole.

    Raises
    ------
    ValueError
        The workload does not consist of these tokens, or has convolutions other than the patch embedding.
    """

    workload: Workload
    rows: int
    tokens_per_row: int
    images: int = 1
    value_bytes: int = 1
    coding: ExchangeCoding | None = None
    _groups: tuple[tuple[ModelProduct, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("rows", "tokens_per_row", "images", "value_bytes"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"PatchedWorkload.{name} must be at least 1, not {getattr(self, name)!r}")
        for product in self.workload.products:
            if product.is_of_pixels and product.shape.m != self.images * self.tokens:
                raise ValueError(
                    f"{product.name} is a convolution with {product.shape.m} output pixels, not the patch embedding of "
                    f"{self.images} x {self.tokens} tokens; only transformers can be divided into token rows"
                )
        object.__setattr__(self, "_groups", merge_blocks(self.workload.products))
        if not self.exchange_bytes_per_row:
            raise ValueError(
                f"the workload has no self-attention over {self.tokens} tokens ({self.rows} rows of "
                f"{self.tokens_per_row}) of {self.images} images; check rows, tokens_per_row and images"
            )

    @property
    def tokens(self) -> int:
        """Of one image."""
        return self.rows * self.tokens_per_row

    def _is_self_attention(self, group: tuple[ModelProduct, ...]) -> bool:
        return group[0].is_of_attention and group[0].shape.n == self.tokens == queries(group)

    @cached_property
    def exchanges(self) -> tuple[StageExchange, ...]:
        """Keys and values of each self-attention, in order."""
        found = []
        for group in self._groups:
            if self._is_self_attention(group):
                qk, pv = group[0].shape, group[1].shape
                count = self.tokens_per_row * qk.batch * (qk.k + pv.n)
                coded = None if self.coding is None else self.coding.bytes(count)
                found.append(StageExchange(count * self.value_bytes, coded))
        return tuple(found)

    @property
    def exchange_bytes_per_row(self) -> tuple[int, ...]:
        """Bytes of whole keys and values of a token row in each self-attention, in order."""
        return tuple(each.row_bytes for each in self.exchanges)

    @cached_property
    def latent_bytes_per_row(self) -> int:
        """Bytes of a row of latents: what devices tell each other when they meet."""
        inputs = [product.shape.k for product in self.workload.products if product.is_of_pixels]
        return self.tokens_per_row * (inputs[0] if inputs else 0) * LATENT_BYTES

    @property
    def kv_bytes(self) -> int:
        """Memory for keys and values of all rows, which every device keeps."""
        return self.rows * sum(self.exchange_bytes_per_row)

    def stages(self, rows: int, images: int | None = None) -> tuple[Stage, ...]:
        """Products of an evaluation of some rows.

        Parameters
        ----------
        rows : int
            Token rows of the patch.
        images : int, optional
            Less than the whole batch where guidance is divided.

        Returns
        -------
        tuple of Stage
            One more than there are exchanges: each self-attention begins a new one.

        Raises
        ------
        ValueError
            There are no such patches.
        """
        count = check_part(rows, images, self)
        stages: list[list[ModelProduct]] = [[]]
        for group in self._groups:
            if self._is_self_attention(group):
                stages.append([])
            stages[-1].extend(
                self._attention(group, rows, count) if len(group) > 1 else self._single(group, rows, count)
            )
        return tuple(map(tuple, stages))

    def _single(self, group: tuple[ModelProduct, ...], rows: int, images: int) -> list[ModelProduct]:
        (product,) = group
        m = product.shape.m
        if m == self.images * self.tokens:
            m = images * rows * self.tokens_per_row
        elif m % self.images == 0:
            m = m // self.images * images
        return [replace(product, shape=replace(product.shape, m=m))]

    def _attention(self, group: tuple[ModelProduct, ...], rows: int, images: int) -> list[ModelProduct]:
        count = rows * self.tokens_per_row if queries(group) == self.tokens else queries(group)
        return cut_attention(group, count, group[0].shape.batch // self.images * images)
