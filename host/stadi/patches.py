"""A transformer's evaluation divided into rows of tokens: products and exchanges of a patch, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from ..drift.workloads import ModelProduct, Workload
from ..offloading.attention import ROWS_AT_ONCE
from .coding import ExchangeCoding
from .divided import LATENT_BYTES, Exchange, Stage


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
        Of each element of exchanged keys and values: 1 for int8, as attention quantises them anyway.
    coding : ExchangeCoding, optional
        Of keys and values after the synchronous steps; by default they are always sent whole.

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
            if product.kind == "conv2d" and product.shape.m != self.images * self.tokens:
                raise ValueError(
                    f"{product.name} is a convolution with {product.shape.m} output pixels, not the patch embedding of "
                    f"{self.images} x {self.tokens} tokens; only transformers can be divided into token rows"
                )
        object.__setattr__(self, "_groups", self._merge_blocks())
        if not self.exchange_bytes_per_row:
            raise ValueError(
                f"the workload has no self-attention over {self.tokens} tokens ({self.rows} rows of "
                f"{self.tokens_per_row}) of {self.images} images; check rows, tokens_per_row and images"
            )

    @property
    def tokens(self) -> int:
        """Of one image."""
        return self.rows * self.tokens_per_row

    def _merge_blocks(self) -> tuple[tuple[ModelProduct, ...], ...]:
        """Products in order; the blocks of query rows of an attention call are one group, qk then pv."""
        groups: list[tuple[ModelProduct, ...]] = []
        expected = 0
        for product in self.workload.products:
            continues = product.kind == "attention" and product.first_row == expected > 0
            if product.kind != "attention":
                groups.append((product,))
                expected = 0
            elif product.name.endswith(".qk"):
                if continues:
                    groups[-1] = (*groups[-1], product)
                else:
                    groups.append((product,))
            else:
                groups[-1] = (*groups[-1], product)
                expected = product.first_row + product.shape.m * product.shape.batch
        return tuple(groups)

    def _is_self_attention(self, group: tuple[ModelProduct, ...]) -> bool:
        queries = sum(product.shape.m for product in group if product.name.endswith(".qk"))
        return group[0].kind == "attention" and group[0].shape.n == self.tokens == queries

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Keys and values of each self-attention, in order."""
        found = []
        for group in self._groups:
            if self._is_self_attention(group):
                qk, pv = group[0].shape, group[1].shape
                count = self.tokens_per_row * qk.batch * (qk.k + pv.n)
                coded = None if self.coding is None else self.coding.bytes(count)
                found.append(Exchange(count * self.value_bytes, coded))
        return tuple(found)

    @property
    def exchange_bytes_per_row(self) -> tuple[int, ...]:
        """Bytes of whole keys and values of a token row in each self-attention, in order."""
        return tuple(each.row_bytes for each in self.exchanges)

    @cached_property
    def latent_bytes_per_row(self) -> int:
        """Bytes of a row of latents: what devices tell each other when they meet."""
        inputs = [product.shape.k for product in self.workload.products if product.kind == "conv2d"]
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
        count = self.images if images is None else images
        if not 1 <= rows <= self.rows:
            raise ValueError(f"rows must be in 1..{self.rows}, not {rows!r}")
        if not 1 <= count <= self.images:
            raise ValueError(f"images must be in 1..{self.images}, not {images!r}")
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
        queries = sum(product.shape.m for product in group if product.name.endswith(".qk"))
        count = rows * self.tokens_per_row if queries == self.tokens else queries
        products = []
        for start in range(0, count, ROWS_AT_ONCE):
            for product in group[:2]:
                batch = product.shape.batch // self.images * images
                shape = replace(product.shape, batch=batch, m=min(ROWS_AT_ONCE, count - start))
                products.append(replace(product, shape=shape, first_row=start * batch))
        return products
