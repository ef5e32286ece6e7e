"""Models of timing errors on the twin, by the names of those in hardware."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig
from brownout.hw.registry import Registry

from .call import Call
from .findings import Findings


class TwinErrorModel(abc.ABC):
    """What errs in a product, to the bit as in the RTL.

    Of a hardware model that `draws`, `draw` and `inject` are called; of one that `settles`, `compute`.
    """

    name: ClassVar[str]
    """Name of the hardware model (`brownout.hw.errors`)."""

    def draw(self, config: AcceleratorConfig, m: int, n: int, call: Call) -> Any:
        """All errors of a product of (m, n), found without looking at it."""
        raise NotImplementedError(f"{self.name!r} draws no errors of final sums")

    def inject(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        sums: NDArray[np.int32],
        drawn: Any,
        call: Call,
    ) -> Findings:
        """Put drawn errors into a product; check and correct it.

        Parameters
        ----------
        config : AcceleratorConfig
            Configuration of the accelerator.
        a, w : int8 arrays (M, K), (K, N)
            Operands, of any strides.
        sums : int32 array (M, N)
            Clean product, rows without gaps; afterwards as the drain sees it, with errors and corrections.
        drawn : object
            Draws that `draw` has made.
        call : Call
            Command of the product and its place in it.
        """
        raise NotImplementedError(f"{self.name!r} draws no errors of final sums")

    def compute(
        self,
        config: AcceleratorConfig,
        a: NDArray[np.int8],
        w: NDArray[np.int8],
        clean: NDArray[np.int32],
        sums: NDArray[np.int32],
        call: Call,
    ) -> Findings:
        """Compute a product with its errors; check and correct it.

        Parameters
        ----------
        clean : int32 array (M, N)
            Clean product, rows without gaps.
        sums : int32 array (M, N)
            Overwritten: the product as the drain sees it, rows without gaps.
        config, a, w, call
            Arguments of `inject`.
        """
        raise NotImplementedError(f"{self.name!r} has no settled carry lengths")


TWIN_ERROR_MODELS: Registry[TwinErrorModel] = Registry(
    "model of timing errors of the twin",
    "brownout.twin_error_models",
    {"flip": "brownout.host.device.twin.flips", "carry": "brownout.host.device.twin.carries"},
)
