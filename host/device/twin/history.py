"""What memory held before a product: the value that a suppressed element keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from .flips import Flips
from .geometry import geometry
from .kernels import address, load_kernels

Indices = NDArray[np.int32]


class OverwrittenValues:
    """Values of an output from before it is overwritten.

    Parameters
    ----------
    config : AcceleratorConfig
        Configuration that says where segments are.
    out : torch.Tensor
        The output, (M, N).
    """

    def __init__(self, config: AcceleratorConfig, out: torch.Tensor) -> None:
        self.config, self.out = config, out
        self._saved: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None

    def save(self, flips: Flips) -> None:
        """Keep the segments in which anything errs, of a contiguous int32 output: all that can be uncorrectable."""
        checksum = self.config.checksum
        assert checksum is not None
        pieces = geometry(self.config, *self.out.shape)
        places = flips.outputs.rows.astype(np.int64) * pieces.segments + pieces.segment_of[flips.outputs.cols]
        if len(flips.checks):
            others = flips.checks.rows.astype(np.int64) * pieces.segments + flips.checks.cols // checksum.checks
            places = np.sort(np.concatenate([places, others]))
        saved = np.empty((len(places), checksum.segment_cols), np.int32)
        load_kernels().brownout_save_segments(
            *(address(self.out.numpy()), self.out.shape[1], address(pieces.segment_starts), pieces.segments),
            *(checksum.segment_cols, len(places), address(places), address(saved)),
        )
        self._saved = places, saved

    def values_at(self, rows: Indices, cols: Indices) -> torch.Tensor:
        """Values from before at some places; without `save`, of what is there now."""
        if self._saved is None:
            return self.out[self._index(rows), self._index(cols)]
        places, saved = self._saved
        pieces = geometry(self.config, *self.out.shape)
        segment = pieces.segment_of[cols]
        index = np.searchsorted(places, rows.astype(np.int64) * pieces.segments + segment)
        return torch.from_numpy(saved[index, cols - pieces.segment_starts[segment]])

    def write(self, rows: Indices, cols: Indices, values: torch.Tensor | None) -> None:
        """Put values, or zeros, back at some places."""
        where = self._index(rows), self._index(cols)
        self.out[where] = 0 if values is None else values

    def _index(self, values: Indices) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.out.device)
