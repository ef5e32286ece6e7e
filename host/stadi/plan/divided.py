"""What plans need to know of a model that is divided into rows: products between exchanges, and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...offloading.attention import ROWS_AT_ONCE
from ...workload.trace import ModelProduct, Workload
from .coding import ExchangeCoding

LATENT_BYTES = 4
"""Latents are float32."""

Stage = tuple[ModelProduct, ...]
"""Part of an evaluation between two exchanges: its products, in the order of execution."""


@dataclass(frozen=True)
class StageExchange:
    """What each device sends to each other one after a stage.

    Attributes
    ----------
    row_bytes : int
        Bytes for each of its rows, to all: keys and values.
    coded_row_bytes : int or None
        The same if it is coded (`ExchangeCoding`); None where nothing is.
    fixed_bytes : int
        However many rows it has, to all: moments of a group norm.
    synchronous_row_bytes : int or None
        Bytes in place of both in synchronous steps, for each of its rows, to all: the values of a group norm.
    before_bytes, after_bytes : int
        Bytes to the device with the rows before its own, and after them: borders of a convolution.
    """

    row_bytes: int = 0
    coded_row_bytes: int | None = None
    fixed_bytes: int = 0
    synchronous_row_bytes: int | None = None
    before_bytes: int = 0
    after_bytes: int = 0

    def bytes(self, rows: int, distance: int, *, whole: bool, synchronous: bool = False) -> int:
        """Of a message.

        Parameters
        ----------
        rows : int
            Rows of the sender.
        distance : int
            Place of the receiver minus that of the sender, in the order of their rows.
        whole : bool
            Not coded.
        synchronous : bool
            Whether it is for a synchronous step.
        """
        if synchronous and self.synchronous_row_bytes is not None:
            return rows * self.synchronous_row_bytes
        row = self.row_bytes if whole or self.coded_row_bytes is None else self.coded_row_bytes
        border = {-1: self.before_bytes, 1: self.after_bytes}.get(distance, 0)
        return rows * row + self.fixed_bytes + border


class DividedModel(Protocol):
    """A model of which a device computes some rows of an image.

    Attributes
    ----------
    workload : Workload
        One evaluation of the whole image; its weights are on every device.
    rows : int
        Rows of an image.
    images : int
        Batch of the evaluation.
    """

    @property
    def workload(self) -> Workload: ...
    @property
    def rows(self) -> int: ...
    @property
    def images(self) -> int: ...

    @property
    def exchanges(self) -> tuple[StageExchange, ...]:
        """What is exchanged after each stage but the last."""

    @property
    def coding(self) -> ExchangeCoding | None:
        """Of keys and values after the synchronous steps."""

    @property
    def latent_bytes_per_row(self) -> int:
        """What devices tell each other when they meet."""

    @property
    def kv_bytes(self) -> int:
        """Memory for keys and values of all rows, which every device keeps."""

    def stages(self, rows: int, images: int | None = None) -> tuple[Stage, ...]:
        """Products of an evaluation of some rows, and of less than all images where guidance is divided."""


class MessageSizes:
    """Bytes of the messages of a divided model.

    Parameters
    ----------
    model : DividedModel
        Whose exchanges.
    """

    def __init__(self, model: DividedModel) -> None:
        self.exchanges: Sequence[StageExchange] = model.exchanges
        self._known: dict[tuple[int, int, bool, bool], NDArray[np.float64]] = {}

    def of(self, rows: int, distance: int, *, whole: bool = True, synchronous: bool = False) -> NDArray[np.float64]:
        """Bytes that a device sends to another one in an evaluation; see `StageExchange.bytes`.

        Returns
        -------
        float64 array (exchanges,)
            In their order.
        """
        key = (rows, distance if abs(distance) == 1 else 0, whole, synchronous)
        if key not in self._known:
            sizes = [each.bytes(rows, distance, whole=whole, synchronous=synchronous) for each in self.exchanges]
            self._known[key] = np.array(sizes, dtype=np.float64)
        return self._known[key]


def merge_blocks(products: Iterable[ModelProduct]) -> tuple[tuple[ModelProduct, ...], ...]:
    """Products in order; the blocks of query rows of an attention call are one group, qk then pv."""
    groups: list[tuple[ModelProduct, ...]] = []
    expected = 0
    for product in products:
        continues = product.is_of_attention and product.first_row == expected > 0
        if not product.is_of_attention:
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


def queries(group: tuple[ModelProduct, ...]) -> int:
    """Query rows of an attention call."""
    return sum(product.shape.m for product in group if product.name.endswith(".qk"))


def cut_attention(group: tuple[ModelProduct, ...], count: int, batch: int) -> list[ModelProduct]:
    """An attention call with fewer queries and images.

    Parameters
    ----------
    group : tuple of ModelProduct
        See `merge_blocks`.
    count, batch : int
        Its new number of queries, and of images times heads.
    """
    products = []
    for start in range(0, count, ROWS_AT_ONCE):
        for product in group[:2]:
            shape = replace(product.shape, batch=batch, m=min(ROWS_AT_ONCE, count - start))
            products.append(replace(product, shape=shape, first_row=start * batch))
    return products


def check_part(rows: int, images: int | None, model: DividedModel) -> int:
    """Images of a part of a model.

    Raises
    ------
    ValueError
        There is no such part.
    """
    count = model.images if images is None else images
    if not 1 <= rows <= model.rows:
        raise ValueError(f"rows must be in 1..{model.rows}, not {rows!r}")
    if not 1 <= count <= model.images:
        raise ValueError(f"images must be in 1..{model.images}, not {images!r}")
    return count
