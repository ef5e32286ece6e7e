"""What plans need to know of a model that is divided into rows: products between exchanges, and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..drift.workloads import ModelProduct, Workload
from .coding import ExchangeCoding

LATENT_BYTES = 4
"""Latents are float32."""

Stage = tuple[ModelProduct, ...]
"""Part of an evaluation between two exchanges: its products, in the order of execution."""


@dataclass(frozen=True)
class Exchange:
    """What each device sends to each other one after a stage.

    Attributes
    ----------
    row_bytes : int
        For each of its rows: keys and values.
    coded_row_bytes : int or None
        The same if it is coded (`ExchangeCoding`); None where nothing is.
    """

    row_bytes: int
    coded_row_bytes: int | None = None

    def bytes(self, rows: int, *, whole: bool) -> int:
        """Of the message of a device with some rows.

        Parameters
        ----------
        rows : int
            Of the sender.
        whole : bool
            Not coded.
        """
        coded = self.row_bytes if whole or self.coded_row_bytes is None else self.coded_row_bytes
        return rows * coded


class DividedModel(Protocol):
    """A model of which a device computes some rows of an image.

    Attributes
    ----------
    workload : Workload
        One evaluation of the whole image; its weights are on every device.
    rows : int
        Of an image.
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
    def exchanges(self) -> tuple[Exchange, ...]:
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
        self.exchanges: Sequence[Exchange] = model.exchanges
        self._known: dict[tuple[int, bool], NDArray[np.float64]] = {}

    def of(self, rows: int, *, whole: bool = True) -> NDArray[np.float64]:
        """Bytes that a device with some rows sends to another one in an evaluation.

        Returns
        -------
        float64 array (exchanges,)
            In their order.
        """
        key = (rows, whole)
        if key not in self._known:
            self._known[key] = np.array([each.bytes(rows, whole=whole) for each in self.exchanges], dtype=np.float64)
        return self._known[key]
