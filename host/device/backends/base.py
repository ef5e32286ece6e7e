"""What every backend provides to `Accelerator`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.ownership import ProcessLock
from brownout.hw.config import AcceleratorConfig

from ...errors import AcceleratorClosedError
from ...storage.state import State
from ..product.attention import Attended, Attention
from ..product.operands import Product, ResidentWeights
from ..product.reload import Places

if TYPE_CHECKING:
    from brownout.cosim.dram import MemoryTiming


def closed_error() -> AcceleratorClosedError:
    """Of whoever comes after `close`."""
    return AcceleratorClosedError("this accelerator is closed; make a new one")


def device_lock(closed: bool = True) -> ProcessLock:
    """Lock of an accelerator or of its backend; `closed`: whether nobody may take it after `ProcessLock.close`."""
    return ProcessLock("this accelerator", "open an Accelerator in this process", closed_error if closed else None)


class Backend(abc.ABC):
    """Carries out validated products and counts exactly, or not at all.

    Calls of several threads are served one after another, each as a whole: from the places of its operands to its
    result and its counts. `close` lets a call of another thread end, or, where it takes long, makes it fail. In a
    forked child `close` does nothing and everything else raises `ForkedProcessError`.
    """

    name: str
    """How `Accelerator` calls it."""
    attends: bool = False
    """Whether it has `attention`."""

    @abc.abstractmethod
    def check_device(self, name: str, device: torch.device) -> None:
        """Refuse operand `name` on a torch device that this backend cannot read.

        Raises
        ------
        ValueError
            With the remedy.
        """

    @abc.abstractmethod
    def upload(self, w: torch.Tensor) -> ResidentWeights:
        """Copy int8 weights (K, N) or (B, K, N) to the device."""

    @abc.abstractmethod
    def gemm(self, product: Product) -> bytes:
        """Fill ``product.out``; returns the log of the checks, empty without."""

    @abc.abstractmethod
    def blocks_of(self, product: Product) -> AcceleratorConfig:
        """The accelerator with the blocks in which `gemm` computes a product: its loop order may have smaller ones."""

    def attention(self, attention: Attention) -> Attended:
        """Fill ``attention.out``.

        Raises
        ------
        ValueError
            This backend has no attention; with the remedy.
        """
        raise ValueError(
            f"backend {self.name!r} has no attention on the chip; choose backend='twin' or 'rtl', or use two products"
        )

    @abc.abstractmethod
    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        """Copy elements of an output (B, M, N) to the same places of another in device memory.

        Parameters
        ----------
        source, target : torch.Tensor
            int32, int16 or int8 (B, M, N), alike.
        places : Places, optional
            The elements, at least one; by default all.
        """

    @abc.abstractmethod
    def set_errors(self, seed: int, rates: tuple[int, ...], bits: tuple[int, ...]) -> None:
        """Seed, rates of operating points and bits of the `flip` model, as in `SetErrorsCommand`."""

    @abc.abstractmethod
    def set_point(
        self, domain: int, point: int, *, transition_cycles: int = 0, lengths: NDArray[np.uint8] | None = None
    ) -> None:
        """Move a voltage domain to an operating point, as `SetPointCommand` does.

        Parameters
        ----------
        domain, point, transition_cycles : int
            Fields of the command SET_POINT.
        lengths : uint8 array (rows, cols + check columns), optional
            Settled carry lengths (`carry` only), of which the domain's columns are taken over.
        """

    @abc.abstractmethod
    def set_memory_timing(self, timing: MemoryTiming) -> None:
        """Give the memory another latency and bandwidth in cycles, because the clock is about to change.

        What was done before was done with the old ones; `restart` keeps the new ones.
        """

    @abc.abstractmethod
    def counters(self) -> Mapping[str, int]:
        """Counts since the device was started; a count that is not exact is absent."""

    @abc.abstractmethod
    def check_counts(self) -> Mapping[str, int]:
        """Those of `counters` that the checksum units count; takes no time to learn the time."""

    @abc.abstractmethod
    def state(self) -> State:
        """Settings, and what else the counts of later calls depend on: place in the command ring, open memory rows.

        All backends that count have the same.
        """

    @abc.abstractmethod
    def load_state(self, state: State) -> None:
        """As `restart`, with the settings of a state, and in its place; counters begin anywhere."""

    @abc.abstractmethod
    def restart(self) -> None:
        """Start the device anew with all resident weights and settings in place; counters begin at zero."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free the device. May be called twice."""
