"""The accelerator as a PyTorch user sees it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import ideal_cycles

from .backends.base import Backend
from .errors import AcceleratorClosedError
from .operands import Requantisation, ResidentWeights, check_weights, make_product

BACKENDS = ("rtl", "twin")


def _make_backend(
    config: AcceleratorConfig, name: str, *, waves: Path | None, check_axi: bool, deadline_s: float
) -> Backend:
    if name == "rtl":
        from brownout.cosim.simulator import Simulator

        from .backends.rtl import RtlBackend

        def start() -> Simulator:
            return Simulator(config, waves=waves, check_axi=check_axi, deadline_s=deadline_s)

        return RtlBackend(config, start, deadline_s=deadline_s)
    if name == "twin":
        from .backends.twin import TwinBackend

        if waves is not None:
            raise ValueError("waves are recorded from RTL; use backend='rtl', not 'twin'")
        return TwinBackend(config)
    raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, not {name!r}")


class Accelerator:
    """A systolic-array accelerator, on simulated RTL or on its bit-exact twin.

    Use it as a context manager: ``with Accelerator(config) as accelerator: y = accelerator.gemm(a, w)``.

    Parameters
    ----------
    config : AcceleratorConfig, optional
        The accelerator; by default ``AcceleratorConfig()``.
    backend : {"rtl", "twin"} or Backend
        Where products are computed. Both return the same bits; ``"twin"`` is thousands of times faster.
    waves : Path, optional
        VCD file to record (``"rtl"`` only).
    check_axi : bool
        Watch the bus for violations of AXI (``"rtl"`` only).
    deadline_s : float
        Wall-clock seconds after which an unresponsive simulator is given up; long products get more.

    Raises
    ------
    ValueError
        `backend` is unknown or does not support an option.
    """

    def __init__(
        self,
        config: AcceleratorConfig | None = None,
        backend: str | Backend = "rtl",
        *,
        waves: Path | None = None,
        check_axi: bool = True,
        deadline_s: float = 120.0,
    ) -> None:
        self.config = AcceleratorConfig() if config is None else config
        if isinstance(backend, str):
            backend = _make_backend(self.config, backend, waves=waves, check_axi=check_axi, deadline_s=deadline_s)
        self._device: Backend | None = backend
        self.backend = backend.name
        self._ideal_cycles = 0
        self._baseline: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._device is not None else ", closed"
        return f"Accelerator({self.config.rows}x{self.config.cols}, backend={self.backend!r}{state})"

    def _open(self) -> Backend:
        if self._device is None:
            raise AcceleratorClosedError("this accelerator is closed; make a new one")
        return self._device

    def gemm(
        self,
        a: torch.Tensor,
        w: torch.Tensor | ResidentWeights,
        *,
        bias: torch.Tensor | None = None,
        requant: Requantisation | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Multiply int8 matrices.

        Parameters
        ----------
        a : torch.Tensor
            int8 (M, K), or (B, M, K); any strides.
        w : torch.Tensor or ResidentWeights
            int8 (K, N), or (B, K, N); any strides. Weights that are used again are cheaper when uploaded once.
        bias : torch.Tensor, optional
            int32 (N,), added modulo 2^32.
        requant : Requantisation, optional
            Per-channel scaling to int8.
        out : torch.Tensor, optional
            Written instead of a new tensor.

        Returns
        -------
        torch.Tensor
            int32, or int8 with `requant`: (M, N), or (B, M, N).

        Raises
        ------
        TypeError
            An operand is no tensor or has the wrong dtype.
        ValueError
            Shapes or devices do not fit, or an extent is out of range (K > 131071; M, N >= 2^24).
        DeviceMemoryError
            The operands do not fit the accelerator's DRAM.
        AcceleratorClosedError
            After `close`.
        brownout.cosim.errors.SimulatorError
            The simulator died or hung (``"rtl"`` only); `restart` recovers.
        """
        device = self._open()
        product, result = make_product(a, w, bias, requant, out)
        device.check_device("a", a.device)
        if isinstance(product.w, ResidentWeights) and product.w.backend is not device:
            raise ValueError("w was uploaded to another accelerator; upload it to this one")
        device.gemm(product)
        shape = product.shape
        self._ideal_cycles += ideal_cycles(self.config, shape.m, shape.n, shape.k, shape.batch)
        return result

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        """Copy weights to the device, to be used by any number of products.

        Parameters
        ----------
        w : torch.Tensor
            int8 (K, N), or (B, K, N); any strides.

        Returns
        -------
        ResidentWeights
            Takes the place of `w` in `gemm`. Its device memory is freed when the last reference goes.

        Raises
        ------
        TypeError, ValueError, DeviceMemoryError, AcceleratorClosedError
            As in `gemm`.
        """
        device = self._open()
        check_weights(w)
        device.check_device("w", w.device)
        return device.upload(w)

    @property
    def stats(self) -> Mapping[str, int]:
        """Counters since the start, `restart` or the last `reset_stats`.

        Every hardware counter (`brownout.hw.registers.COUNTERS`) by its name, ``dram_row_activations``, ``dram_bytes``
        (read and written) and ``ideal_cycles`` (of an array that is never idle). The same calls give the same values on
        RTL and on the twin.
        """
        counts = self._open().counters()
        stats = {name: value - self._baseline.get(name, 0) for name, value in counts.items()}
        stats["ideal_cycles"] = self._ideal_cycles
        return stats

    def reset_stats(self) -> None:
        """Count from zero again."""
        self._baseline = dict(self._open().counters())
        self._ideal_cycles = 0

    def restart(self) -> None:
        """Start the device anew, for example after its simulator died.

        Weights uploaded before stay valid; `stats` begin at zero.

        Raises
        ------
        AcceleratorClosedError
            After `close`.
        """
        self._open().restart()
        self._baseline = {}
        self._ideal_cycles = 0

    def close(self) -> None:
        """Free the device. Closing twice does no harm."""
        if self._device is not None:
            self._device.close()
            self._device = None
